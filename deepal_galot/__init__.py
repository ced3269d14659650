"""GALOT and the deep-active-learning baselines on one harness (arXiv 2412.16227)."""

__version__ = "0.1.0"
