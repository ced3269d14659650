"""Which parts of a fit are calculated in 16 bits, while the weights stay in 32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from .config import RunConfig
from .device import has_bfloat16

CAST = (nn.Conv2d, nn.Linear)  # autocast calculates them in 16 bits; not subclasses
OWN = ("weight", "bias")  # their parameters; others belong to parametrizations


def product_dtype(config: RunConfig, device: torch.device) -> torch.dtype:
    """The dtype of the classifier's matrix products: float32 or bfloat16."""
    auto = config.precision == "auto" and has_bfloat16(device)
    return torch.bfloat16 if auto or config.precision == "bfloat16" else torch.float32


def autocast(config: RunConfig, device: torch.device) -> contextlib.AbstractContextManager:
    """A context in which forward passes use `product_dtype`."""
    if product_dtype(config, device) == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


class WorkingCopies:
    """16-bit copies of a model's weights, which replace them in the layers during a fit.

    Autocast alone casts each layer's weights in each forward pass, and their gradients in each
    backward pass. These are two kernels a tensor, which take longer to start than to run. Here all
    weights are cast at once. The results are the same to the last bit, if weights are used only by
    calling their layers under autocast. (The 32-bit weights are the master weights of Micikevicius
    et al. 2018.)
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        """
        Args:
            model: make the optimiser of its parameters before `in_place`, so that it updates the
                masters.
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
        """Put the copies into the layers; after the block, the masters again."""
        try:
            for layer, name, master in self._places:
                setattr(layer, name, self._copies[master])
            yield
        finally:
            for layer, name, master in self._places:
                setattr(layer, name, master)

    @torch.no_grad()
    def hand_over_gradients(self) -> None:
        """Move the gradients from the copies to the masters; called after a backward pass."""
        used = [(m, copy) for m, copy in self._copies.items() if copy.grad is not None]
        fresh = [(m, copy) for m, copy in used if m.grad is None]
        for master, copy in used:
            if master.grad is not None:  # the weight is shared by layers
                master.grad += copy.grad
        for master, _ in fresh:
            master.grad = torch.empty_like(master)
        if fresh:
            torch._foreach_copy_([m.grad for m, _ in fresh], [copy.grad for _, copy in fresh])
        for _, copy in used:
            copy.grad = None

    @torch.no_grad()
    def follow(self) -> None:
        """Copy the masters' values to the copies; called after an optimiser step."""
        if self._copies:
            torch._foreach_copy_(list(self._copies.values()), list(self._copies))
