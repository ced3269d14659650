"""Strategies."""

from .entropy_sampling import EntropySampling as EntropySampling
from .kcenter_greedy import KCenterGreedy as KCenterGreedy
from .kmeans_sampling_gpu import KMeansSamplingGPU as KMeansSamplingGPU
from .least_confidence import LeastConfidence as LeastConfidence
from .margin_sampling import MarginSampling as MarginSampling
from .margin_sampling_dropout import MarginSamplingDropout as MarginSamplingDropout
from .random_sampling import RandomSampling as RandomSampling
from .waal import WAAL as WAAL
