"""FLOP of a Stable Diffusion's images, counted on its modules without weights or memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from deepal_galot.config import RunConfig

from .base import Size
from .networks import Networks
from .pipeline_folder import USUAL_UNET, Configs, latent_side, tokens_of
from .weights import check_steps, make_scheduler


def pipeline_size(configs: Configs, config: RunConfig) -> Size:
    """FLOP of an image and of an ascent chain, as DiffusionGenerator.sample computes them.

    Args:
        configs: of unet, vae, scheduler and tokenizer.
        config: only its steps, ascent_denoising, guidance, scheduler and resolution are read.

    Raises:
        UserError: the scheduler, its steps or the resolution do not fit this model.
    """
    original = make("scheduler", configs["scheduler"])
    scheduler = make_scheduler(config.scheduler, original)
    check_steps(scheduler, config)

    def timesteps(steps: int) -> int:
        scheduler.set_timesteps(steps)
        return len(scheduler.timesteps)  # Heun's method has two timesteps a step

    tokens = tokens_of(configs["tokenizer"])
    networks = (json.dumps(configs[part], sort_keys=True) for part in ("unet", "vae"))
    flops, width = _count(*networks, tokens, config.resolution)
    told = configs["unet"].get("time_cond_proj_dim")  # takes the guidance scale: needs one branch
    image, climbing = (
        flops.image(timesteps(steps), 2 if config.guidance > 1 and not told else 1)
        for steps in (config.steps, config.ascent_denoising or config.steps)
    )
    return Size(image, climbing + flops.gradient, tokens * width)


@dataclass(frozen=True)
class Flops:
    """FLOP of the parts of one image.

    Attributes:
        text: the keys and values of the text embedding.
        noise: one call of the denoiser.
        decode: the VAE's decoder.
        gradient: the backward pass through these three, once each, to the text embedding. The
            forward pass is not included.
    """

    text: int
    noise: int
    decode: int
    gradient: int

    def image(self, steps: int, branches: int) -> int:
        """FLOP of a whole image; two branches with classifier-free guidance, else one."""
        return self.text + steps * branches * self.noise + self.decode

    def chain(self, branches: int) -> int:
        """FLOP of an image from one step, and of its gradient to the text."""
        return self.image(1, branches) + self.gradient


def count(networks: Networks, text: tuple[int, int], side: int) -> Flops:
    """Count with PyTorch's FLOP counter; the networks may be on the meta device.

    Args:
        text: (L, D) of a text embedding.
        side: height and width of the latents.
    """
    with next(networks.parameters()).device:
        c = torch.zeros(1, *text, requires_grad=True)
        x, t = torch.zeros(1, networks.unet.config.in_channels, side, side), torch.zeros(())
    counters = [FlopCounterMode(display=False) for _ in range(4)]
    with torch.enable_grad():
        with counters[0]:
            keys_and_values = networks.text(c)
        with counters[1]:
            noise = networks.noise(x, t, networks.read(keys_and_values))
        with counters[2]:
            image = networks.images(noise)
        with counters[3]:
            torch.autograd.grad(image.sum(), c)
    return Flops(*(counter.get_total_flops() for counter in counters))


@cache
def _count(unet: str, vae: str, tokens: int, resolution: int | None) -> tuple[Flops, int]:
    """FLOP and the text embedding's width of a model given by its UNet's and VAE's configuration
    files, as JSON text."""
    with torch.device("meta"):
        parts = make("unet", json.loads(unet)), make("vae", json.loads(vae))
    side = latent_side(*(part.config for part in parts), resolution)
    networks = Networks(*parts, torch.float32, torch.device("meta"))
    width = networks.text.weight.shape[1]
    return count(networks, (tokens, width), side), width


def make(part: str, config: Mapping[str, Any]) -> Any:
    """Make a component from its configuration alone, with random weights."""
    import diffusers

    usual = {"unet": USUAL_UNET, "vae": "AutoencoderKL"}
    return getattr(diffusers, config.get("_class_name", usual.get(part))).from_config(dict(config))
