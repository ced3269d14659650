"""DenseNet121 for small images."""

from __future__ import annotations

import torchvision
from torch import nn

from .base import Classifier, GlobalAverage


class DenseNet121(Classifier):
    """DenseNet121 with a 3×3 stem and no max-pooling, the form for 32 px; Huang et al. 2017"""

    name = "densenet121"
    capturable = True
    embedding_dim = 1024

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        net = torchvision.models.densenet121(weights=None, num_classes=n_classes)
        body = net.features
        stem = nn.Conv2d(image_shape[2], 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight)  # fan-in, as in torchvision's DenseNet
        # torchvision applies the last ReLU outside `features`.
        self.stages = nn.ModuleList(
            [
                nn.Sequential(stem, body.norm0, body.relu0, body.denseblock1),
                nn.Sequential(body.transition1, body.denseblock2),
                nn.Sequential(body.transition2, body.denseblock3),
                nn.Sequential(
                    body.transition3, body.denseblock4, body.norm5, nn.ReLU(inplace=True)
                ),
            ]
        )
        self.neck, self.head = GlobalAverage(), net.classifier
