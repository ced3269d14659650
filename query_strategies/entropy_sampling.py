"""Entropy sampling."""

import numpy as np

from deepal_galot.acquisition import entropy

from .strategy import Strategy


class EntropySampling(Strategy):
    """largest Shannon entropy of the prediction; Shannon 1948

    Time: a pool pass + O(N·K + N log N). Memory: O(N·K).
    """

    def query(self, n: int) -> np.ndarray:
        idxs, images = self.dataset.get_unlabeled_data()
        return self.top(n, idxs, entropy(self.net.outputs(images).logits))
