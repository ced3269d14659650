"""What a fit calculates in 16 bits, and how its weights stay in 32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from .config import RunConfig
from .device import has_bfloat16

CAST = (nn.Conv2d, nn.Linear)  # what autocast calculates in 16 bits; not what is derived from them
OWN = ("weight", "bias")  # their parameters; other names are of those who compute a weight


def product_dtype(config: RunConfig, device: torch.device) -> torch.dtype:
    """What the classifier's products are calculated in: float32 or bfloat16."""
    auto = config.precision == "auto" and has_bfloat16(device)
    return torch.bfloat16 if auto or config.precision == "bfloat16" else torch.float32


def autocast(config: RunConfig, device: torch.device) -> contextlib.AbstractContextManager:
    """Forward passes in `product_dtype`."""
    if product_dtype(config, device) == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


class WorkingCopies:
    """16-bit copies of a model's weights, which its layers have in their place during a fit.

    Autocast alone casts each layer's weights in each forward pass and their gradients in each
    backward pass, two kernels a tensor that take longer to start than to run. Here all are cast
    at once. What is calculated is the same to the last bit, as long as weights are used by calling
    their layers under autocast. (The master weights of Micikevicius et al. 2018.)
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        """
        Args:
            model: an optimiser of its parameters updates the masters, if it is made before
                `in_place`.
            dtype: of the copies.
        """
        self._places = [
            (layer, name, master)
            for layer in model.modules()
            if type(layer) in CAST
            for name, master in layer.named_parameters(recurse=False)
            if name in OWN
        ]
        self._copies = {
            master: nn.Parameter(master.detach().to(dtype), master.requires_grad)
            for _, _, master in self._places
        }

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Layers hold the copies; after the block their masters again."""
        try:
            for layer, name, master in self._places:
                setattr(layer, name, self._copies[master])
            yield
        finally:
            for layer, name, master in self._places:
                setattr(layer, name, master)

    @torch.no_grad()
    def hand_over_gradients(self) -> None:
        """From the copies to the masters; after a backward pass."""
        used = [(m, copy) for m, copy in self._copies.items() if copy.grad is not None]
        fresh = [(m, copy) for m, copy in used if m.grad is None]
        for master, copy in used:
            if master.grad is not None:  # it is another layer's weight, too
                master.grad += copy.grad
        for master, _ in fresh:
            master.grad = torch.empty_like(master)
        if fresh:
            torch._foreach_copy_([m.grad for m, _ in fresh], [copy.grad for _, copy in fresh])
        for _, copy in used:
            copy.grad = None

    @torch.no_grad()
    def follow(self) -> None:
        """Become what the masters are now; after an optimiser's step."""
        if self._copies:
            torch._foreach_copy_(list(self._copies.values()), list(self._copies))
