"""A grid of models, distillers, sizes and seeds; each experiment is an ordinary run with its record."""
