"""Any diffusers StableDiffusionPipeline-format model, with our own denoising loop.

Text optimisation needs three things that a pipeline call does not give: a graph through the last
reverse step alone, this step in float32, and a random stream for each image.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from deepal_galot.config import RunConfig
from deepal_galot.device import has_bfloat16
from deepal_galot.errors import UserError

from .base import Generator, Graph, Size
from .flops import pipeline_size
from .memory import MicroBatches
from .networks import Networks
from .pipeline_folder import as_stable_diffusion, latent_side
from .weights import (
    DEFAULT_SCHEDULER,
    check_steps,
    configs_at_hand,
    find_weights,
    hash_weights,
    load,
    make_scheduler,
)

ARRIVED_AT_ONCE = 8  # texts; with Stable Diffusion each takes 34 MiB in float64


class DiffusionGenerator(Generator):
    """Base of the generators that diffusers loads; a subclass names a folder or hub id.

    Class attributes:
        decoded_at_once: images that the VAE decodes in one call.
    """

    defaults = {"steps": 50, "guidance": 7.5, "scheduler": DEFAULT_SCHEDULER}
    decoded_at_once: ClassVar[int] = 8

    @property
    @abstractmethod
    def source(self) -> str | Path:
        """A local pipeline folder, or a hub id "owner/name"; a subclass sets it as an attribute."""

    @classmethod
    def at(cls, source: str | Path) -> type[DiffusionGenerator]:
        """Make a generator class for a folder or hub id."""
        return type("DiffusionGenerator", (cls,), {"source": source, "name": str(source)})

    @classmethod
    def own_scheduler(cls) -> str | None:
        """Class name of the model's own scheduler; None if the model is not on this machine."""
        configs = configs_at_hand(cls.source)
        return None if configs is None else configs["scheduler"].get("_class_name")

    @classmethod
    def at_fault(cls) -> str:
        return "its numbers overflow; try another --dtype, --scheduler or --guidance"

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.steps, self.guidance = config.steps, config.guidance
        self.device = device
        self._float32: Networks | None = None
        with as_stable_diffusion(self.source), torch.no_grad():
            pipe = self.load("unet", "vae", "scheduler")
            self._scheduler = make_scheduler(config.scheduler, pipe.scheduler)
            check_steps(self._scheduler, config)
            side = latent_side(pipe.unet.config, pipe.vae.config, config.resolution)
            self._latent_shape = (pipe.unet.config.in_channels, side, side)
            self.networks = Networks(pipe.unet, pipe.vae, pick_dtype(config.dtype, device), device)
            self._unconditional = self.networks.text(self.encode([""]).to(device))
            self._guidance_embedding = self._embed_guidance()
        self._compiled = False
        self._sampled = MicroBatches(self.batch_size, "sampling")
        self._decoded = MicroBatches(self.decoded_at_once, "decoding")

    def load(self, *parts: str) -> Any:
        """Load components by name, in float32 on the CPU; they are attributes of the result."""
        return load(find_weights(self.source), parts)

    def _embed_guidance(self) -> Tensor | None:
        """[1, G] embedding for a model that takes the guidance scale as input (LCM), else None."""
        width = self.networks.unet.config.time_cond_proj_dim
        if width is None:
            return None
        from diffusers.models.embeddings import get_timestep_embedding

        scale = torch.tensor([1000.0 * (self.guidance - 1)])
        return get_timestep_embedding(scale, width, downscale_freq_shift=1).to(self.device)

    @classmethod
    def size(cls, config: RunConfig) -> Size | None:
        """Size counted on the configuration files; None if they are not on this machine.

        Raises:
            UserError: the model cannot be used, or not with these steps, scheduler or resolution.
        """
        configs = configs_at_hand(cls.source)
        if configs is None:
            return None
        with as_stable_diffusion(cls.source):
            return pipeline_size(configs, config)

    @classmethod
    def content_hash(cls) -> str:
        return hash_weights(find_weights(cls.source))

    @cached_property
    def identity(self) -> dict[str, Any]:
        return {
            "weights": self.content_hash(),
            "steps": self.steps,
            "guidance": self.guidance,
            "scheduler": type(self._scheduler).__name__,
            "latent": self._latent_shape,
            "dtype": str(self.networks.dtype),
            "batch_size": self.batch_size,
        }

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        # Load the text encoder for this call only: it takes a gigabyte, and a run encodes once.
        pipe = self.load("tokenizer", "text_encoder")
        with as_stable_diffusion(self.source):
            tokens = self._tokens(pipe, prompts)
            return pipe.text_encoder.eval()(tokens)[0].float()

    def _tokens(self, pipe: Any, prompts: Sequence[str]) -> Tensor:
        """[P, L] numbers of the prompts' tokens.

        Raises:
            UserError: a prompt is too long, or the text encoder does not know a token.
        """
        limit, known = pipe.tokenizer.model_max_length, pipe.text_encoder.config.vocab_size
        tokens = [pipe.tokenizer(p, padding="max_length", max_length=limit) for p in prompts]
        for prompt, of_prompt in zip(prompts, tokens, strict=True):
            if len(of_prompt.input_ids) > limit:  # a cut prompt could lose its class name
                raise UserError(
                    f"the prompt {prompt!r} has {len(of_prompt.input_ids)} tokens, this generator "
                    f"reads {limit}: use a shorter --template"
                )
        numbers = torch.tensor([t.input_ids for t in tokens])
        if numbers.max() >= known:
            raise UserError(
                f"--generator {self.source}: its tokenizer has tokens beyond the {known:,} that "
                f"its text encoder knows; save them together again"
            )
        return numbers

    @torch.no_grad()
    def arrived(self, c: Tensor) -> Tensor:
        if self.networks.dtype.itemsize >= 4:
            return c  # float32 is not rounded, and a full-size model's least squares are slow
        text, dtype = self.networks.text, self.networks.dtype
        few = c.to(self.device).split(ARRIVED_AT_ONCE)
        return torch.cat([text.arrived(part, dtype).cpu() for part in few])

    def compile(self) -> None:
        """Compile the UNet and the decoder, each for batches of one size. In 16 bits gradients
        use other networks, in float32, which are not compiled."""
        self._compiled = True
        self.networks.compile()

    def checkpoint(self) -> None:
        self._exact.checkpoint()

    def sample(
        self, c: Tensor, seeds: Sequence[int], graph: Graph = "none", steps: int | None = None
    ) -> Tensor:
        steps = steps or self.steps
        if graph != "none":  # the caller splits the batch, because the gradient takes the memory
            x = self._denoise(c, seeds, graph, steps, self.gradients)
            with torch.enable_grad():
                return self._images(self._exact, x, self.gradients)
        with torch.no_grad():
            x = torch.cat(
                self._sampled.each(
                    len(c), lambda p: self._denoise(c[p], seeds[p], graph, steps, self._sampled)
                )
            )
            return torch.cat(
                self._decoded.each(
                    len(x), lambda p: self._images(self.networks, x[p], self._decoded)
                )
            )

    def _denoise(
        self, c: Tensor, seeds: Sequence[int], graph: Graph, steps: int, parts: MicroBatches
    ) -> Tensor:
        """Denoise from x_T to x_0: latents [B, *latent], float32.

        Args:
            parts: the MicroBatches that this batch is a part of. Compiled networks get batches
                filled up to its size.
        """
        n = len(c)
        if self._compiled:
            c, seeds = _padded(c, parts.rows), [*seeds, *[seeds[-1]] * (-n % parts.rows)]
        # A new scheduler for each call, because multistep solvers keep state.
        scheduler = type(self._scheduler).from_config(self._scheduler.config)
        scheduler.set_timesteps(steps, device=self.device)
        if hasattr(scheduler, "noise_sampler_seed"):  # this scheduler takes no generators
            scheduler.noise_sampler_seed = list(seeds)
        with torch.set_grad_enabled(graph != "none"):
            text = self.networks.text(c.to(self.device, self.networks.text.weight.dtype))
        ours = self.networks, self._read(self.networks, text.detach())
        rngs = [torch.Generator().manual_seed(s) for s in seeds]
        x = torch.stack([torch.randn(self._latent_shape, generator=g) for g in rngs])
        x = x.to(text) * scheduler.init_noise_sigma
        last = len(scheduler.timesteps) - 1
        for i, t in enumerate(scheduler.timesteps):
            seen = graph == "all" or (graph == "last" and i == last)  # whether autograd records it
            with torch.set_grad_enabled(seen):
                # Recorded steps run in float32.
                networks, of_text = (self._exact, self._read(self._exact, text)) if seen else ours
                x = self._reverse_step(scheduler, networks, x, t, of_text, rngs)
        return x[:n]

    def _read(self, networks: Networks, text: Tensor) -> Tensor:
        """Keys and values for the UNet, [B or 2B, P, L, M]. With guidance the B rows of the empty
        prompt come first, then the B rows of the texts."""
        read = networks.read(text)
        if not self._is_guided:
            return read
        return torch.cat([networks.read(self._unconditional).expand_as(read), read])

    def _reverse_step(
        self,
        scheduler: Any,
        networks: Networks,
        x: Tensor,
        t: Tensor,
        text: Tensor,
        rngs: list[torch.Generator],
    ) -> Tensor:
        """x_t -> x_{t-1}.

        Args:
            text: keys and values for these networks, from `_read`.
        """
        x_in = scheduler.scale_model_input(x, t)
        if self._is_guided:
            noise = self._guided(networks, x_in, t, text)
        else:
            noise = networks.noise(x_in, t, text, self._guidance_embedding)
        extra = {"generator": rngs} if _takes_generator(scheduler) else {}
        return scheduler.step(noise, t, x, **extra).prev_sample

    @property
    def _is_guided(self) -> bool:
        """Whether each step runs two branches, with and without text. A model that takes the
        guidance scale as input needs only one."""
        return self.guidance > 1 and self._guidance_embedding is None

    @property
    def _exact(self) -> Networks:
        """The networks in float32, because a gradient in 16 bits would be noise."""
        if self.networks.dtype.itemsize >= 4:
            return self.networks
        if self._float32 is None:
            pipe = self.load("unet", "vae")
            self._float32 = Networks(pipe.unet, pipe.vae, torch.float32, self.device)
        return self._float32

    def _guided(self, networks: Networks, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """Classifier-free guidance: ϵ(x, ∅) + guidance·(ϵ(x, c) − ϵ(x, ∅))."""
        if torch.is_grad_enabled() and not x.requires_grad:
            # In the last step the unconditional branch does not depend on c, so it needs no graph.
            empty, of_text = text.chunk(2)
            with torch.no_grad():
                without = networks.noise(x, t, empty)
            with_text = networks.noise(x, t, of_text)
        else:
            both = networks.noise(torch.cat([x, x]), t, text)
            without, with_text = both.chunk(2)
        return without + self.guidance * (with_text - without)

    def _images(self, networks: Networks, x: Tensor, parts: MicroBatches) -> Tensor:
        n = len(x)
        if self._compiled and networks is self.networks:
            x = _padded(x, parts.rows)
        return networks.images(x)[:n]


def _padded(rows: Tensor, size: int) -> Tensor:
    """Repeat the last row until the rows fill whole batches of this size.

    Otherwise each new batch size would be compiled anew.
    """
    missing = -len(rows) % size
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """auto, float32, bfloat16 or float16 -> the dtype of the UNet and VAE on this device."""
    if name != "auto":
        return getattr(torch, name)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if has_bfloat16(device) else torch.float16


def _takes_generator(scheduler: Any) -> bool:
    return "generator" in inspect.signature(scheduler.step).parameters
