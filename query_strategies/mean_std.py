"""MeanSTD: how far the class probabilities spread over Monte Carlo passes."""

import numpy as np
from torch import Tensor

from .strategy import MONTE_CARLO, Strategy


class MeanSTD(Strategy):
    """largest mean standard deviation of the classes over passes; Kampffmeyer et al. 2016

    mean_k std_t(p_tk) over T Monte Carlo passes, the standard deviation that divides by T.
    Time: a pool pass + O(T·N·C·D) for T passes through the head. Memory: O(N·(C + D)).
    """

    reads = MONTE_CARLO

    def query(self, n: int) -> np.ndarray:
        return self.top_of_passes(n, self.score)

    @staticmethod
    def score(p: Tensor) -> Tensor:
        """[T, B, K] -> [B]."""
        return p.std(0, correction=0).mean(1)
