"""Whether a folder holds a Stable Diffusion that can be used, told without reading its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from deepal_galot.device import is_out_of_memory
from deepal_galot.errors import UserError, said, some_of
from deepal_galot.plugins import plugin_fault
from deepal_galot.registry import PACKAGE_ROOT

from .networks import MORE_THAN_TEXT

CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
COMPONENTS = tuple(CONFIGS)
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
USUAL_UNET = "UNet2DConditionModel"
# What diffusers takes for fields that a file lacks.
LACKED = {
    "unet": {
        "_class_name": USUAL_UNET,
        "in_channels": 4,
        "out_channels": 4,
        "cross_attention_dim": 1280,
        "sample_size": None,
    },
    "vae": {"latent_channels": 4, "scaling_factor": 0.18215, "block_out_channels": (64,)},
}
LIBRARIES = ("diffusers", "transformers")

Configs = Mapping[str, Mapping[str, Any]]  # component -> its configuration file


class MissingFiles(UserError):
    """A model's folder lacks files; a hub's, while its download is under way or was cut short."""


@contextmanager
def as_stable_diffusion(source: str | Path, what: str = "used as Stable Diffusion's") -> Iterator:
    """Turn the errors of diffusers, transformers and torch about a model into one line.

    Raises:
        UserError: any error but those of memory and of plug-ins, which have lines of their own,
            and of the device.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        of_device = isinstance(error, torch.AcceleratorError) or is_out_of_memory(error)
        ours = Path(source).is_relative_to(PACKAGE_ROOT)  # then a fault is ours, too
        if of_device or ours or plugin_fault(error):
            raise
        raise UserError(f"--generator {source}: cannot be {what} ({said(error)})") from error


@cache
def read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """The configuration files of a pipeline folder, of each of COMPONENTS.

    Raises:
        UserError: it is no folder of a Stable Diffusion, or files are missing.
    """
    index = _read(folder, "model_index.json")
    with as_stable_diffusion(folder):
        fault = _fault_of_index(index)
        if not fault:
            _check_weights(folder)
            files = {part: _read(folder, f"{part}/{file}") for part, file in CONFIGS.items()}
            configs = {part: LACKED.get(part, {}) | file for part, file in files.items()}
            fault = _fault_of_configs(configs)
    if fault:
        raise UserError(
            f"--generator {folder}: a {index.get('_class_name')} {fault}; only "
            f"StableDiffusionPipeline-format models can be used"
        )
    return configs


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        read = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFiles(f"--generator {folder}: cannot be loaded (no {name})") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise UserError(f"--generator {folder}: cannot be loaded ({name}: {said(error)})") from None
    if not isinstance(read, dict):
        raise UserError(
            f"--generator {folder}: cannot be loaded ({name} holds a {type(read).__name__}, not "
            f"names and values); save the pipeline again"
        )
    return read


def _fault_of_index(index: Mapping[str, Any]) -> str:
    """What about the pipeline's components makes it unusable, or ""."""
    kinds = {part: index.get(part) or (None, None) for part in COMPONENTS}
    missing = [part for part, (_, kind) in kinds.items() if kind is None]
    if missing:
        return f"has no {', '.join(missing)}"
    for part, (library, kind) in kinds.items():
        if library not in LIBRARIES:
            return f"whose {part} is a {library}.{kind}"
    return ""


def _check_weights(folder: Path) -> None:
    """Check that the networks' weights are there in the one form that is read.

    Raises:
        UserError: they are missing, of a variant, or not safetensors.
    """
    for part, stem in WEIGHTS.items():
        wanted = f"{stem}.safetensors"
        if any((folder / part / f"{wanted}{end}").is_file() for end in ("", ".index.json")):
            continue
        ends = (".safetensors", ".bin", ".ckpt", ".msgpack")
        files = (folder / part).glob("*")
        others = sorted(file.name for file in files if file.suffix in ends)
        why = f"no {part}/{wanted}"
        if others:
            stems = (name.split(".")[1:-1] for name in others)  # "fp16", or "fp16-00001-of-00002"
            variant = next((stem[0].split("-")[0] for stem in stems if stem), None)
            how = f' with variant="{variant}"' if variant else ""
            why += (
                f", only {some_of(others, 2)}: load it in diffusers{how} and save it again by "
                f"save_pretrained(NEW), which writes safetensors without a variant"
            )
        raise MissingFiles(f"--generator {folder}: cannot be loaded ({why})")


def _fault_of_configs(configs: Configs) -> str:
    """What about the components' configurations makes the pipeline unusable, or ""."""
    unet, vae, text, tokenizer, scheduler = (configs[part] for part in COMPONENTS)
    own, latent, limit = unet["_class_name"], vae["latent_channels"], "model_max_length"
    reads, gives, width = unet["in_channels"], unet["out_channels"], unet["cross_attention_dim"]
    widths = set(width) if isinstance(width, list) else {width}  # of each block, or of all
    texts, most = text.get("hidden_size", max(widths)), tokens_of(tokenizer)
    positions = text.get("max_position_embeddings", most)
    solver = str(scheduler.get("_class_name"))
    rules = (
        (own != USUAL_UNET, f"whose UNet is a {own}"),
        (
            any(unet.get(option) for option in MORE_THAN_TEXT),
            "whose UNet reads more than text, or not by plain cross-attention",
        ),
        (reads != latent, f"whose UNet reads {reads} channels, of its VAE's {latent}"),
        (gives != reads, f"whose UNet reads {reads} channels and gives {gives}"),
        (
            widths != {texts},
            f"whose text encoder gives {texts} numbers a token, not the UNet's {width}",
        ),
        (not isinstance(most, int), f"whose tokenizer has no {limit}"),
        (
            isinstance(most, int) and most > positions,
            f"whose tokenizer gives {most} tokens, more than the {positions} of its text encoder",
        ),
        (not vae["scaling_factor"], f"whose VAE has the scaling_factor {vae['scaling_factor']}"),
        (solver.startswith("FlowMatch"), f"for flow matching, by its {solver}"),
    )
    return next((fault for holds, fault in rules if holds), "")


def tokens_of(tokenizer: Mapping[str, Any]) -> int | None:
    """How many tokens a tokenizer makes of each text; max_len is transformers' older name."""
    return tokenizer.get("model_max_length", tokenizer.get("max_len"))


def latent_side(unet: Any, vae: Any, resolution: int | None) -> int:
    """Height and width of the latents.

    Args:
        unet, vae: their configurations.
        resolution: of the images; None is the model's own.

    Raises:
        UserError: no multiple of what the VAE needs, or the model has none of its own.
    """
    factor = 2 ** (len(vae.block_out_channels) - 1)
    if resolution is None and type(unet.sample_size) is not int:
        raise UserError(
            f"--resolution: this model has no side of its own (its UNet's sample_size is "
            f"{unet.sample_size}): add --resolution N, a multiple of {factor}"
        )
    if resolution is not None and resolution % factor:
        raise UserError(f"--resolution {resolution}: this model needs a multiple of {factor}")
    return unet.sample_size if resolution is None else resolution // factor
