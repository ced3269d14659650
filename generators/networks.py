"""The UNet and VAE of a diffusion model, and the path of the text into the UNet.

The UNet reads a text embedding c only through the keys and values of its cross-attention. ‖c‖ is
hundreds of times the ε that text optimisation may move it by, so c itself does not survive 16 bits:
all keys and values are one float32 matrix product of c, and only the result is cast.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Networks(nn.Module):
    """A UNet and a VAE in one dtype, with the text's keys and values in float32.

    Attributes:
        text: c -> keys and values; called once for each c.
        unet: reads those keys and values in place of c.
        vae: latents -> images.
    """

    def __init__(
        self, unet: nn.Module, vae: nn.Module, dtype: torch.dtype, device: torch.device
    ) -> None:
        """
        Args:
            unet, vae: as diffusers loads them, in float32; they become part of this object.
            dtype: of their weights and arithmetic.
        """
        super().__init__()
        self.text = KeysAndValues(unet).to(device)
        # Convolutions on a GPU's matrix units want the channels last.
        layout = torch.channels_last if device.type == "cuda" else torch.preserve_format
        self.unet = unet.to(device, dtype, memory_format=layout)
        self.vae = vae.to(device, dtype, memory_format=layout)
        self.eval().requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the UNet and the VAE."""
        return self.unet.dtype

    def checkpoint(self) -> None:
        """Keep no activations of a block for its gradient; they are computed again."""
        self.unet.enable_gradient_checkpointing()
        self.vae.enable_gradient_checkpointing()

    def noise(self, x: Tensor, t: Tensor, text: Tensor, guidance: Tensor | None = None) -> Tensor:
        """The UNet's answer for latents [B, *latent], in their dtype.

        Args:
            x: latents; cast to the network's dtype.
            t: the time step.
            text: [B, L, M] from `text`.
            guidance: [1, G] embedding of the guidance scale, for models that are told it.
        """
        if guidance is not None:
            guidance = guidance.to(self.dtype).expand(len(x), -1)
        x_in, text = x.to(self.dtype), text.to(self.dtype)
        return self.unet(x_in, t, encoder_hidden_states=text, timestep_cond=guidance).sample.to(x)

    def images(self, x: Tensor) -> Tensor:
        """Latents -> [B, 3, S, S] in [0, 1], in the latents' dtype."""
        images = self.vae.decode((x / self.vae.config.scaling_factor).to(self.dtype)).sample
        return (images.to(x.dtype) / 2 + 0.5).clamp(0, 1)


class KeysAndValues(nn.Module):
    """c [B, L, D] -> the keys and values of all cross-attentions side by side, [B, L, M].

    Making one takes the matrices out of the UNet, where a slice of the product takes their place.

    Attributes:
        weight: [M, D] float32.
    """

    weight: Tensor

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        places = [(a, key) for a in cross_attentions(unet) for key in ("to_k", "to_v")]
        matrices = [getattr(attention, key).weight.detach() for attention, key in places]
        self.register_buffer("weight", torch.cat(matrices).float())
        edges = accumulate(map(len, matrices), initial=0)
        for (attention, key), (start, stop) in zip(places, pairwise(edges), strict=True):
            setattr(attention, key, _Slice(start, stop))

    def forward(self, c: Tensor) -> Tensor:
        return F.linear(c, self.weight)

    def arrived(self, c: Tensor, dtype: torch.dtype) -> Tensor:
        """The embedding that a network of this dtype reads in place of c.

        Returns:
            [B, L, D] float64: the least-squares solution for c of W·c = the cast keys and values.
        """
        cast = self(c).to(dtype).double().flatten(0, 1)
        solution = torch.linalg.lstsq(self.weight.double(), cast.mT, driver="gels").solution
        return solution.mT.reshape(c.shape)


class _Slice(nn.Module):
    """Stands where a key or value matrix was."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, keys_and_values: Tensor) -> Tensor:
        return keys_and_values[..., self.start : self.stop]


def cross_attentions(unet: nn.Module) -> list[Any]:
    """The UNet's attention modules that read the text, in the order of its blocks."""
    return [m for m in unet.modules() if getattr(m, "is_cross_attention", False)]


def reads_text_plainly(unet: Any) -> bool:
    """Whether c enters the UNet only as W·c, for the keys and values of its cross-attention."""
    config, found = unet.config, cross_attentions(unet)
    options = ("addition_embed_type", "encoder_hid_dim_type", "encoder_hid_dim", "class_embed_type")
    matrices = [m for a in found for m in (a.to_k, a.to_v)]
    return (
        not any(config.get(option) for option in options)
        and all(a.norm_cross is None and a.added_kv_proj_dim is None for a in found)
        and all(type(m) is nn.Linear and m.bias is None for m in matrices)
        and len({m.in_features for m in matrices}) == 1
    )
