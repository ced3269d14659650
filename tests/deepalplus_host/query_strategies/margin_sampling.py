from .strategy import Strategy


class MarginSampling(Strategy):
    def query(self, n):
        idxs, data = self.dataset.get_unlabeled_data()
        two = self.predict_prob(data).topk(2).values
        return idxs[(two[:, 0] - two[:, 1]).argsort()[:n]]
