"""Data sets: one file for each family; found by deepal_galot.registry.datasets."""
