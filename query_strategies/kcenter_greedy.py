"""CoreSet by greedy k-center."""

import numpy as np
from torch import Tensor

from deepal_galot.clustering import k_center

from .strategy import Strategy


class KCenterGreedy(Strategy):
    """images farthest from all labeled ones in embedding space (CoreSet); Sener & Savarese 2018

    Greedy k-center that starts from the labeled images. Each image keeps one distance, to the
    nearest center so far. Time: a pool pass + O((L + n)·N·D). Memory: O(N·D).
    """

    aliases = ("CoreSet",)

    def query(self, n: int) -> np.ndarray:
        _, labeled = self.dataset.get_labeled_data()
        idxs, unlabeled = self.dataset.get_unlabeled_data()
        covered = self.net.outputs(labeled).embeddings
        points, centers = self.reduce(self.net.outputs(unlabeled).embeddings, covered)
        return idxs[k_center(points, centers, min(n, len(idxs))).cpu().numpy()]

    def reduce(self, points: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
        """Map embeddings to the space in which distances are taken; here they stay unchanged."""
        return points, centers
