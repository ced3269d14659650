"""A network that is new in each fit, and its fit."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader


class SmallNet(nn.Module):
    """[B, C, H, W] -> (logits, embeddings); with BatchNorm, as the networks that it stands for."""

    def __init__(self, channels, num_classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 5, stride=3), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.classifier = nn.Linear(64, num_classes)

    def forward(self, x):
        embedding = self.body(x)
        return self.classifier(embedding), embedding

    def get_embedding_dim(self):
        return 64


class Net:
    def __init__(self, net, params, device):
        self.net, self.params, self.device = net, params, device

    def train(self, data):
        channels = data[0][0].shape[0]
        self.clf = self.net(channels, self.params["num_class"]).to(self.device)
        self.clf.train()
        optimizer = torch.optim.Adam(self.clf.parameters(), **self.params["optimizer_args"])
        loader = DataLoader(data, shuffle=True, **self.params["loader_tr_args"])
        for _ in range(self.params["n_epoch"]):
            for x, y, _ in loader:
                optimizer.zero_grad()
                F.cross_entropy(self.clf(x.to(self.device))[0], y.to(self.device)).backward()
                optimizer.step()

    @torch.no_grad()
    def _outputs(self, data):
        self.clf.eval()
        loader = DataLoader(data, shuffle=False, **self.params["loader_te_args"])
        parts = [self.clf(x.to(self.device)) for x, _, _ in loader]
        return [torch.cat(of_all).cpu() for of_all in zip(*parts, strict=True)]

    def predict(self, data):
        return self._outputs(data)[0].argmax(1)

    def predict_prob(self, data):
        return self._outputs(data)[0].softmax(1)

    def get_embeddings(self, data):
        return self._outputs(data)[1]

    def get_model(self):
        return self.clf
