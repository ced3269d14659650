"""Variation ratio: how often Monte Carlo passes disagree about the class."""

import numpy as np
from torch.nn import functional as F

from .strategy import MONTE_CARLO, Strategy


class VarRatio(Strategy):
    """largest share of Monte Carlo passes off the most frequent class; Freeman 1965, Gal 2017

    1 - (count of the modal class) / T over T passes.
    Time: a pool pass + O(T·N·C·D) for T passes through the head. Memory: O(N·(C + D)).
    """

    reads = MONTE_CARLO

    def query(self, n: int) -> np.ndarray:
        idxs, images = self.dataset.get_unlabeled_data()
        passes, votes = 0, 0
        for p in self.net.mc_probabilities(images):
            passes, votes = passes + 1, votes + F.one_hot(p.argmax(1), p.shape[1])
        return self.top(n, idxs, 1 - votes.amax(1) / passes)
