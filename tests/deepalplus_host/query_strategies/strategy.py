class Strategy:
    def __init__(self, dataset, net, args_input, args_task):
        self.dataset, self.net = dataset, net
        self.args_input, self.args_task = args_input, args_task

    def query(self, n):
        pass

    def update(self, pos_idxs, neg_idxs=None):
        self.dataset.labeled_idxs[pos_idxs] = True

    def train(self, data=None, model_name=None):
        self.net.train(self.dataset.get_labeled_data()[1] if data is None else data)

    def get_labeled_count(self):
        return len(self.dataset.get_labeled_data()[0])

    def predict(self, data):
        return self.net.predict(data)

    def predict_prob(self, data):
        return self.net.predict_prob(data)

    def get_embeddings(self, data):
        return self.net.get_embeddings(data)

    def get_model(self):
        return self.net.get_model()
