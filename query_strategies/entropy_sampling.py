"""Entropy sampling."""

import numpy as np

from deepal_galot.acquisition import entropy

from .strategy import Strategy


class EntropySampling(Strategy):
    """largest Shannon entropy of the prediction; Shannon 1948; a pool pass + O(N log N)"""

    def query(self, n: int) -> np.ndarray:
        idxs, images = self.dataset.get_unlabeled_data()
        return self.top(n, idxs, entropy(self.predict_logits(images)))
