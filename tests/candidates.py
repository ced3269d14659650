"""Controls behind what .readme/findings.md explains: `--plugin tests/candidates.py`.

…Candidates: the same score, but among 10 n random unlabeled images instead of all of them.
RandomDropout, RandomLoss: random picks on the network that the Monte Carlo samplers and
LossPrediction train.
"""

from dataclasses import replace

import numpy as np

from query_strategies.bald_dropout import BALDDropout
from query_strategies.entropy_sampling import EntropySampling
from query_strategies.entropy_sampling_dropout import EntropySamplingDropout
from query_strategies.least_confidence_dropout import LeastConfidenceDropout
from query_strategies.loss_prediction_loss import LossPredictionLoss
from query_strategies.margin_sampling_dropout import MarginSamplingDropout
from query_strategies.mean_std import MeanSTD
from query_strategies.var_ratio import VarRatio


class _Few:
    """The pool, of whose unlabeled images only some are shown."""

    def __init__(self, pool, n):
        self.pool, self.n = pool, n

    def __getattr__(self, name):
        return getattr(self.pool, name)

    def get_unlabeled_data(self):
        idxs, images = self.pool.get_unlabeled_data()
        shown = np.random.permutation(len(idxs))[: self.n]
        return idxs[shown], replace(images, X=images.X[shown], Y=images.Y[shown])


class _AmongFew:
    def query(self, n):
        whole = self.dataset
        self.dataset = _Few(whole, 10 * n)
        try:
            return super().query(n)
        finally:
            self.dataset = whole


class _AtRandom:
    def query(self, n):
        idxs, _ = self.dataset.get_unlabeled_data()
        return np.random.permutation(idxs)[:n]


class EntropyCandidates(_AmongFew, EntropySampling):
    """EntropySampling among 10 n random candidates"""


class BALDCandidates(_AmongFew, BALDDropout):
    """BALDDropout among 10 n random candidates"""


class MeanSTDCandidates(_AmongFew, MeanSTD):
    """MeanSTD among 10 n random candidates"""


class VarRatioCandidates(_AmongFew, VarRatio):
    """VarRatio among 10 n random candidates"""


class EntropyDropoutCandidates(_AmongFew, EntropySamplingDropout):
    """EntropySamplingDropout among 10 n random candidates"""


class MarginDropoutCandidates(_AmongFew, MarginSamplingDropout):
    """MarginSamplingDropout among 10 n random candidates"""


class LeastConfidenceDropoutCandidates(_AmongFew, LeastConfidenceDropout):
    """LeastConfidenceDropout among 10 n random candidates"""


class RandomDropout(_AtRandom, BALDDropout):
    """random picks on the network with head dropout"""


class RandomLoss(_AtRandom, LossPredictionLoss):
    """random picks on the network with the loss module"""
