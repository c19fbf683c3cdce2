"""The best student in so many bytes: which dimensions and bits, how it is trained, and what it is compared with."""
