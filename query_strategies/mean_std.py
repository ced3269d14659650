"""MeanSTD: how far the class probabilities spread over Monte Carlo passes."""

from torch import Tensor

from .monte_carlo import MonteCarloStrategy


class MeanSTD(MonteCarloStrategy):
    """largest mean standard deviation of the classes over passes; Kampffmeyer et al. 2016

    mean_k std_t(p_tk) over T Monte Carlo passes; the standard deviation divides by T, not T - 1.
    Time and memory: see MonteCarloStrategy.
    """

    @staticmethod
    def score(p: Tensor) -> Tensor:
        # Written out, because torch.std over the first axis takes many times as long.
        return (p - p.mean(0)).square_().mean(0).sqrt().mean(1)
