"""A network small enough for a laptop."""

from __future__ import annotations

from torch import nn

from .base import Classifier


class SmallCNN(Classifier):
    """three convolutions with BatchNorm, one hidden layer of 128; trains on a CPU"""

    name = "small_cnn"
    capturable = True
    embedding_dim = 128

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        height, width, channels = image_shape
        self.stages = nn.ModuleList()
        for out_channels, pool_from in ((32, 16), (64, 8), (128, 32)):
            stage = [
                nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
            if min(image_shape[:2]) >= pool_from:
                stage.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            self.stages.append(nn.Sequential(*stage))
            channels = out_channels
        # The same as AdaptiveAvgPool2d(2), whose gradient is not deterministic on a GPU.
        window = (height - height // 2, width - width // 2)
        pool = nn.AvgPool2d(window, stride=(height // 2, width // 2))
        hidden = nn.Linear(4 * channels, self.embedding_dim)
        self.neck = nn.Sequential(pool, nn.Flatten(), hidden, nn.ReLU())
        self.head = nn.Linear(self.embedding_dim, n_classes)
