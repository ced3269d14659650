"""Variation ratio: how often Monte Carlo passes disagree about the class."""

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from .strategy import MONTE_CARLO, Strategy


class VarRatio(Strategy):
    """largest share of Monte Carlo passes off the most frequent class; Freeman 1965, Gal 2017

    1 - (count of the modal class) / T over T Monte Carlo passes.
    Time: a pool pass + O(T·N·C·D) for T passes through the head. Memory: O(N·(C + D)).
    """

    reads = MONTE_CARLO

    def query(self, n: int) -> np.ndarray:
        return self.top_of_passes(n, self.score)

    @staticmethod
    def score(p: Tensor) -> Tensor:
        """[T, B, K] -> [B]."""
        votes = F.one_hot(p.argmax(2), p.shape[2]).sum(0)
        return 1 - votes.amax(1) / len(p)
