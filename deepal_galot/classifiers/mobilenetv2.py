"""MobileNetV2 for small images."""

from __future__ import annotations

import torchvision
from torch import nn

from .base import Classifier, GlobalAverage, init_convolutions

# Expansion, channels, blocks and stride of each group, as in the paper's table 2, except that the
# second group has stride 1. The stem, too, has stride 1 and not 2. So each side has 8 times fewer
# pixels at the end, where ImageNet's form has 32 times fewer.
GROUPS = [
    [1, 16, 1, 1],
    [6, 24, 2, 1],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]


class MobileNetV2(Classifier):
    """MobileNetV2 that halves an image three times, not five, for 32 px; Sandler et al. 2018"""

    name = "mobilenetv2"
    capturable = True
    embedding_dim = 1280

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        net = torchvision.models.MobileNetV2(n_classes, inverted_residual_setting=GROUPS)
        body = net.features
        body[0][0] = nn.Conv2d(image_shape[2], 32, 3, padding=1, bias=False)
        init_convolutions(body[0])
        # Split before each block of stride 2: blocks 4, 7 and 14, the stem being block 0.
        self.stages = nn.ModuleList([body[:4], body[4:7], body[7:14], body[14:]])
        self.neck, self.head = GlobalAverage(), net.classifier[1]  # [0] is dropout
