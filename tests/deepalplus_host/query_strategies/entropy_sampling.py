from .strategy import Strategy


class EntropySampling(Strategy):
    def query(self, n):
        idxs, data = self.dataset.get_unlabeled_data()
        p = self.predict_prob(data)
        return idxs[(-p * p.log()).sum(1).argsort(descending=True)[:n]]
