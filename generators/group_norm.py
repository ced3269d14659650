"""Group normalisation that is fast where channels are last in memory and a compiler writes it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelwiseGroupNorm(nn.Module):
    """nn.GroupNorm from each channel's mean and variance.

    Where channels are last, a group is a few neighbours at each pixel, scattered over memory, and
    all channels together are one stretch of it. A group's mean is the mean of its channels' means,
    its variance the mean of their variances plus the variance of their means. Without a compiler
    it would be several passes in float32.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        """
        Args:
            norm: with weight and bias; they become part of this object.
        """
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, *], with one dimension or more after C -> the same; in at least float32."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        of_channels = torch.var_mean(x.to(dtype), tuple(range(2, x.ndim)), correction=0)
        variance, mean = (v.unflatten(1, (self.groups, -1)) for v in of_channels)
        center = mean.mean(2, keepdim=True)
        spread = (variance + (mean - center).square()).mean(2, keepdim=True)
        weight, bias = (
            v.to(dtype).unflatten(0, (self.groups, -1)) for v in (self.weight, self.bias)
        )
        scale = weight * (spread + self.eps).rsqrt()
        line = torch.stack([scale, bias - center * scale]).flatten(2)
        # A compiler would calculate the line for each pixel anew, but not what is read strided.
        line = line.as_strided(line.shape, line.stride())
        scale, shift = line.view(*line.shape, *[1] * (x.ndim - 2))
        return (x * scale + shift).to(x.dtype)


def norm_by_channels(model: nn.Module) -> None:
    """Put ChannelwiseGroupNorm in the place of every nn.GroupNorm with weights."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.GroupNorm and child.affine:
                setattr(parent, name, ChannelwiseGroupNorm(child))
