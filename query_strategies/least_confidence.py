"""Least confidence."""

import numpy as np

from deepal_galot.acquisition import least_confidence

from .strategy import Strategy


class LeastConfidence(Strategy):
    """smallest top probability; Lewis & Catlett 1994

    Time: a pool pass + O(N·K + N log N). Memory: O(N·K).
    """

    def query(self, n: int) -> np.ndarray:
        idxs, images = self.dataset.get_unlabeled_data()
        return self.top(n, idxs, least_confidence(self.net.outputs(images).logits))
