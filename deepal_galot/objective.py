"""What a fit minimises, and how a strategy brings an objective and modules of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .classifiers.base import Classifier

Context = Callable[[], AbstractContextManager]


class Batch(NamedTuple):
    """What one step trains on.

    Attributes:
        x: [B, C, H, W] normalised images; y: [B] int64 labels.
        weight: [B] of each image's loss, 1 on the average of the training set; None for all 1.
    """

    x: Tensor
    y: Tensor
    weight: Tensor | None = None


class Objective(nn.Module):
    """Mean cross-entropy. A strategy sets `net.objective` to an instance of a subclass.

    What a subclass registers as sub-modules in `build` is trained jointly with the classifier,
    stored with it and restored with it.

    Attributes:
        dropout: applied to the embedding before the head, in training; None for none.
        label_smoothing: share of a label that is spread over all classes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dropout: HeadDropout | None = None
        self.label_smoothing = 0.0

    def build(self, clf: Classifier, image_shape: tuple[int, int, int]) -> None:
        """Make fresh sub-modules for a fresh classifier; draws from torch's global generator,
        which the learner seeds after the classifier's own weights, so those stay the same."""

    def backward(self, clf: Classifier, batch: Batch, progress: float, autocast: Context) -> None:
        """Add one batch's gradients to the parameters.

        Args:
            clf: in training mode.
            progress: share of the fit that is done, in [0, 1).
            autocast: opens the forward pass's precision.
        """
        with autocast():
            logits, embedding = clf(batch.x)
            if self.dropout is not None:
                logits = clf.head(self.dropout(embedding))
            loss = self.losses(logits, batch).mean()
        loss.backward()

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """[B, K] logits -> [B] cross-entropies, float32, smoothed and weighted."""
        losses = F.cross_entropy(
            logits.float(), batch.y, reduction="none", label_smoothing=self.label_smoothing
        )
        return losses if batch.weight is None else losses * batch.weight


class HeadDropout(nn.Module):
    """Inverted dropout whose masks come from a stream of its own, the same on every device."""

    def __init__(self, p: float, rng: torch.Generator) -> None:
        super().__init__()
        self.p, self.rng = p, rng

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, D]; each entry is 0 with probability p, else x / (1 - p)."""
        return dropout_masks(tuple(x.shape), self.p, self.rng).to(x.device) * (x / (1 - self.p))


def dropout_masks(shape: tuple[int, ...], p: float, rng: torch.Generator | None = None) -> Tensor:
    """Boolean [*shape] on the CPU, False with probability p; rng: torch's global one by default."""
    return torch.rand(shape, generator=rng) >= p
