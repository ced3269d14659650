"""Deep layer aggregation for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation

from .base import Classifier, GlobalAverage, init_convolutions


class DLA(Classifier):
    """residual blocks in trees, each tree's outputs merged by a 1×1 convolution; Yu et al. 2018

    The usual form for 32 px: the channels and trees of DLA-34, but three halvings instead of five,
    and residual blocks as the links from a stage's input to its root.
    """

    name = "dla"
    capturable = True
    embedding_dim = 512

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        stem = [
            Conv2dNormActivation(n_in, n_out, 3)
            for n_in, n_out in ((image_shape[2], 16), (16, 16), (16, 32))
        ]
        self.stages = nn.ModuleList(
            [
                nn.Sequential(*stem, Tree(1, 32, 64, stride=1)),
                Tree(2, 64, 128, stride=2),
                Tree(2, 128, 256, stride=2),
                Tree(1, 256, 512, stride=2),
            ]
        )
        init_convolutions(self)
        self.neck, self.head = GlobalAverage(), nn.Linear(512, n_classes)


class Tree(nn.Module):
    """Hierarchical deep aggregation: 2^depth residual blocks below one root.

    The parts run one after the other, each on the output of the part before: trees of depth
    depth − 1, …, 1, then two blocks. The root merges the outputs of all parts. If depth > 1, it
    also merges the input, which another block brings to the same shape.
    """

    def __init__(self, depth: int, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        first, *rest = [*range(depth - 1, 0, -1), 0, 0]  # a block is a tree of depth 0
        self.parts = nn.ModuleList([_tree_or_block(first, in_channels, out_channels, stride)])
        self.parts.extend(_tree_or_block(d, out_channels, out_channels, 1) for d in rest)
        self.link = _tree_or_block(0, in_channels, out_channels, stride) if depth > 1 else None
        n_merged = len(self.parts) + (self.link is not None)
        self.root = Conv2dNormActivation(n_merged * out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, ⌈H/stride⌉, ⌈W/stride⌉]."""
        merged = [] if self.link is None else [self.link(x)]
        for part in self.parts:
            x = part(x)
            merged.append(x)
        return self.root(torch.cat(merged, 1))


def _tree_or_block(depth: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if depth:
        return Tree(depth, in_channels, out_channels, stride)
    shortcut = None
    if stride > 1 or in_channels != out_channels:
        shortcut = Conv2dNormActivation(in_channels, out_channels, 1, stride, activation_layer=None)
    return BasicBlock(in_channels, out_channels, stride, shortcut)
