import numpy as np

from .strategy import Strategy


class RandomSampling(Strategy):
    def query(self, n):
        return np.random.permutation(np.flatnonzero(~self.dataset.labeled_idxs))[:n]
