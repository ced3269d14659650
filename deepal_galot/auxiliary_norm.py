"""Separate batch statistics for real and generated images (AdvProp, Xie et al. 2020).

Generated images may have another distribution than real ones. In a common BatchNorm they would
shift the statistics that normalise the test images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class Rows:
    """Which rows of the current batch are real and which are generated; shared by all layers.

    Attributes:
        real, generated: int64 positions in the batch.
        back: [B] position of each image of the batch in torch.cat([real, generated]).
    """

    def __init__(self) -> None:
        self.set(torch.zeros(0, dtype=torch.bool))

    def set(self, generated: Tensor) -> None:
        """Set the generated rows, [B] bool; called before each batch."""
        self.real, self.generated = (~generated).nonzero()[:, 0], generated.nonzero()[:, 0]
        self.back = torch.cat([self.real, self.generated]).argsort()


class AuxiliaryBatchNorm(nn.Module):
    """Two BatchNorms with separate weights: real images use `main`, generated ones `auxiliary`. If
    a batch has no images of a kind, that kind's statistics do not change."""

    def __init__(self, main: _BatchNorm, rows: Rows) -> None:
        super().__init__()
        self.main, self.auxiliary, self.rows = main, copy.deepcopy(main), rows

    def forward(self, x: Tensor) -> Tensor:
        real = _normalised(self.main, x[self.rows.real])
        generated = _normalised(self.auxiliary, x[self.rows.generated])
        return torch.cat([real, generated])[self.rows.back]


def _normalised(norm: _BatchNorm, x: Tensor) -> Tensor:
    """norm(x) for any number of rows, also 0 and 1.

    In training, a single value per channel has no variance. It becomes the offset, as two equal
    values would. The running statistics do not change, because it would pull the variance towards
    0.
    """
    if len(x) == 0:
        return x
    if norm.training and x[:, 0].numel() == 1:
        twice = torch.cat([x, x])
        return F.batch_norm(twice, None, None, norm.weight, norm.bias, True, eps=norm.eps)[:1]
    return norm(x)


def set_apart(clf: nn.Module) -> Rows:
    """Replace each BatchNorm of a classifier by a pair of them, until `join`."""
    rows = Rows()
    _replace(clf, _BatchNorm, lambda norm: AuxiliaryBatchNorm(norm, rows))
    return rows


def join(clf: nn.Module) -> None:
    """Undo set_apart: keep the real images' BatchNorms."""
    _replace(clf, AuxiliaryBatchNorm, lambda pair: pair.main)


def _replace(clf: nn.Module, kind: type, new: Callable[[Any], nn.Module]) -> None:
    for module in list(clf.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, kind):
                setattr(module, name, new(child))
