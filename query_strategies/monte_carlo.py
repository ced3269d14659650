"""Base of the strategies that score several stochastic passes; a subclass only defines `score`."""

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor

from .strategy import Strategy


class MonteCarloStrategy(Strategy, ABC):
    """The images of highest `score` over T Monte Carlo passes.

    Time: a pool pass + O(T·N·K·D) for T passes through the head. Memory: O(N·(K + D)).
    """

    reads = ("mc_passes", "mc_noise", "head_dropout")

    def query(self, n: int) -> np.ndarray:
        idxs, images = self.dataset.get_unlabeled_data()
        if len(idxs) == 0:
            return idxs
        return self.top(n, idxs, self.net.apply_to_passes(images, self.score))

    @staticmethod
    @abstractmethod
    def score(p: Tensor) -> Tensor:
        """[T, B, K] class probabilities of T passes -> [B] scores, higher = more informative."""
