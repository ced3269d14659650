"""What a fit minimises, and how a strategy brings an objective and modules of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
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
        kept: [B, D] bool, what head dropout leaves of the embeddings; None without it.
    """

    x: Tensor
    y: Tensor
    weight: Tensor | None = None
    kept: Tensor | None = None


class Objective(nn.Module):
    """Mean cross-entropy. A strategy sets `net.objective` to an instance of a subclass.

    What a subclass registers as sub-modules in `build` is trained jointly with the classifier,
    stored with it and restored with it.

    Attributes:
        dropout: of the embedding before the head, in training; None for none.
        label_smoothing: share of a label that is spread over all classes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dropout: HeadDropout | None = None
        self.label_smoothing = 0.0

    @property
    def capturable(self) -> bool:
        """Whether `backward` can be recorded as a CUDA graph: it does not look at `progress`, asks
        nothing of the CPU, draws nothing there, and uses weights, which may be in 16 bits then, by
        calling their layers, once a step. Not if a subclass computes the loss itself, which may set
        this True."""
        own = type(self)
        return own.backward is Objective.backward and own.losses is Objective.losses

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
            if batch.kept is not None:
                logits = clf.head(self.dropout.applied(embedding, batch.kept))
            loss = self.losses(logits, batch).mean()
        loss.backward()

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """[B, K] logits -> [B] cross-entropies, float32, smoothed and weighted."""
        losses = F.cross_entropy(
            logits.float(), batch.y, reduction="none", label_smoothing=self.label_smoothing
        )
        return losses if batch.weight is None else losses * batch.weight


@dataclass(frozen=True)
class HeadDropout:
    """Inverted dropout: an entry is 0 with probability p, else x / (1 - p).

    Attributes:
        rng: its masks are drawn on the CPU from a stream of their own, the same on every device.
    """

    p: float
    rng: torch.Generator

    def draw(self, n: int, width: int) -> Tensor:
        """[n, width] bool on the CPU: what is kept."""
        return dropout_masks((n, width), self.p, self.rng)

    def applied(self, x: Tensor, kept: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        return kept * (x / (1 - self.p))


def dropout_masks(shape: tuple[int, ...], p: float, rng: torch.Generator | None = None) -> Tensor:
    """Boolean [*shape] on the CPU, False with probability p; rng: torch's global one by default."""
    return torch.rand(shape, generator=rng) >= p
