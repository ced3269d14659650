"""MeanSTD: how far the class probabilities spread over Monte Carlo passes."""

import numpy as np

from .strategy import MONTE_CARLO, Strategy


class MeanSTD(Strategy):
    """largest mean standard deviation of the classes over passes; Kampffmeyer et al. 2016

    mean_k sqrt(mean_t p_tk² - (mean_t p_tk)²) over T passes.
    Time: a pool pass + O(T·N·C·D) for T passes through the head. Memory: O(N·(C + D)).
    """

    reads = MONTE_CARLO

    def query(self, n: int) -> np.ndarray:
        idxs, images = self.dataset.get_unlabeled_data()
        passes, total, squares = 0, 0.0, 0.0
        for p in self.net.mc_probabilities(images):
            p = p.double()  # the variance is a difference of two close numbers
            passes, total, squares = passes + 1, total + p, squares + p.square()
        variance = squares / passes - (total / passes).square()
        return self.top(n, idxs, variance.clamp_min(0).sqrt().mean(1))
