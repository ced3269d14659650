"""BALD: mutual information between the prediction and the network's weights."""

import numpy as np
import torch
from torch import Tensor

from .strategy import MONTE_CARLO, Strategy


class BALDDropout(Strategy):
    """largest mutual information of prediction and weights; Houlsby et al. 2011, Gal et al. 2017

    H(mean_t p_t) - mean_t H(p_t) over T Monte Carlo passes, in nats.
    Time: a pool pass + O(T·N·C·D) for T passes through the head. Memory: O(N·(C + D)).
    """

    aliases = ("BALD",)
    reads = MONTE_CARLO

    def query(self, n: int) -> np.ndarray:
        return self.top_of_passes(n, self.score)

    @staticmethod
    def score(p: Tensor) -> Tensor:
        """[T, B, K] -> [B]."""
        p = p.double()  # the information is a difference of two close numbers
        entropy = torch.special.entr  # -p log p, and 0 at p = 0
        return entropy(p.mean(0)).sum(1) - entropy(p).sum(2).mean(0)
