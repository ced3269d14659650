"""Variation ratio: how often Monte Carlo passes disagree about the class."""

from torch import Tensor

from .monte_carlo import MonteCarloStrategy


class VarRatio(MonteCarloStrategy):
    """largest share of Monte Carlo passes that differ from the modal class; Freeman 1965, Gal 2017

    1 - (count of the modal class) / T over T Monte Carlo passes.
    Time and memory: see MonteCarloStrategy.
    """

    @staticmethod
    def score(p: Tensor) -> Tensor:
        votes = p.argmax(2)  # [T, B]
        agreeing = (votes == votes[:, None]).sum(1)  # passes that predict the same class
        return 1 - agreeing.amax(0) / len(p)
