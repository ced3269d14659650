"""Random sampling, the baseline."""

import numpy as np

from .strategy import Strategy


class RandomSampling(Strategy):
    """uniformly random images; the reference that every other strategy must beat

    Time and memory: O(N), without a pool pass.
    """

    aliases = ("Random", "RandomSamping")  # the second is how the paper's Table 1 spells it

    def query(self, n: int) -> np.ndarray:
        idxs = np.flatnonzero(~self.dataset.labeled_idxs)
        return np.random.choice(idxs, min(n, len(idxs)), replace=False)
