"""FLOP of a Stable Diffusion's images, counted on its modules without weights or memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from deepal_galot.config import RunConfig

from .base import Size
from .networks import Networks
from .weights import make_scheduler

Configs = Mapping[str, Mapping[str, Any]]  # component -> its configuration file


def read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """The configuration files of a pipeline folder.

    Raises:
        OSError, ValueError: a file is missing or is not JSON.
    """
    files = {part: folder / part / "config.json" for part in ("unet", "vae")}
    files["scheduler"] = folder / "scheduler" / "scheduler_config.json"
    files["tokenizer"] = folder / "tokenizer" / "tokenizer_config.json"
    return {part: json.loads(file.read_text(encoding="utf-8")) for part, file in files.items()}


def pipeline_size(configs: Configs, config: RunConfig) -> Size:
    """FLOP of an image and of an ascent chain, as DiffusionGenerator.sample computes them.

    Args:
        configs: of unet, vae, scheduler and tokenizer.
        config: only its steps, ascent_denoising, guidance, scheduler and resolution are read.

    Raises:
        UserError: the scheduler does not fit this model.
    """
    original = make("scheduler", configs["scheduler"])
    scheduler = make_scheduler(config.scheduler, original)

    def timesteps(steps: int) -> int:
        scheduler.set_timesteps(steps)
        return len(scheduler.timesteps)  # Heun's method has two timesteps a step

    tokens = configs["tokenizer"]["model_max_length"]
    networks = (json.dumps(configs[part], sort_keys=True) for part in ("unet", "vae"))
    flops = _count(*networks, tokens, config.resolution)
    told = configs["unet"].get("time_cond_proj_dim")  # takes the guidance scale: needs one branch
    image, climbing = (
        flops.image(timesteps(steps), 2 if config.guidance > 1 and not told else 1)
        for steps in (config.steps, config.ascent_denoising or config.steps)
    )
    return Size(image, climbing + flops.gradient, tokens * configs["unet"]["cross_attention_dim"])


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
def _count(unet: str, vae: str, tokens: int, resolution: int | None) -> Flops:
    """Count for a model given by its UNet's and VAE's configuration files, as JSON text."""
    unet, vae = json.loads(unet), json.loads(vae)
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    side = unet["sample_size"] if resolution is None else resolution // factor
    with torch.device("meta"):
        parts = make("unet", unet), make("vae", vae)
    networks = Networks(*parts, torch.float32, torch.device("meta"))
    return count(networks, (tokens, unet["cross_attention_dim"]), side)


def make(part: str, config: Mapping[str, Any]) -> Any:
    """Make a component from its configuration alone, with random weights."""
    import diffusers

    usual = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    return getattr(diffusers, config.get("_class_name", usual.get(part))).from_config(dict(config))
