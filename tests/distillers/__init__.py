"""Tests of the distillation methods, one file each; contract.py says what each file owes."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.contract")
