"""Data sets: one file a family; each class is found by deepal_galot.registry.datasets."""
