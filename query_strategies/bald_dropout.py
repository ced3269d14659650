"""BALD: mutual information between the prediction and the network's weights."""

import torch
from torch import Tensor

from .monte_carlo import MonteCarloStrategy


class BALDDropout(MonteCarloStrategy):
    """largest mutual information of prediction and weights; Houlsby et al. 2011, Gal et al. 2017

    H(mean_t p_t) - mean_t H(p_t) = mean_t KL(p_t ‖ mean_t p_t) over T Monte Carlo passes, in nats.
    Time and memory: see MonteCarloStrategy.
    """

    aliases = ("BALD",)

    @staticmethod
    def score(p: Tensor) -> Tensor:
        # By the second form, because the first is a difference of two close numbers.
        tiny = torch.finfo(p.dtype).tiny  # 0 log 0 = 0
        log_ratio = (p / p.mean(0).clamp_min(tiny)).clamp_min_(tiny).log_()
        return log_ratio.mul_(p).sum(2).mean(0)
