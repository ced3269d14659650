"""The costs of planned runs, counted from their configurations.

A run is an amount of work: numbers of images, ascent chains, training steps. Its cost is work times
prices. Prices are FLOP, counted on the models' modules, or seconds (see probe.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from generators.base import Size
from generators.image_store import SHARD
from generators.prompts import templates

from . import plugins, registry
from .classifiers.base import Classifier, check_outputs, check_trainable
from .config import RunConfig
from .datasets.base import DatasetSpec
from .errors import UserError, said
from .image_counts import ALIGNED_BY, PROBES, ascent_images, image_counts, new_counts
from .plan import Plan, Run
from .results import RunFolder
from .training import count_batches, count_epochs

SHARD_HEADER, TEXT_HEADER = 800, 1200  # bytes of a shard and a text file besides their numbers


@dataclass(frozen=True)
class Work:
    """Work still to be done; adds up over rounds and runs.

    Attributes:
        labels: human labels to buy.
        images: generated images to train on, including those that oversampling drops.
        pictures: generated images that show c0 and c to people, in each round.
        chains: images of the text optimisation, each with a gradient.
        fits, steps, trained: fits, their optimiser steps, and the images that pass through them.
        passed: images classified: the pool before a query, the test images after a fit.
        disk: bytes to be written.
    """

    labels: int = 0
    images: int = 0
    pictures: int = 0
    chains: int = 0
    fits: int = 0
    steps: int = 0
    trained: int = 0
    passed: int = 0
    disk: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*map(sum, zip(*map(dataclasses.astuple, (self, other)), strict=True)))


@dataclass(frozen=True)
class Prices:
    """The price of one unit of each kind of Work, in FLOP or in seconds."""

    image: float = 0.0
    chain: float = 0.0
    fit: float = 0.0
    step: float = 0.0
    trained: float = 0.0
    passed: float = 0.0

    def of(self, work: Work) -> float:
        """The total price of some work."""
        return (
            self.image * (work.images + work.pictures)
            + self.chain * work.chains
            + self.fit * work.fits
            + self.step * work.steps
            + self.trained * work.trained
            + self.passed * work.passed
        )


@dataclass(frozen=True)
class Cost:
    """The cost of a planned run from its current state.

    Attributes:
        done: rounds that are finished.
        flop: None if the generator's FLOP are not known.
        seconds: None if nothing was timed.
    """

    run: Run
    done: int
    work: Work
    flop: float | None
    seconds: float | None = None

    @property
    def finished(self) -> bool:
        """Whether all rounds are done."""
        return self.done == self.run.config.cycles


def costs_of(plan: Plan, output: Path) -> list[Cost]:
    """Every run's counted cost. Nothing is loaded or timed."""
    costs = []
    for run in plan.runs:
        done, size = _rounds_done(run, output), size_of(run)
        work = work_of(run, plan.spec, done, size)
        known = size is not None or not (work.images or work.pictures)
        flop = flop_prices(run, plan.spec, size).of(work) if known else None
        costs.append(Cost(run, done, work, flop))
    return costs


def _rounds_done(run: Run, output: Path) -> int:
    path = run.folder(output)
    return (
        len(RunFolder.open(path).rows()[: run.config.cycles])
        if (path / "config.json").exists()
        else 0
    )


# -- counting ----------------------------------------------------------------------------------


def work_of(run: Run, spec: DatasetSpec, done: int = 0, size: Size | None = None) -> Work:
    """The work of the rounds from `done` on.

    A query counts as one pass over the unlabeled pool. Further computation or training of a
    strategy is not counted. Images that are in the store already are counted as if they had to be
    made.
    """
    c, work = run.config, Work()
    for round in range(done, c.cycles):
        work += _labeling(c, spec, round) + _fitting(c, spec, round, run.makes_images)
        if run.makes_images:
            work += _generating(run, spec, round, size)
    kept = network_of(run.architecture, spec.image_shape, spec.n_classes).bytes
    return work + Work(disk=kept if done == 0 else 0)


def _labeling(c: RunConfig, spec: DatasetSpec, round: int) -> Work:
    """The labels a round buys, and its query's pass over the pool."""
    if c.mode == "gal":
        return Work()
    if c.mode == "full":
        return Work(labels=len(spec.x_train))
    if round == 0:
        return Work(labels=c.n_init)
    return Work(labels=c.query_size(round), passed=len(spec.x_train) - c.budget(round - 1))


def _fitting(c: RunConfig, spec: DatasetSpec, round: int, makes_images: bool) -> Work:
    """A round's fits and passes.

    They are the round's own fit; in round 0 also the fit that the first images may need; and the
    bootstrap's fit, with a pass over the pool and over the images to choose from.
    """
    sizes = [training_images(c, spec, round)]
    if round == 0 and makes_images and (c.epsilon_at(0) > 0 or c.classifier_chooses(0)):
        sizes.append(c.n_init)
    work = Work(passed=len(spec.x_test))
    if makes_images and c.asks_pool:
        sizes.append(c.budget(round) + c.n_synthetic_at(round))
        _, at_hand = image_counts(c, spec.n_classes, round)
        work += Work(passed=len(spec.x_train) - c.budget(round) + sum(at_hand))
    for n in sizes:
        epochs = count_epochs(c, n)
        steps = epochs * count_batches(n, c.batch_size)
        work += Work(fits=1, steps=steps, trained=epochs * n)
    return work


def training_images(c: RunConfig, spec: DatasetSpec, round: int) -> int:
    """Number of images that a round's classifier is trained on."""
    if c.mode == "full":
        return len(spec.x_train)
    real = c.budget(round) if c.uses_real_images else 0
    if not c.uses_generated_images:
        return real
    rounds = range(round + 1) if c.synthetic == "accumulate" else (round,)
    return real + sum(c.n_synthetic_at(r) for r in rounds)


def _generating(run: Run, spec: DatasetSpec, round: int, size: Size | None) -> Work:
    """A round's images and ascent, and the bytes they take on disk."""
    c, k, pixels = run.config, spec.n_classes, math.prod(spec.image_shape)
    moves = c.epsilon_at(round) > 0
    made = new_counts(c, k, round)
    aligned = ALIGNED_BY * k if c.aligns and round == 0 else 0
    shards = sum(math.ceil(n / SHARD) for n in made)
    prompts = k * len(templates(c.template))
    texts = 2 * prompts * (0 if size is None else 4 * size.text)  # c0 and c, float32
    shows = run.generator.reads_text and (c.epsilon > 0 or round == 0)
    pictures = (2 if moves else 1) * k * PROBES if shows else 0
    return Work(
        images=sum(made) + aligned,
        pictures=pictures,
        chains=ascent_images(c, k, round),
        disk=(sum(made) + aligned) * pixels
        + shards * SHARD_HEADER
        + texts
        + (2 * k * PROBES * pixels if shows else 0)
        + TEXT_HEADER,
    )


def ascends(c: RunConfig) -> bool:
    """Whether the text optimisation generates images."""
    return c.epsilon > 0 and c.direction != "random"


def flop_prices(run: Run, spec: DatasetSpec, size: Size | None) -> Prices:
    """FLOP of one unit of each. A chain's gradient also passes through the classifier."""
    net = network_of(run.architecture, spec.image_shape, spec.n_classes)
    prices = Prices(trained=net.train, passed=net.forward)
    if size is None:
        return prices
    return dataclasses.replace(prices, image=size.image, chain=size.chain + net.train)


def size_of(run: Run) -> Size | None:
    """Size of the run's generator; None if the run does not generate or the size is not known."""
    return run.generator.size(run.config) if run.makes_images else None


@dataclass(frozen=True)
class _Network:
    """A classifier's FLOP an image, forward and in training, and the bytes of its file."""

    forward: float
    train: float
    bytes: int


@cache
def network_of(
    architecture: type[Classifier], image_shape: tuple[int, int, int], n_classes: int
) -> _Network:
    """Count a classifier's FLOP and bytes.

    Raises:
        UserError: the classifier cannot be made, or its output is wrong.
    """
    with contextlib.suppress(Exception):  # its constructor may read values; meta tensors have none
        return _counted(architecture, image_shape, n_classes, "meta")
    try:
        return _counted(architecture, image_shape, n_classes, "cpu")
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            plugins.plugin_fault(error)
            or f"the classifier {registry.class_name(architecture)}, made as "
            f"{architecture.__name__}({image_shape}, {n_classes}) and given two blank images, "
            f"fails: {type(error).__name__}: {said(error)}"
        ) from error


def _counted(
    architecture: type[Classifier], shape: tuple[int, int, int], n_classes: int, device: str
) -> _Network:
    height, width, channels = shape
    with torch.random.fork_rng(devices=[]), torch.device(device):
        net = architecture(shape, n_classes)
        x = torch.empty(2, channels, height, width)  # BatchNorm needs two
        with FlopCounterMode(display=False) as counted, torch.enable_grad():
            answer = net(x)
        check_outputs(net, answer, len(x), n_classes)
        check_trainable(net, answer[0])
        with torch.no_grad():
            check_outputs(net.eval(), net(x), len(x), n_classes)
    forward, state = counted.get_total_flops() / 2, net.state_dict().values()
    # The backward pass has two products as large as the forward's. FlopCounterMode's own count
    # ignores the groups of depthwise convolutions: for MobileNetV2 it is seven times too high.
    return _Network(forward, 3 * forward, sum(t.numel() * t.element_size() for t in state))


def totals(costs: Sequence[Cost]) -> tuple[Work, float | None, float | None]:
    """Work, FLOP and seconds of all runs. FLOP or seconds are None if one run's are not known."""
    left = [c for c in costs if not c.finished]
    flop, seconds = ([getattr(c, name) for c in left] for name in ("flop", "seconds"))
    return sum((c.work for c in costs), Work()), *(
        None if None in values else sum(values) for values in (flop, seconds)
    )
