"""Variation ratio: how often Monte Carlo passes disagree about the class."""

from torch import Tensor

from .monte_carlo import MonteCarloStrategy


class VarRatio(MonteCarloStrategy):
    """largest share of Monte Carlo passes off the most frequent class; Freeman 1965, Gal 2017

    1 - (count of the modal class) / T over T Monte Carlo passes.
    Time and memory: see MonteCarloStrategy.
    """

    @staticmethod
    def score(p: Tensor) -> Tensor:
        votes = p.argmax(2)  # [T, B]
        agreeing = (votes == votes[:, None]).sum(1)  # passes that say the same as this one
        return 1 - agreeing.amax(0) / len(p)
