"""Least-confidence sampling."""

import numpy as np

from deepal_galot.acquisition import least_confidence

from .strategy import Strategy


class LeastConfidence(Strategy):
    """smallest top probability; Lewis & Catlett 1994; O(N log N) + a pool pass"""

    def query(self, n: int) -> np.ndarray:
        idxs, images = self.dataset.get_unlabeled_data()
        return self.top(n, idxs, least_confidence(self.predict_logits(images)))
