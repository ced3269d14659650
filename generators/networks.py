"""The UNet and VAE of a diffusion model, and the path of the text into the UNet.

The UNet reads a text embedding c only through the keys and values of its cross-attention. Text
optimisation moves c by at most ε, and ‖c‖ is hundreds of times ε. So the move would be lost if c,
or its keys and values, were rounded to 16 bits. The keys and values are therefore one float32
matrix product of c, and a 16-bit network reads each of them as the sum of two 16-bit numbers.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepal_galot.device import float64

from .group_norm import norm_by_channels

# Options with which a UNet reads more than a text's embedding, or changes that first.
MORE_THAN_TEXT = (
    "addition_embed_type",
    "encoder_hid_dim_type",
    "encoder_hid_dim",
    "class_embed_type",
    "num_class_embeds",
)
KERNEL_SINCE = (8, 0)  # compute capability; run on 9.0, compiled for 8.0 to 12.1; not on AMD


class Networks(nn.Module):
    """A UNet and a VAE in one dtype, with the text's keys and values in float32.

    Attributes:
        text: c -> keys and values; called once for each c.
        unet: reads the keys and values in place of c.
        vae: latents -> images.
    """

    def __init__(
        self, unet: nn.Module, vae: nn.Module, dtype: torch.dtype, device: torch.device
    ) -> None:
        """
        Args:
            unet, vae: as diffusers loads them, in float32; they become part of this object.
            dtype: of the weights and arithmetic.
        """
        super().__init__()
        self.text = KeysAndValues(unet).to(device)
        # A GPU's matrix units take convolutions with the channels last.
        layout = torch.channels_last if device.type == "cuda" else torch.preserve_format
        self.unet = unet.to(device, dtype, memory_format=layout)
        self.vae = vae.to(device, dtype, memory_format=layout)
        self.eval().requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the UNet and the VAE."""
        return self.unet.dtype

    def compile(self) -> None:
        """Compile the UNet and the decoder, each for batches of one size.

        On a GPU they also get our own group norms and, since KERNEL_SINCE, our own cross-attention.
        Compiled, both are faster than torch's.
        """
        device = self.text.weight.device
        if device.type == "cuda":
            norm_by_channels(self.unet)
            norm_by_channels(self.vae.decoder)
            if not torch.version.hip and torch.cuda.get_device_capability(device) >= KERNEL_SINCE:
                for attention in cross_attentions(self.unet):
                    attention.processor.by_kernel = True
        self.unet.compile(dynamic=False)
        self.vae.decoder.compile(dynamic=False)

    def checkpoint(self) -> None:
        """Recompute each block's activations for the gradient instead of keeping them."""
        self.unet.enable_gradient_checkpointing()
        self.vae.enable_gradient_checkpointing()

    def noise(self, x: Tensor, t: Tensor, text: Tensor, guidance: Tensor | None = None) -> Tensor:
        """The UNet's output for latents [B, *latent], in the latents' dtype.

        Args:
            x: latents; cast to the network's dtype.
            t: the time step.
            text: [B, P, L, M] from `read`.
            guidance: [1, G] embedding of the guidance scale, for models that take it as input.
        """
        if guidance is not None:
            guidance = guidance.to(self.dtype).expand(len(x), -1)
        noise = self.unet(x.to(self.dtype), t, encoder_hidden_states=text, timestep_cond=guidance)
        return noise.sample.to(x)

    def read(self, text: Tensor) -> Tensor:
        """Keys and values [B, L, M] from `text` -> [B, P, L, M] in the UNet's dtype."""
        return split(text, self.dtype)

    def images(self, x: Tensor) -> Tensor:
        """Latents -> [B, 3, S, S] in [0, 1], in the latents' dtype."""
        images = self.vae.decode((x / self.vae.config.scaling_factor).to(self.dtype)).sample
        return (images.to(x.dtype) / 2 + 0.5).clamp(0, 1)


class KeysAndValues(nn.Module):
    """c [B, L, D] -> the keys and values of all cross-attentions side by side, [B, L, M].

    The constructor takes the key and value matrices out of the UNet. Its cross-attentions then read
    their slices of the product.

    Attributes:
        weight: [M, D] float32.
    """

    weight: Tensor

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        attentions = cross_attentions(unet)
        matrices = [m.weight.detach() for a in attentions for m in (a.to_k, a.to_v)]
        self.register_buffer("weight", torch.cat(matrices).float())
        edges = accumulate(map(len, matrices), initial=0)
        slices = [slice(*ends) for ends in pairwise(edges)]
        for attention, keys, values in zip(attentions, slices[::2], slices[1::2], strict=True):
            attention.to_k = attention.to_v = None
            attention.set_processor(_TextAttention(keys, values))

    def forward(self, c: Tensor) -> Tensor:
        return F.linear(c, self.weight)

    def arrived(self, c: Tensor, dtype: torch.dtype) -> Tensor:
        """The embedding that a UNet of this dtype reads in place of c.

        Returns:
            [B, L, D] float64: the least-squares solution x of W·x = the sum of the rounded parts.
        """
        read = float64(split(self(c), dtype)).sum(1).flatten(0, 1)
        solution = torch.linalg.lstsq(float64(self.weight), read.mT, driver="gels").solution
        return solution.mT.reshape(c.shape)


def parts_in(dtype: torch.dtype) -> int:
    """P, how many numbers of this dtype are summed for each key and value.

    In bfloat16 the sum of two is off by at most 2⁻¹⁷ of the value, a single number by 2⁻⁸.
    """
    return 1 if dtype.itemsize >= 4 else 2


def split(x: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, L, M] -> [B, P, L, M] in this dtype; the sum over P gives x up to rounding."""
    parts = []
    for _ in range(parts_in(dtype)):
        parts.append(x.to(dtype))
        x = x - parts[-1]
    return torch.stack(parts, 1)


class _TextAttention:
    """A diffusers attention processor for cross-attention with precomputed keys and values.

    Attributes:
        by_kernel: whether to use our Triton kernel where it can be used.
    """

    def __init__(self, keys: slice, values: slice) -> None:
        self.keys, self.values = keys, values
        self.by_kernel = False

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **unused: Any
    ) -> Tensor:
        q = attn.to_q(hidden_states)
        k, v = (encoder_hidden_states[..., place] for place in (self.keys, self.values))
        read = attend(q, k, v, attn.heads, self.by_kernel)
        return attn.to_out[1](attn.to_out[0](read))  # product, dropout


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, by_kernel: bool = False) -> Tensor:
    """softmax(q·(Σ_p k_p)ᵀ/√d)·Σ_p v_p of each head.

    Args:
        q: [B, S, H·d].
        k, v: [B, P, L, H·d], in q's dtype.
        heads: H.
        by_kernel: use our Triton kernel, if it fits these tensors and no gradient is taken.

    Returns:
        [B, S, H·d].
    """
    if by_kernel and not torch.is_grad_enabled():
        from . import attention_kernel  # here, because only GPU builds of torch have Triton

        if attention_kernel.fits(q, k, heads):
            return attention_kernel.operator(q, k, v, heads)
    # The P parts lie side by side in heads P times as wide; their outputs are summed below.
    parts, width = k.shape[1], q.shape[-1] // heads
    wide = (
        x.unflatten(-1, (heads, width)).permute(0, 3, 2, 1, 4).flatten(3)
        for x in (q[:, None].expand(-1, parts, -1, -1), k, v)
    )
    read = F.scaled_dot_product_attention(*wide, scale=width**-0.5)  # [B, H, S, P·d]
    return read.unflatten(-1, (parts, width)).sum(-2).transpose(1, 2).flatten(2)


def cross_attentions(unet: nn.Module) -> list[Any]:
    """The UNet's attention modules that read the text, in the order of its blocks."""
    return [m for m in unet.modules() if getattr(m, "is_cross_attention", False)]


def reads_text_plainly(unet: Any) -> bool:
    """Whether the UNet reads c only as W·c, the keys and values of its cross-attention."""
    config, found = unet.config, cross_attentions(unet)
    matrices = [m for a in found for m in (a.to_k, a.to_v)]
    return (
        not any(config.get(option) for option in MORE_THAN_TEXT)
        and all(norm is None for a in found for norm in (a.norm_cross, a.norm_q, a.norm_k))
        and not any(a.added_kv_proj_dim or a.residual_connection for a in found)
        and all(type(m) is nn.Linear and m.bias is None for m in matrices)
        and len({m.in_features for m in matrices}) == 1
    )
