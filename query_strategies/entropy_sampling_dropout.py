"""Entropy of the Monte Carlo mean."""

from torch import Tensor

from deepal_galot.acquisition import entropy

from .monte_carlo import MonteCarloStrategy


class EntropySamplingDropout(MonteCarloStrategy):
    """largest entropy of the mean Monte Carlo prediction; Gal & Ghahramani 2016

    Time and memory: see MonteCarloStrategy.
    """

    @staticmethod
    def score(p: Tensor) -> Tensor:
        return entropy(p.mean(0).log())  # log-probabilities are logits
