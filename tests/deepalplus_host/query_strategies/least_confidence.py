from .strategy import Strategy


class LeastConfidence(Strategy):
    def query(self, n):
        idxs, data = self.dataset.get_unlabeled_data()
        return idxs[self.predict_prob(data).amax(1).argsort()[:n]]
