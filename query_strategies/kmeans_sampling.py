"""K-means sampling."""

import numpy as np

from deepal_galot.clustering import k_means, nearest_points

from .strategy import Strategy


class KMeansSampling(Strategy):
    """the image nearest to each of n k-means centroids of the embeddings; Zhdanov 2019, unweighted

    Each centroid takes the nearest image that no earlier centroid has taken.
    Time: a pool pass + O(i·n·N·D) for i ≤ 100 Lloyd iterations. Memory: O(N·D).
    """

    aliases = ("KMeans",)

    def query(self, n: int) -> np.ndarray:
        idxs, images = self.dataset.get_unlabeled_data()
        n = min(n, len(idxs))
        if n == 0:
            return idxs[:0]
        embeddings = self.net.outputs(images).embeddings
        return idxs[nearest_points(embeddings, k_means(embeddings, n)).cpu().numpy()]
