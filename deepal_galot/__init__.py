"""GALOT and the deep-active-learning baselines on one harness (arXiv 2412.16227)."""

import os

__version__ = "0.1.0"

# Read by OpenMP when torch is loaded: for how long a thread that waits for another keeps its core.
# By default so long that two threads that the system put on one core take dozens of times as long
# (tests/unit/test_threads.py).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
