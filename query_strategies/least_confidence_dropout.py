"""Least confidence of the Monte Carlo mean."""

import numpy as np

from deepal_galot.acquisition import least_confidence

from .strategy import MONTE_CARLO, Strategy


class LeastConfidenceDropout(Strategy):
    """smallest top probability of the mean Monte Carlo prediction; Gal & Ghahramani 2016

    Time: a pool pass + O(T·N·C·D) for T passes through the head. Memory: O(N·(C + D)).
    """

    reads = MONTE_CARLO

    def query(self, n: int) -> np.ndarray:
        idxs, images = self.dataset.get_unlabeled_data()
        mean = sum(self.net.mc_probabilities(images))
        return self.top(n, idxs, least_confidence(mean.log()))  # the scores normalise
