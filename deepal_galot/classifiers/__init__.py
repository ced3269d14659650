"""Classifiers: one file an architecture; found by deepal_galot.registry.classifiers."""
