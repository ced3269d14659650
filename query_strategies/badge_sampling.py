"""BADGE: diverse batches of large gradients."""

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from deepal_galot.clustering import kmeans_plus_plus

from .strategy import Strategy


class BadgeSampling(Strategy):
    """k-means++ seeds of the last layer's gradients at the predicted labels; Ash et al. 2020

    The gradient of image i is g_i = a_i ⊗ h_i with a = p - onehot(argmax p) and embedding h. It is
    never formed, because ‖g_i - g_j‖² = ‖a_i‖²‖h_i‖² + ‖a_j‖²‖h_j‖² - 2 (a_i·a_j)(h_i·h_j).
    The first image is the one with the largest gradient, as in the authors' code.
    Time: a pool pass + O(n·N·(K + D)). Memory: O(N·(K + D)).
    """

    aliases = ("BADGE",)

    def query(self, n: int) -> np.ndarray:
        idxs, images = self.dataset.get_unlabeled_data()
        n = min(n, len(idxs))
        if n == 0:
            return idxs[:0]
        logits, h = self.net.outputs(images)
        a = logits.softmax(1) - F.one_hot(logits.argmax(1), logits.shape[1])
        squared_norm = a.square().sum(1) * h.square().sum(1)

        def distance_to(i: Tensor) -> Tensor:
            product = (a @ a[i][0]) * (h @ h[i][0])
            return (squared_norm + squared_norm[i] - 2 * product).clamp_min(0)

        largest = squared_norm.argmax()[None]
        return idxs[kmeans_plus_plus(distance_to, largest, n).cpu().numpy()]
