"""Kernels of plain tensors, each with a readable twin in the tests."""
