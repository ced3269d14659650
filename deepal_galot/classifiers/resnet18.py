"""ResNet18 for small images, with and without max-pooling."""

from __future__ import annotations

import torchvision
from torch import nn

from .base import Classifier, GlobalAverage, init_convolutions


class ResNet18(Classifier):
    """ResNet18 with a 3×3 stem and no max-pooling, the usual form for 32 px; He et al. 2016"""

    name = "resnet18"
    capturable = True
    embedding_dim = 512
    max_pool = False

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        net = torchvision.models.resnet18(weights=None, num_classes=n_classes)
        net.conv1 = nn.Conv2d(image_shape[2], 64, 3, padding=1, bias=False)
        init_convolutions(net.conv1)
        stem = [net.conv1, net.bn1, net.relu] + [net.maxpool] * self.max_pool
        self.stages = nn.ModuleList(
            [nn.Sequential(*stem, net.layer1), net.layer2, net.layer3, net.layer4]
        )
        self.neck, self.head = GlobalAverage(), net.fc


class ResNet18MaxPool(ResNet18):
    """DeepALPlus's ResNet18: 3×3 stem, max-pooling to half size, 4× cheaper; Zhan et al. 2022"""

    name = "resnet18_maxpool"
    capturable = True
    max_pool = True
