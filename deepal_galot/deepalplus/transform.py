"""A data set's test transform as differentiable tensor operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from ..errors import UserError

SMOOTH = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)
Step = Callable[[Tensor], Tensor]


def differentiable(transform: Any) -> Step:
    """Turn a torchvision transform of PIL images into a function of tensors.

    Args:
        transform: ToTensor, Resize, CenterCrop, Normalize, Grayscale, or a Compose of them.

    Returns:
        [B, C, H, W] float in [0, 1] -> [B, C', H', W']. Where the transform resizes, it rounds to
        1/255; this function does not.

    Raises:
        UserError: no gradient can be taken through a step.
    """
    steps = list(_steps(transform))

    def apply(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return apply


def _steps(transform: Any) -> Iterator[Step]:
    if isinstance(transform, transforms.Compose):
        for part in transform.transforms:
            yield from _steps(part)
    elif isinstance(transform, transforms.Resize) and transform.interpolation in SMOOTH:
        yield _resize(transform)
    elif isinstance(transform, transforms.CenterCrop | transforms.Normalize | transforms.Grayscale):
        yield transform
    elif not isinstance(transform, transforms.ToTensor):  # ToTensor only divides by 255
        raise UserError(
            f"the test transform of parameters.py has the step {transform}, through which no "
            f"gradient can be taken here; ToTensor, Resize (bilinear, bicubic), CenterCrop, "
            f"Normalize and Grayscale can be. Add -- --epsilon 0 to go without text optimisation"
        )


def _resize(of: transforms.Resize) -> Step:
    """Resize with antialiasing whatever `of.antialias` says, because PIL does so, too."""

    def resize(x: Tensor) -> Tensor:
        resized = F.resize(x, of.size, of.interpolation, of.max_size, antialias=True)
        return resized.clamp(0, 1)  # bicubic overshoots; PIL's bytes are clipped

    return resize
