"""Margin of the Monte Carlo mean."""

from torch import Tensor

from deepal_galot.acquisition import margin

from .monte_carlo import MonteCarloStrategy


class MarginSamplingDropout(MonteCarloStrategy):
    """smallest margin of the mean Monte Carlo prediction; Gal & Ghahramani 2016

    Time and memory: see MonteCarloStrategy.
    """

    @staticmethod
    def score(p: Tensor) -> Tensor:
        return margin(p.mean(0).log())  # log-probabilities are logits
