"""Tests of the distillation methods, one file each; recbole_derrd.testing says what each file owes."""
