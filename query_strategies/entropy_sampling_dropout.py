"""Entropy of the Monte Carlo mean."""

import numpy as np
from torch import Tensor

from deepal_galot.acquisition import entropy

from .strategy import MONTE_CARLO, Strategy


class EntropySamplingDropout(Strategy):
    """largest entropy of the mean Monte Carlo prediction; Gal & Ghahramani 2016

    Time: a pool pass + O(T·N·C·D) for T passes through the head. Memory: O(N·(C + D)).
    """

    reads = MONTE_CARLO

    def query(self, n: int) -> np.ndarray:
        return self.top_of_passes(n, self.score)

    @staticmethod
    def score(p: Tensor) -> Tensor:
        """[T, B, K] -> [B]."""
        return entropy(p.mean(0).log())  # log-probabilities are logits
