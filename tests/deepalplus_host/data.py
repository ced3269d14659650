"""A pool, its labels, and a test set."""

import numpy as np
from torchvision import datasets


class Data:
    def __init__(self, X_train, Y_train, X_test, Y_test, handler, args_task):
        self.X_train, self.Y_train, self.X_test, self.Y_test = X_train, Y_train, X_test, Y_test
        self.handler, self.args_task = handler, args_task
        self.n_pool, self.n_test = len(X_train), len(X_test)
        self.labeled_idxs = np.zeros(self.n_pool, dtype=bool)

    def initialize_labels(self, num):
        order = np.arange(self.n_pool)
        np.random.shuffle(order)
        self.labeled_idxs[order[:num]] = True

    def _part(self, mask):
        idxs = np.flatnonzero(mask)
        return idxs, self.get_new_data(self.X_train[idxs], self.Y_train[idxs])

    def get_new_data(self, X, Y):
        return self.handler(X, Y, self.args_task["transform_train"])

    def get_labeled_data(self):
        return self._part(self.labeled_idxs)

    def get_unlabeled_data(self):
        return self._part(~self.labeled_idxs)

    def get_train_data(self):
        return self.labeled_idxs.copy(), self._part(np.ones(self.n_pool, bool))[1]

    def get_partial_labeled_data(self):
        return self.X_train[self.labeled_idxs], self.Y_train[self.labeled_idxs]

    def get_test_data(self):
        return self.handler(self.X_test, self.Y_test, self.args_task["transform"])

    def cal_test_acc(self, preds):
        return (self.Y_test == preds).float().mean().item()


def from_torchvision(name, handler, args_task):
    train, test = (
        getattr(datasets, name)(f"./data/{name}", train=part, download=True)
        for part in (True, False)
    )
    return Data(train.data, train.targets, test.data, test.targets, handler, args_task)
