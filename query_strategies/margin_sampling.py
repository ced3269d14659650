"""Margin sampling."""

import numpy as np

from deepal_galot.acquisition import margin

from .strategy import Strategy


class MarginSampling(Strategy):
    """smallest gap of the two top probabilities; Scheffer et al. 2001

    Time: a pool pass + O(N·K + N log N). Memory: O(N·K).
    """

    def query(self, n: int) -> np.ndarray:
        idxs, images = self.dataset.get_unlabeled_data()
        return self.top(n, idxs, margin(self.net.outputs(images).logits))
