"""Kernels of plain tensors. Each names its readable twin; ``tests/benchmarks/kernels.py`` shows what each earns."""
