"""VGG16 with BatchNorm and one linear layer on top."""

from __future__ import annotations

from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from .base import Classifier, GlobalAverage, init_convolutions


class VGG16(Classifier):
    """13 convolutions with BatchNorm and 5 max-poolings, one linear layer; Simonyan, Zisserman 2015

    Configuration D without the two hidden layers of 4,096, as usual for small images.
    """

    name = "vgg16"
    capturable = True
    embedding_dim = 512

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        height, width, channels = image_shape
        layers = make_layers(cfgs["D"], batch_norm=True)
        layers[0] = nn.Conv2d(channels, 64, 3, padding=1)
        init_convolutions(layers)
        self.stages, stage = nn.ModuleList(), []
        for layer in layers:
            if isinstance(layer, nn.MaxPool2d):
                # Below 32 px, five halvings are too many: an axis of one pixel is not pooled again.
                window = (min(2, height), min(2, width))
                height, width = height // window[0], width // window[1]
                self.stages.append(nn.Sequential(*stage, nn.MaxPool2d(window)))
                stage = []
            else:
                stage.append(layer)
        self.neck, self.head = GlobalAverage(), nn.Linear(512, n_classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
