"""Least confidence of the Monte Carlo mean."""

from torch import Tensor

from deepal_galot.acquisition import least_confidence

from .monte_carlo import MonteCarloStrategy


class LeastConfidenceDropout(MonteCarloStrategy):
    """smallest top probability of the mean Monte Carlo prediction; Gal & Ghahramani 2016

    Time and memory: see MonteCarloStrategy.
    """

    @staticmethod
    def score(p: Tensor) -> Tensor:
        return least_confidence(p.mean(0).log())  # log-probabilities are logits
