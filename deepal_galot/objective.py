"""The loss that a fit minimises, and how a strategy replaces it and adds modules of its own."""

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
    """The images of one step.

    Attributes:
        x: [B, C, H, W] normalised images; y: [B] int64 labels.
        weight: [B] weight of each image's loss, with mean 1 over the training set; None if all are
            1.
        kept: [B, D] bool, the embedding entries that head dropout keeps; None without it.
    """

    x: Tensor
    y: Tensor
    weight: Tensor | None = None
    kept: Tensor | None = None


class Objective(nn.Module):
    """Mean cross-entropy. A strategy sets `net.objective` to an instance of a subclass.

    Sub-modules that a subclass registers in `build` are trained jointly with the classifier, and
    saved and loaded with it.

    Attributes:
        dropout: dropout of the embedding before the head, in training; None for none.
        label_smoothing: share of a label that is spread over all classes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dropout: HeadDropout | None = None
        self.label_smoothing = 0.0

    @property
    def capturable(self) -> bool:
        """Whether `backward` can be recorded as a CUDA graph.

        Conditions: it does not read `progress`, does not wait for the CPU or draw random numbers
        there, and uses weights only by calling their layers, once a step, because the weights may
        be 16-bit copies. False for a subclass with its own `backward` or `losses`, unless it sets
        this True.
        """
        own = type(self)
        return own.backward is Objective.backward and own.losses is Objective.losses

    def build(self, clf: Classifier, image_shape: tuple[int, int, int]) -> None:
        """Make fresh sub-modules for a fresh classifier.

        Draws from torch's global generator, which the learner has seeded. The classifier's own
        weights are drawn before, so they do not depend on these modules.
        """

    def backward(self, clf: Classifier, batch: Batch, progress: float, autocast: Context) -> None:
        """Add one batch's gradients to the parameters.

        Args:
            clf: in training mode.
            progress: share of the fit done so far, in [0, 1).
            autocast: opens a context with the forward pass's precision.
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
    """Inverted dropout: an entry becomes 0 with probability p, else x / (1 - p).

    Attributes:
        rng: draws the masks on the CPU, from its own stream, so they are the same on every device.
    """

    p: float
    rng: torch.Generator

    def draw(self, n: int, width: int) -> Tensor:
        """[n, width] bool on the CPU: True for entries that are kept."""
        return dropout_masks((n, width), self.p, self.rng)

    def applied(self, x: Tensor, kept: Tensor) -> Tensor:
        """Apply a mask [B, D] to x [B, D]."""
        return kept * (x / (1 - self.p))


def dropout_masks(shape: tuple[int, ...], p: float, rng: torch.Generator | None = None) -> Tensor:
    """[*shape] bool on the CPU, False with probability p; rng: torch's global one by default."""
    return torch.rand(shape, generator=rng) >= p
