"""GALOT and the deep-active-learning baselines on one harness (arXiv 2412.16227)."""

import os

__version__ = "0.1.0"

# OpenMP reads this when torch is loaded: how long a waiting thread keeps its core busy. The default
# is so long that two threads on one core take dozens of times as long (tests/unit/test_threads.py).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
