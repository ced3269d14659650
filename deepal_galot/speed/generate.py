"""Images a second of a full-size model with random weights, for `python -m deepal_galot.speed`.

Also measured, in the same run: a plain pipeline call for comparison, the gradient of the text
optimisation, and how much of ‖c − c0‖ reaches the network.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from generators.diffusion import DiffusionGenerator
from generators.flops import Configs, Flops, count, make
from generators.networks import KeysAndValues, Networks
from generators.stable_diffusion import ARCHITECTURE
from generators.text_optimization import score_gradient

from ..device import float64, machine_line
from ..errors import UserError
from ..images import fit_to, to_uint8
from ..protocols import resolve
from ..timing import seconds_of, share_of_peak, with_spread

PLAIN_BATCHES = (1, 10)
GUIDANCE = 7.5
MOST_STEPS = 1000  # diffusion steps in the schedulers' tables
MOST_AT_ONCE = 1024  # images; with more, a CPU process may be killed for memory without a message
IMAGE_SHAPE = (32, 32, 3)  # images are resized to it


@dataclass(frozen=True)
class Architecture:
    """A text-to-image model without weights, defined by its configuration files."""

    configs: Configs

    def components(self, device: torch.device) -> Any:
        """UNet, VAE and scheduler, with float32 weights from diffusers' own initialisation."""
        from diffusers.utils import logging

        logging.set_verbosity_error()
        torch.manual_seed(0)
        with device:
            unet, vae = (make(name, self.configs[name]) for name in ("unet", "vae"))
        scheduler = make("scheduler", self.configs["scheduler"])  # its tables stay on the CPU
        return SimpleNamespace(unet=unet, vae=vae, scheduler=scheduler)

    @property
    def text(self) -> tuple[int, int]:
        """[L, D] of an embedding."""
        tokens = self.configs["tokenizer"]["model_max_length"]
        return tokens, self.configs["unet"]["cross_attention_dim"]

    def embeddings(self, n: int, seed: int) -> Tensor:
        """[n, L, D] random embeddings of unit variance, like CLIP's."""
        return torch.randn(n, *self.text, generator=torch.Generator().manual_seed(seed))


SD_21_BASE = Architecture(ARCHITECTURE)
MINIATURE = Architecture(ARCHITECTURE | {
    "unet": ARCHITECTURE["unet"] | {"sample_size": 8, "attention_head_dim": (1, 2, 2, 2),
        "layers_per_block": 1, "block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 64},
    "vae": ARCHITECTURE["vae"] | {"block_out_channels": (32,) * 4, "layers_per_block": 1},
})  # fmt: skip


class _RandomWeights(DiffusionGenerator):
    """Our generator on an architecture without published weights."""

    architecture: Architecture
    source = "random weights"

    def load(self, *parts: str) -> Any:
        return self.architecture.components(self.device)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        return self.architecture.embeddings(len(prompts), seed=0)


def count_flops(architecture: Architecture) -> Flops:
    """FLOP of one image's parts, counted on the meta device."""
    meta = torch.device("meta")
    parts = architecture.components(meta)
    networks = Networks(parts.unet, parts.vae, torch.float32, meta)
    return count(networks, architecture.text, parts.unet.config.sample_size)


def plain_pipeline(architecture: Architecture, device: torch.device) -> Any:
    """StableDiffusionPipeline as it is usually called: in float16 on a GPU."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    parts = architecture.components(device)
    pipe = StableDiffusionPipeline(
        parts.vae,
        None,
        None,
        parts.unet,
        DPMSolverMultistepScheduler.from_config(parts.scheduler.config),
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device, torch.float16 if device.type == "cuda" else torch.float32)


def make_generator(architecture: Architecture, batch: int, device: torch.device) -> _RandomWeights:
    """Our generator with this batch size."""
    made = {"architecture": architecture, "batch_size": batch}
    defaults = _RandomWeights.all_defaults() | {"guidance": GUIDANCE}
    config = resolve("", "random", generator_defaults=defaults)
    return type("RandomWeights", (_RandomWeights,), made)(config, device)


def generate_lines(args: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """The report of `generate`; each line is yielded when it is measured."""
    return _Report(args, device).lines()


class _Report:
    """The settings and measurements of one report."""

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        self.device, self.steps, self.batch = device, args.steps, args.batch
        self.compile, self.checkpointing = args.compile, args.checkpointing
        self.architecture = MINIATURE if args.small else SD_21_BASE
        self.flops = count_flops(self.architecture)
        if max(self.steps) > MOST_STEPS:
            raise UserError(f"--steps {max(self.steps)}: the model has at most {MOST_STEPS:,}")
        if self.batch > MOST_AT_ONCE:
            raise UserError(f"--batch {self.batch}: at most {MOST_AT_ONCE:,}")

    def lines(self) -> Iterator[str]:
        """All lines. The plain call is measured in the same run, right before ours."""
        yield machine_line(self.device)
        yield (
            f"TFLOP, counted: UNet {self.flops.noise / 1e12:.3g}, decoder "
            f"{self.flops.decode / 1e12:.3g}, gradient {self.flops.chain(2) / 1e12:.3g}; guidance "
            f"{GUIDANCE}, DPM-Solver++; median (range, n); share of this device's own matrix "
            f"product in the same dtype"
        )
        # First, because only this needs no GPU.
        unet = self.architecture.components(torch.device("cpu")).unet
        yield from arrival_lines(KeysAndValues(unet), self.architecture.embeddings(2, seed=1))
        plain = {}
        for steps, batch, seconds, dtype in self._plain():
            plain[steps] = batch / statistics.median(seconds)  # the largest batch comes last
            yield self._rate("plain", steps, batch, seconds, dtype)
        generator = make_generator(self.architecture, self.batch, self.device)
        if self.compile:
            generator.compile()
        for steps in self.steps:
            seconds = self._ours(generator, steps)
            yield self._rate("ours", steps, self.batch, seconds, generator.networks.dtype)
            ratio = self.batch / statistics.median(seconds) / plain[steps]
            yield f"ours is {ratio:.2f}× plain with batch {PLAIN_BATCHES[-1]} at T={steps}"
        if self.checkpointing:
            generator.checkpoint()
        yield from self._gradient(generator)

    def _rate(
        self, who: str, steps: int, batch: int, seconds: Sequence[float], dtype: torch.dtype
    ) -> str:
        rates = [batch / s for s in seconds]
        flops = statistics.median(rates) * self.flops.image(steps, 2)
        return (
            f"{who:5}  T={steps:<3} batch {batch:<3} {_name(dtype):8}  {with_spread(rates)} "
            f"images/s  {share_of_peak(flops, self.device, dtype)}"
        )

    def _plain(self) -> Iterator[tuple[int, int, list[float], torch.dtype]]:
        pipe = plain_pipeline(self.architecture, self.device)
        for steps in self.steps:
            for batch in PLAIN_BATCHES:
                c, empty = (
                    self.architecture.embeddings(batch, seed).to(self.device, pipe.dtype)
                    for seed in (1, 0)
                )
                call = functools.partial(
                    pipe,
                    prompt_embeds=c,
                    negative_prompt_embeds=empty,
                    guidance_scale=GUIDANCE,
                    output_type="pt",
                )
                call(num_inference_steps=2)
                work = functools.partial(call, num_inference_steps=steps)
                yield steps, batch, seconds_of(work, self.device), pipe.dtype

    def _ours(self, generator: _RandomWeights, steps: int) -> list[float]:
        c = self.architecture.embeddings(self.batch, seed=1)

        def draw() -> object:
            return to_uint8(fit_to(generator.sample(c, range(self.batch)), IMAGE_SHAPE))

        generator.steps = 2
        draw()
        generator.steps = steps
        return seconds_of(draw, self.device)

    def _gradient(self, generator: _RandomWeights) -> Iterator[str]:
        """The gradient's speed for one batch with T = 1. The T − 1 steps before cost the same as in
        sampling."""
        generator.steps = 1
        c = self.architecture.embeddings(1, seed=1)

        def score(images: Tensor, rows: Tensor) -> Tensor:
            return fit_to(images, IMAGE_SHAPE)[..., :16].mean((1, 2, 3))

        def work() -> object:
            return score_gradient(generator, c, score, [list(range(self.batch))])

        work()
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        seconds = seconds_of(work, self.device)
        peak = torch.cuda.max_memory_allocated(self.device) / 2**30 if cuda else 0.0
        memory = f"  peak {peak:.1f} GiB" if cuda else ""
        flops = self.batch * self.flops.chain(2) / statistics.median(seconds)
        yield (
            f"gradient  {self.batch} images, {generator.gradients.rows} at once, float32"
            f"{', checkpointed' if self.checkpointing else ''}  "
            f"{with_spread(seconds)} s{memory}  "
            f"{share_of_peak(flops, self.device, torch.float32)}"
        )


def arrival_lines(text: KeysAndValues, c0: Tensor) -> Iterator[str]:
    """How much of c − c0 reaches the network: with our keys and values, and with c cast to 16 bits.

    Args:
        text: the float32 map to keys and values.
        c0: [B, L, D].
    """
    c0 = c0.to(text.weight.device)
    delta = torch.randn(c0.shape, generator=torch.Generator().manual_seed(2)).to(c0).sign()
    delta /= delta.flatten(1).norm(dim=1)[:, None, None]
    for dtype in (torch.bfloat16, torch.float16):
        start = text.arrived(c0, dtype)
        for epsilon in (0.05, 0.5, 5.0):
            c = c0 + epsilon * delta
            ways = {
                "through its keys and values": text.arrived(c, dtype) - start,
                "with c cast": float64(c.to(dtype)) - float64(c0.to(dtype)),
            }
            said = []
            for way, moved in ways.items():
                cosine = torch.cosine_similarity(moved.flatten(1), float64(delta.flatten(1))).mean()
                size = moved.flatten(1).norm(dim=1).mean()
                said.append(f"{size:.4f} (cosine {cosine:.3f}) {way}")
            yield f"arrives  {_name(dtype):8}  ε={epsilon:<4}  {', '.join(said)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
