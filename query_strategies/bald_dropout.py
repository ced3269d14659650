"""BALD: mutual information between the prediction and the network's weights."""

import numpy as np
import torch

from .strategy import MONTE_CARLO, Strategy


class BALDDropout(Strategy):
    """largest mutual information of prediction and weights; Houlsby et al. 2011, Gal et al. 2017

    H(mean_t p_t) - mean_t H(p_t) over T Monte Carlo passes, in nats.
    Time: a pool pass + O(T·N·C·D) for T passes through the head. Memory: O(N·(C + D)).
    """

    aliases = ("BALD",)
    reads = MONTE_CARLO

    def query(self, n: int) -> np.ndarray:
        idxs, images = self.dataset.get_unlabeled_data()
        passes, total, entropies = 0, 0.0, 0.0
        for p in self.net.mc_probabilities(images):
            p = p.double()  # the information is a difference of two close numbers
            passes, total = passes + 1, total + p
            entropies = entropies + torch.special.entr(p).sum(1)
        information = torch.special.entr(total / passes).sum(1) - entropies / passes
        return self.top(n, idxs, information)
