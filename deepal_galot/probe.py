"""Timing planned runs with a few real batches on this device."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from generators.base import TOO_LARGE_FOR_CPU, Generator
from generators.prompts import fill, templates
from generators.text_optimization import score_gradient

from .classifiers.base import Classifier
from .config import GENERATOR, RunConfig, fields_of
from .costs import Cost, Prices, ascends, size_of, training_images
from .datasets.base import DatasetSpec
from .generator_choice import weights_at_hand
from .images import fit_to
from .learner import Learner
from .plan import Run
from .pool import ImageSet
from .training import count_batches

PROBE_SECONDS = 1.0  # for each thing that is timed; usually ten seconds in all
PATIENCE = 10.0  # seconds; a first batch that takes longer is not repeated


@dataclass
class Probe:
    """Prices in seconds on this device, from a few real batches. Runs with the same settings share
    them.

    Attributes:
        load: a run -> its generator.
        compiled: whether generators are compiled when they are first called.
    """

    spec: DatasetSpec
    device: torch.device
    load: Callable[[Run], Generator]
    compiled: bool = False
    _seen: dict[tuple, Prices] = field(default_factory=dict)

    def prices(self, run: Run, done: int) -> Prices:
        """A run's prices, at the batch sizes in the middle of its remaining rounds."""
        middle = (done + run.config.cycles) // 2
        n = training_images(run.config, self.spec, middle)
        batch = math.ceil(n / count_batches(n, run.config.batch_size))
        c = dataclasses.replace(run.config, batch_size=batch, min_steps=0, seed=0)
        apart = c.uses_generated_images and c.synthetic_norm == "separate"
        recipe = (
            run.architecture,
            batch,
            c.head_dropout,
            c.optimizer,
            c.shift,
            c.flip,
            c.rotate,
            c.zoom,
            c.rand_augment,
            c.precision,
            c.ema > 0,
            apart,
        )
        if recipe not in self._seen:
            self._seen[recipe] = self._training(c, run.architecture)
        prices = self._seen[recipe]
        if not (run.makes_images and run.generator.reads_text):
            return prices
        drawing = (
            run.architecture,
            *(getattr(c, name) for name in fields_of(GENERATOR)),
            c.n_synthetic,
            c.ascent_samples,
            c.ascent_denoising,
            ascends(c),
        )
        if drawing not in self._seen:
            self._seen[drawing] = self._generation(c, run, middle)
        own = self._seen[drawing]
        return dataclasses.replace(prices, image=own.image, chain=own.chain)

    def _training(self, c: RunConfig, architecture: type[Classifier]) -> Prices:
        """Seconds of a step, a fit and a pass. A step is the difference between a long and a short
        fit, so that a fit's start-up is not part of it."""
        data = self._noise(2 * c.batch_size)  # two steps an epoch
        if c.uses_generated_images:
            data = dataclasses.replace(data, n_generated=c.batch_size)
        learner = self._learner(c, architecture)

        def seconds(epochs: int) -> float:
            learner.config = dataclasses.replace(c, epochs=epochs)
            started = learner.clock()
            learner.fit(data, 0)
            return learner.clock() - started

        on_gpu = self.device.type == "cuda"
        few = 4 if on_gpu else 1  # on a GPU the first steps are slow, see cuda_graph
        short, step = seconds(few), 0.0
        if short > PATIENCE and not on_gpu:  # start-up is negligible then
            step = short / (2 * few)
        else:  # the first fit was the warm-up
            short = seconds(few)
            epochs = 200 if on_gpu else max(3, min(200, int(PROBE_SECONDS / short)))
            step = max(0.0, (seconds(epochs) - short) / (2 * (epochs - few)))
        per_pass = _repeat(lambda: learner.outputs(dataclasses.replace(data)), learner.clock)
        return Prices(fit=max(0.0, short - 2 * few * step), step=step, passed=per_pass / len(data))

    def _generation(self, c: RunConfig, run: Run, round: int) -> Prices:
        """Seconds of an image in a batch as large as the round's, and of an image with its
        gradient."""
        generator = self.load(run)
        learner = self._learner(dataclasses.replace(c, epochs=1), run.architecture)
        learner.fit(self._noise(2), 0)
        prompts = [fill(templates(c.template)[0], name) for name in self.spec.class_names]
        c0 = generator.encode(prompts)
        n_images = min(generator.batch_size, max(1, c.n_synthetic_at(round)))
        n_chains = min(generator.batch_size, c.ascent_samples * len(c0))
        texts = c0[torch.arange(max(n_images, n_chains)) % len(c0)]
        seeds = list(range(len(texts)))

        def score(images: Tensor, rows: Tensor) -> Tensor:
            return learner.logits(fit_to(images, self.spec.image_shape)).amax(1)

        @torch.no_grad()
        def draw() -> None:
            generator.sample(texts[:n_images], seeds[:n_images])

        def climb() -> None:
            noise = [[seed] for seed in seeds[:n_chains]]
            score_gradient(generator, texts[:n_chains], score, noise, steps=c.ascent_denoising)

        image = _repeat(draw, learner.clock, self.compiled) / n_images
        chain = _repeat(climb, learner.clock, self.compiled) / n_chains if ascends(c) else 0.0
        return Prices(image=image, chain=chain)

    def _learner(self, c: RunConfig, architecture: type[Classifier]) -> Learner:
        return Learner(c, architecture, self.spec.image_shape, self.spec.n_classes, self.device)

    def _noise(self, n: int) -> ImageSet:
        """n images of noise."""
        x = np.random.default_rng(0).integers(0, 256, (n, *self.spec.image_shape), np.uint8)
        y = torch.arange(n) % self.spec.n_classes
        return ImageSet(x, y, self.spec.mean, self.spec.std)


def _repeat(run: Callable[[], object], clock: Callable[[], float], compiles: bool = False) -> float:
    """Median seconds. The first run is a warm-up; it counts only if it took longer than PATIENCE.

    Args:
        compiles: do one more run before, which compiles and never counts.
    """
    if compiles:
        run()
    seconds: list[float] = []
    for _ in range(12):
        started = clock()
        run()
        seconds.append(clock() - started)
        if seconds[0] > PATIENCE or (len(seconds) > 1 and sum(seconds) > PROBE_SECONDS):
            break
    return statistics.median(seconds[1:] or seconds)


def timed(costs: Sequence[Cost], probe: Probe) -> list[Cost]:
    """The costs with seconds, except for runs that cannot or should not be probed."""
    return [
        cost
        if cost.finished or unprobed(cost, probe.device)
        else dataclasses.replace(cost, seconds=probe.prices(cost.run, cost.done).of(cost.work))
        for cost in costs
    ]


def unprobed(cost: Cost, device: torch.device) -> str:
    """The reason why a run is not timed; empty if it is."""
    if cost.finished or not cost.run.makes_images:
        return ""
    name = cost.run.config.generator
    if not weights_at_hand(cost.run.generator):
        missing = f"The weights of {name} are not here yet, so its time is not known."
        return f"{missing} There is no folder {name} here." if "/" in name else missing
    if too_large(cost, device):
        return f"{name} is too large for a CPU to be timed in seconds."
    return ""


def too_large(cost: Cost, device: torch.device) -> bool:
    """Whether an unfinished run's generator is too slow for this device, a CPU."""
    size = None if cost.finished else size_of(cost.run)
    return device.type == "cpu" and size is not None and size.image > TOO_LARGE_FOR_CPU
