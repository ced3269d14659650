"""ResNet18 for small images."""

from __future__ import annotations

import torchvision
from torch import Tensor, nn

from .base import Classifier


class ResNet18(Classifier):
    """ResNet18 with a 3×3 stem and no max-pooling, the usual form for 32 px; He et al. 2016"""

    name = "resnet18"
    embedding_dim = 512

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        net = torchvision.models.resnet18(weights=None, num_classes=n_classes)
        net.conv1 = nn.Conv2d(image_shape[2], 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        net.maxpool = nn.Identity()
        self.head, net.fc = net.fc, nn.Identity()
        self.features = net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.features(x)
        return self.head(embedding), embedding
