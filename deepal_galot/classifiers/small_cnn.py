"""A network small enough for a laptop."""

from __future__ import annotations

from torch import Tensor, nn

from .base import Classifier


class SmallCNN(Classifier):
    """three convolutions with BatchNorm, one hidden layer of 128; 8–64 px, trains on a CPU"""

    name = "small_cnn"
    embedding_dim = 128

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        height, width, channels = image_shape
        layers: list[nn.Module] = []
        for out_channels, pool_from in ((32, 16), (64, 8), (128, 32)):
            layers += [
                nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
            if min(height, width) >= pool_from:
                layers.append(nn.MaxPool2d(2))
            channels = out_channels
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.hidden = nn.Sequential(nn.Linear(4 * channels, self.embedding_dim), nn.ReLU())
        self.head = nn.Linear(self.embedding_dim, n_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.hidden(self.features(x))
        return self.head(embedding), embedding
