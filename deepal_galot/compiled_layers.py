"""Variants of a classifier's layers that a compiler turns into fast GPU kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PIXELS = (0, 2, 3)
ALIGNED = 8  # 16-bit numbers that matrix units read at once; products are padded to it


@contextlib.contextmanager
def in_compiled_forms(model: nn.Module) -> Iterator[None]:
    """Change layers to the forms below; after the block, change them back.

    The results are the same up to rounding. Parameters and buffers stay in the layers.
    """
    kinds = [(m, type(m), form) for m in model.modules() if (form := _form(m)) is not None]
    try:
        for module, _, form in kinds:
            module.__class__ = form
        yield
    finally:
        for module, kind, _ in kinds:
            module.__class__ = kind


def _form(module: nn.Module) -> type[nn.Module] | None:
    """The form for a layer; None if it stays as it is. Only for torch's own classes, not
    subclasses."""
    if type(module) is nn.BatchNorm2d and _has_all_parts(module):
        return SummedBatchNorm2d
    if type(module) is nn.Conv2d and _is_better_as_product(module):
        return ProductConv2d
    return None


def _has_all_parts(norm: nn.BatchNorm2d) -> bool:
    parts = (norm.weight, norm.bias, norm.running_mean, norm.momentum)
    return all(part is not None for part in parts)


def _is_better_as_product(conv: nn.Conv2d) -> bool:
    """Whether a convolution has no suitable cuDNN kernel: few input channels, or 1×1 with a stride.

    On an H200, bfloat16, 512 images of 32 px: a 3×3 stem of 3 channels took 155 μs, its gradient
    194 μs; as products 32 and 33 μs. Other sizes were not measured. The windows need memory for all
    inputs of each output pixel.
    """
    plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    if not plain or isinstance(conv.padding, str):
        return False
    if _is_pointwise(conv):
        return conv.stride != (1, 1)
    return conv.in_channels < ALIGNED


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.padding == (0, 0)


class ProductConv2d(nn.Conv2d):
    """nn.Conv2d as one matrix product with the input windows of all output pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C_out, H', W'], channels last."""
        windows = self._windows(x)
        rows, weight = windows.flatten(0, 2).flatten(1), self.weight.flatten(1)
        missing = -rows.shape[1] % ALIGNED
        if missing:
            rows, weight = F.pad(rows, (0, missing)), F.pad(weight, (0, missing))
        out = F.linear(rows, weight, self.bias)
        return out.unflatten(0, windows.shape[:3]).permute(0, 3, 1, 2)

    def _windows(self, x: Tensor) -> Tensor:
        """[B, H', W', C, k, l] input windows of the output pixels."""
        down, right = self.stride
        if _is_pointwise(self):  # the gradient of slices is fast
            return x[:, :, ::down, ::right].permute(0, 2, 3, 1)[..., None, None]
        top, left = self.padding
        height, width = self.kernel_size
        padded = F.pad(x, (left, left, top, top))
        return padded.unfold(2, height, down).unfold(3, width, right).permute(0, 2, 3, 1, 4, 5)


class SummedBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d that computes the batch's statistics from two sums in one pass.

    A compiler makes fewer kernels from it than from torch's BatchNorm, which uses Welford's
    algorithm, and a pixel reads two numbers of its channel instead of four. Sums of squares lose
    digits if the mean is many times the standard deviation. So they are taken around one value of
    the channel. (Around the running mean they would need even fewer kernels. But a compiled
    backward pass would read the running mean that the forward pass has already changed.)
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape and dtype; calculated in float32 or wider."""
        if not self.training:
            return super().forward(x)
        n = x.numel() // x.shape[1]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        middle = wide[0, :, 0, 0].detach()  # close enough to the mean
        apart = wide - _by_channel(middle)
        first, second = _once(apart.mean(PIXELS)), _once(apart.square().mean(PIXELS))
        mean, variance = middle + first, (second - first.square()).clamp_min(0)
        scale = _once(self.weight * (variance + self.eps).rsqrt())
        shift = _once(self.bias - mean * scale)
        self._follow(mean, variance * (n / (n - 1)))
        return (wide * _by_channel(scale) + _by_channel(shift)).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, unbiased: Tensor) -> None:
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def _by_channel(v: Tensor) -> Tensor:
    """[C] -> [C, 1, 1]."""
    return v[:, None, None]


def _once(v: Tensor) -> Tensor:
    """[C] unchanged. Makes a compiler calculate it and its gradient once, not for each pixel that
    reads it."""
    return _Once.apply(v)


class _Once(torch.autograd.Function):
    """A strided view, which a compiler reads from memory; so the viewed vector has to be computed
    first.

    Only for vectors. A Function's gradients are brought into the default memory order, which for
    images would mean copies.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return v.as_strided(v.shape, v.stride())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.as_strided(gradient.shape, gradient.stride())
