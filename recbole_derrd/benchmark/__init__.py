"""A grid of models, distillers, sizes and seeds; each cell is an ordinary run with its record."""
