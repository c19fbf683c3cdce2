"""Checks of the package on one card (or on the CPU), prepared beforehand: ``python tests/device/check.py``."""
