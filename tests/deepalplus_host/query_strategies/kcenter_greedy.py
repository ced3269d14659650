import numpy as np

from .strategy import Strategy


class KCenterGreedy(Strategy):
    def query(self, n):
        covered, data = self.dataset.get_train_data()
        points = self.get_embeddings(data).numpy()
        picks = []
        for _ in range(n):
            open_idxs = np.flatnonzero(~covered)
            gaps = np.linalg.norm(points[open_idxs][:, None] - points[covered][None], axis=2)
            picks.append(open_idxs[gaps.min(1).argmax()])
            covered[picks[-1]] = True
        return np.array(picks)
