"""BALD: mutual information of the prediction and the network's weights."""

from deepal_galot.acquisition import mutual_information

from .monte_carlo import MonteCarloStrategy


class BALDDropout(MonteCarloStrategy):
    """largest mutual information of prediction and weights; Houlsby et al. 2011, Gal et al. 2017

    Over T Monte Carlo passes; see deepal_galot.acquisition.mutual_information.
    Time and memory: see MonteCarloStrategy.
    """

    aliases = ("BALD",)

    score = staticmethod(mutual_information)
