"""FLOP of a Stable Diffusion's images, counted on its modules without weights or memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
        OSError, ValueError: one is not there or is no JSON.
    """
    files = {part: folder / part / "config.json" for part in ("unet", "vae")}
    files["scheduler"] = folder / "scheduler" / "scheduler_config.json"
    files["tokenizer"] = folder / "tokenizer" / "tokenizer_config.json"
    return {part: json.loads(file.read_text(encoding="utf-8")) for part, file in files.items()}


def pipeline_size(configs: Configs, config: RunConfig) -> Size:
    """FLOP of an image and of an ascent chain, as DiffusionGenerator.sample computes them.

    Args:
        configs: of unet, vae, scheduler and tokenizer.
        config: its steps, guidance, scheduler and resolution.

    Raises:
        UserError: the scheduler does not fit this model.
    """
    original = _make("scheduler", configs["scheduler"])
    scheduler = make_scheduler(config.scheduler, original)
    scheduler.set_timesteps(config.steps)
    steps = len(scheduler.timesteps)  # Heun's method takes two a step
    tokens = configs["tokenizer"]["model_max_length"]
    parts = (json.dumps(configs[part], sort_keys=True) for part in ("unet", "vae"))
    text, forward, decode, gradient = _count(*parts, tokens, config.resolution)
    branches = 2 if config.guidance > 1 else 1
    image = text + steps * branches * forward + decode
    return Size(image, image + gradient, tokens * configs["unet"]["cross_attention_dim"])


@cache
def _count(unet: str, vae: str, tokens: int, resolution: int | None) -> tuple[int, ...]:
    """FLOP of a text's keys and values, of the denoiser's forward, of a decoded image, and of the
    gradient of all three to the text."""
    unet, vae = json.loads(unet), json.loads(vae)
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    side = unet["sample_size"] if resolution is None else resolution // factor
    with torch.device("meta"):
        networks = Networks(
            _make("unet", unet), _make("vae", vae), torch.float32, torch.device("meta")
        )
        c = torch.empty(1, tokens, unet["cross_attention_dim"], requires_grad=True)
        x, t = torch.empty(1, unet["in_channels"], side, side), torch.empty(())
    counters = [FlopCounterMode(display=False) for _ in range(4)]
    with torch.enable_grad():
        with counters[0]:
            text = networks.text(c)
        with counters[1]:
            noise = networks.noise(x, t, text)
        with counters[2]:
            image = networks.images(noise)
        with counters[3]:
            torch.autograd.grad(image.sum(), c)
    return tuple(counter.get_total_flops() for counter in counters)


def _make(part: str, config: Mapping[str, Any]) -> Any:
    """A component from its configuration alone, with random weights."""
    import diffusers

    usual = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    return getattr(diffusers, config.get("_class_name", usual.get(part))).from_config(dict(config))
