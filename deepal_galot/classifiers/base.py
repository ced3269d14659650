"""Base class of classifiers, and parts that they share.

To add a classifier, write a file in this folder (or a plug-in) with a subclass of Classifier.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import UserError


class Classifier(nn.Module):
    """Base class of classifiers; the first docstring line is shown by --list.

    A subclass is called as `cls(image_shape, n_classes)` with image_shape = (H, W, C), from 8×8 to
    224×224 pixels, and sets the attributes below. All its random numbers come from torch's global
    generator, which the learner seeds.

    Attributes:
        stages: the body in the order of computation. Each stage outputs a feature map
            [B, C_i, H_i, W_i]; resolution falls from stage to stage.
        neck: the last feature map -> embedding [B, D].
        head: embedding -> logits [B, K], linear.
        embedding_dim: D.
        capturable: whether a training step may be recorded as a CUDA graph, which is several times
            as fast with small batches. It may if three conditions hold:
            forward does not wait for the CPU (`.item()`, `nonzero`);
            nothing in Python changes from step to step (counters, random numbers, hooks);
            weights of convolutions and linear layers are only used by calling the layer, under the
            autocast that is active, because they may be 16-bit copies.
            Each class must set it for itself; it is not inherited.
    """

    capturable: ClassVar[bool] = False
    stages: nn.ModuleList
    neck: nn.Module
    head: nn.Linear
    embedding_dim: int

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.capturable = vars(cls).get("capturable", False)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """[B, C, H, W] normalised images -> the feature map of each stage.

        Raises:
            UserError: a subclass defines its own forward and has no stages.
        """
        if not hasattr(self, "stages"):
            raise UserError(
                f"the classifier {type(self).__name__} has no `stages`, whose feature maps are "
                f"wanted: give it stages, neck and head (see {__name__}), or use another strategy"
            )
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] normalised images -> (logits [B, K], embedding [B, D])."""
        embedding = self.neck(self.feature_maps(x)[-1])
        return self.head(embedding), embedding

    def get_embedding_dim(self) -> int:
        """D; DeepALPlus calls this method."""
        return self.embedding_dim


def check_outputs(clf: Classifier, answer: object, n: int, n_classes: int) -> None:
    """Check what `forward` returned for n images, in training or in eval mode.

    Raises:
        UserError: not ([n, n_classes] logits, [n, D] embeddings), or the classifier has no
            embedding_dim.
    """
    who = f"the classifier {type(clf).__name__}"
    if not isinstance(getattr(clf, "embedding_dim", None), Integral):
        raise UserError(f"{who} has no `embedding_dim`: the length D of its embeddings, a number")
    gives = f"{who}: forward gives" if clf.training else f"{who}: in eval mode forward gives"
    pair = isinstance(answer, tuple | list) and len(answer) == 2
    if not pair or not all(isinstance(part, Tensor) for part in answer):
        raise UserError(
            f"{gives} {type(answer).__name__}, not a pair (logits [B, K], embedding [B, D])"
        )
    widths = {"logits": n_classes, "embeddings": clf.embedding_dim}
    for (name, width), part in zip(widths.items(), answer, strict=True):
        if part.shape != (n, width):
            raise UserError(
                f"{gives} {name} of shape {list(part.shape)}, not {[n, width]}, of {n} images "
                f"with {n_classes} classes and embedding_dim {clf.embedding_dim}"
            )


def check_trainable(clf: Classifier, logits: Tensor) -> None:
    """
    Raises:
        UserError: logits of training mode, with gradients enabled, have no gradient.
    """
    if not logits.requires_grad:
        raise UserError(
            f"the classifier {type(clf).__name__}: no gradient gets from its logits "
            f"({logits.dtype}) to a parameter, so there is nothing to train: do not detach or "
            f"round them, and freeze not all of it"
        )


def frozen_call(clf: nn.Module, x: Tensor) -> Any:
    """clf(x), with gradients to x but not to the weights."""
    tensors = dict(clf.named_parameters()) | dict(clf.named_buffers())
    return torch.func.functional_call(clf, {k: v.detach() for k, v in tensors.items()}, (x,))


class GlobalAverage(nn.Module):
    """[B, C, H, W] -> [B, C], the mean over pixels; the gradient is deterministic on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def init_convolutions(module: nn.Module) -> None:
    """Initialise convolutions by He et al. 2015 with fan-out, as torchvision does for ResNet, VGG
    and MobileNetV2."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
