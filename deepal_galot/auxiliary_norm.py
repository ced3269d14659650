"""Batch statistics of real images apart from those of generated ones (AdvProp, Xie et al. 2020).

Generated images may be distributed otherwise than real ones; in a common BatchNorm they shift the
statistics by which the test images are normalised.
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
    """Which rows of the coming batch are real and which are generated, for all layers.

    Attributes:
        real, generated: int64 positions in the batch.
        back: [B] where each image of the batch is in torch.cat([real, generated]).
    """

    def __init__(self) -> None:
        self.set(torch.zeros(0, dtype=torch.bool))

    def set(self, generated: Tensor) -> None:
        """Before each batch: [B] bool."""
        self.real, self.generated = (~generated).nonzero()[:, 0], generated.nonzero()[:, 0]
        self.back = torch.cat([self.real, self.generated]).argsort()


class AuxiliaryBatchNorm(nn.Module):
    """Two BatchNorms with weights of their own: real images go through `main`, the others through
    `auxiliary`. A batch without images of a kind leaves its statistics alone."""

    def __init__(self, main: _BatchNorm, rows: Rows) -> None:
        super().__init__()
        self.main, self.auxiliary, self.rows = main, copy.deepcopy(main), rows

    def forward(self, x: Tensor) -> Tensor:
        real = _normalised(self.main, x[self.rows.real])
        generated = _normalised(self.auxiliary, x[self.rows.generated])
        return torch.cat([real, generated])[self.rows.back]


def _normalised(norm: _BatchNorm, x: Tensor) -> Tensor:
    """norm(x) of any number of rows, none and one included.

    One value a channel has no variance. In training it becomes the offset, as two equal ones would,
    and the running statistics, which it would pull towards a variance of 0, stay as they are.
    """
    if len(x) == 0:
        return x
    if norm.training and x[:, 0].numel() == 1:
        twice = torch.cat([x, x])
        return F.batch_norm(twice, None, None, norm.weight, norm.bias, True, eps=norm.eps)[:1]
    return norm(x)


def set_apart(clf: nn.Module) -> Rows:
    """Give each BatchNorm of a classifier an auxiliary one, until `join`."""
    rows = Rows()
    _replace(clf, _BatchNorm, lambda norm: AuxiliaryBatchNorm(norm, rows))
    return rows


def join(clf: nn.Module) -> None:
    """Leave the classifier as it was, with the real images' statistics."""
    _replace(clf, AuxiliaryBatchNorm, lambda pair: pair.main)


def _replace(clf: nn.Module, kind: type, new: Callable[[Any], nn.Module]) -> None:
    for module in list(clf.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, kind):
                setattr(module, name, new(child))
