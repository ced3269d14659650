"""CoreSet on the leading principal components."""

import torch
from torch import Tensor

from deepal_galot.clustering import principal_components

from .kcenter_greedy import KCenterGreedy


class KCenterGreedyPCA(KCenterGreedy):
    """CoreSet on the first 50 principal components of all embeddings; as in DeepALPlus

    Time: a pool pass + O(N·D² + (L + n)·N·50). Memory: O(N·D).
    """

    components = 50

    def reduce(self, points: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
        scores = principal_components(torch.cat([points, centers]), self.components)
        return scores[: len(points)], scores[len(points) :]
