"""What planned runs will cost: counted from their configurations, timed by a probe of this device.

A run is an amount of work: so many images, ascent chains, training steps. Work times the price of
each in FLOP, counted on the models' modules, or in seconds, measured by a probe, is what it costs.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from generators.base import Generator, Size
from generators.image_store import SHARD
from generators.prompts import fill, templates
from generators.text_optimization import score_gradient

from .classifiers.base import Classifier
from .config import RunConfig
from .datasets.base import DatasetSpec
from .errors import UserError
from .galot import PROBES, image_counts
from .images import fit_to
from .learner import Learner
from .plan import Plan, Run, weights_at_hand
from .pool import ImageSet
from .results import RunFolder
from .timing import matrix_rate
from .training import split_batches

FULL_SIZE = 10e12  # FLOP an image; beyond it an image takes a CPU minutes
PROBE_SECONDS = 1.0  # for each of the few things that are timed, ten seconds in all as a rule
PATIENCE = 10.0  # seconds; a first batch that took longer is not repeated
SHARD_HEADER, TEXT_HEADER = 800, 1200  # bytes beside the numbers of a shard and of a text state


@dataclass(frozen=True)
class Work:
    """What is still to be done; adds up over rounds and runs.

    Attributes:
        labels: human labels to buy.
        images: generated images to train on, those that oversampling drops included.
        pictures: generated images that show c0 and c to people, in each round.
        chains: images of the text optimisation, each with a gradient.
        fits, steps, trained: fits, their optimiser steps, and images that pass through them.
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
    """What one of each costs, in FLOP or in seconds; see Work."""

    image: float = 0.0
    chain: float = 0.0
    fit: float = 0.0
    step: float = 0.0
    trained: float = 0.0
    passed: float = 0.0

    def of(self, work: Work) -> float:
        """The whole price of some work."""
        return (
            self.image * (work.images + work.pictures) + self.chain * work.chains
            + self.fit * work.fits + self.step * work.steps + self.trained * work.trained
            + self.passed * work.passed
        )  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """A planned run's cost from where it stands.

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
        """Whether nothing is left to do."""
        return self.done == self.run.config.cycles


def costs_of(plan: Plan, output: Path) -> list[Cost]:
    """Every run's cost, counted; nothing is loaded or timed."""
    costs = []
    for run in plan.runs:
        done, size = _rounds_done(run, output), _size(run)
        work = work_of(run, plan.spec, done, size)
        known = size is not None or not (work.images or work.pictures)
        flop = flop_prices(run, plan.spec, size).of(work) if known else None
        costs.append(Cost(run, done, work, flop))
    return costs


def _rounds_done(run: Run, output: Path) -> int:
    path = run.folder(output)
    return len(RunFolder.open(path).rows()[: run.config.cycles]) if path.exists() else 0


# -- counting ----------------------------------------------------------------------------------


def work_of(run: Run, spec: DatasetSpec, done: int = 0, size: Size | None = None) -> Work:
    """The work of the rounds from `done` on.

    A query counts as one pass over the unlabeled pool; what a strategy computes or trains beyond it
    does not count. Images that the store holds already count as if they were to be made.
    """
    c, work = run.config, Work()
    for round in range(done, c.cycles):
        work += _labeling(c, spec, round) + _fitting(c, spec, round)
        if run.generator is not None and run.source is None:
            work += _generating(run, spec, round, size)
    kept = _network(run.architecture, spec.image_shape, spec.n_classes).bytes
    return work + Work(disk=kept if done == 0 else 0)


def _labeling(c: RunConfig, spec: DatasetSpec, round: int) -> Work:
    """What a round buys, and the pass over the pool that its query takes."""
    if c.mode == "gal":
        return Work()
    if c.mode == "full":
        return Work(labels=len(spec.x_train))
    if round == 0:
        return Work(labels=c.n_init)
    return Work(labels=c.query_size(round), passed=len(spec.x_train) - c.budget(round - 1))


def _fitting(c: RunConfig, spec: DatasetSpec, round: int) -> Work:
    """The round's fit, and in round 0 the one that the first ascent needs."""
    sizes = [training_images(c, spec, round)]
    if round == 0 and c.uses_generated_images and c.epsilon_at(0) > 0:
        sizes.append(c.n_init)
    work = Work(passed=len(spec.x_test))
    for n in sizes:
        batches = len(split_batches(n, c.batch_size))
        epochs = max(c.epochs, math.ceil(c.min_steps / batches))
        work += Work(fits=1, steps=epochs * batches, trained=epochs * n)
    return work


def training_images(c: RunConfig, spec: DatasetSpec, round: int) -> int:
    """Images that a round's classifier is trained on."""
    if c.mode == "full":
        return len(spec.x_train)
    real = c.budget(round) if c.uses_real_images else 0
    if not c.uses_generated_images:
        return real
    rounds = range(round + 1) if c.synthetic == "accumulate" else (round,)
    return real + sum(c.n_synthetic_at(r) for r in rounds)


def _generating(run: Run, spec: DatasetSpec, round: int, size: Size | None) -> Work:
    """A round's images and ascent, and the bytes they leave."""
    c, k, pixels = run.config, spec.n_classes, math.prod(spec.image_shape)
    moves = c.epsilon_at(round) > 0
    _, made = image_counts(c, k, round)
    shards = sum(math.ceil(n / SHARD) for n in made)
    prompts = k * len(templates(c.template))
    texts = 2 * prompts * (0 if size is None else 4 * size.text)  # c0 and c, float32
    climbing = sum(made) + k * PROBES if c.text_per == "image" else c.ascent_samples * prompts
    pictures = (2 if moves else 1) * k * PROBES if run.generator.reads_text else 0
    return Work(
        images=sum(made),
        pictures=pictures,
        chains=c.ascent_steps * climbing if moves and _ascends(c) else 0,
        disk=sum(made) * pixels + shards * SHARD_HEADER
        + texts + 2 * k * PROBES * pixels + TEXT_HEADER,
    )  # fmt: skip


def _ascends(c: RunConfig) -> bool:
    """Whether the ascent looks at images."""
    return c.epsilon > 0 and c.direction != "random"


def flop_prices(run: Run, spec: DatasetSpec, size: Size | None) -> Prices:
    """FLOP of one of each; the chain's gradient passes through the classifier too."""
    net = _network(run.architecture, spec.image_shape, spec.n_classes)
    prices = Prices(trained=net.train, passed=net.forward)
    if size is None:
        return prices
    return dataclasses.replace(prices, image=size.image, chain=size.chain + net.train)


def _size(run: Run) -> Size | None:
    """Of the generator that the run draws with; None without one, or if it is not known."""
    if run.generator is None or run.source is not None:
        return None
    return run.generator.size(run.config)


@dataclass(frozen=True)
class _Network:
    """A classifier's FLOP an image, forward and in training, and the bytes of its file."""

    forward: float
    train: float
    bytes: int


@cache
def _network(
    architecture: type[Classifier], image_shape: tuple[int, int, int], n_classes: int
) -> _Network:
    try:
        return _counted(architecture, image_shape, n_classes, "meta")
    except (RuntimeError, TypeError, ValueError):  # one that looks at its numbers when it is made
        return _counted(architecture, image_shape, n_classes, "cpu")


def _counted(
    architecture: type[Classifier], shape: tuple[int, int, int], n_classes: int, device: str
) -> _Network:
    height, width, channels = shape
    with torch.random.fork_rng(devices=[]), torch.device(device):
        net = architecture(shape, n_classes)
        x = torch.empty(2, channels, height, width)  # BatchNorm needs two
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            net(x)
    forward, state = counted.get_total_flops() / 2, net.state_dict().values()
    # A gradient is two products as large as the forward; the counter's own number for it forgets
    # the groups of depthwise convolutions, and is seven times too high for MobileNetV2.
    return _Network(forward, 3 * forward, sum(t.numel() * t.element_size() for t in state))


# -- timing ------------------------------------------------------------------------------------


@dataclass
class Probe:
    """Seconds of one of each on this device, from a few real batches; alike runs share them.

    Attributes:
        load: a run -> its generator.
    """

    spec: DatasetSpec
    device: torch.device
    load: Callable[[Run], Generator]
    _seen: dict[tuple, Prices] = field(default_factory=dict)

    def prices(self, run: Run, done: int) -> Prices:
        """Of the batch sizes in the middle of the rounds that are left."""
        middle = (done + run.config.cycles) // 2
        n = training_images(run.config, self.spec, middle)
        batch = math.ceil(n / len(split_batches(n, run.config.batch_size)))
        c = dataclasses.replace(run.config, batch_size=batch, min_steps=0, seed=0)
        apart = c.uses_generated_images and c.synthetic_norm == "separate"
        recipe = (run.architecture, batch, c.head_dropout, c.optimizer, c.shift, c.flip, c.rotate,
                  c.zoom, c.rand_augment, c.precision, c.ema > 0, apart)  # fmt: skip
        if recipe not in self._seen:
            self._seen[recipe] = self._training(c, run.architecture)
        prices = self._seen[recipe]
        if run.generator is None or run.source is not None or not run.generator.reads_text:
            return prices
        drawing = (run.architecture, c.generator, c.steps, c.guidance, c.scheduler, c.resolution,
                   c.n_synthetic, c.ascent_samples, _ascends(c))  # fmt: skip
        if drawing not in self._seen:
            self._seen[drawing] = self._generation(c, run, middle)
        own = self._seen[drawing]
        return dataclasses.replace(prices, image=own.image, chain=own.chain)

    def _training(self, c: RunConfig, architecture: type[Classifier]) -> Prices:
        """Steps by the difference of a short and a long fit, so that a fit's own start is apart."""
        data = self._noise(2 * c.batch_size)  # two steps an epoch
        if c.uses_generated_images:
            data = dataclasses.replace(data, n_generated=c.batch_size)
        learner = self._learner(c, architecture)

        def seconds(epochs: int) -> float:
            learner.config = dataclasses.replace(c, epochs=epochs)
            started = learner.clock()
            learner.fit(data, 0)
            return learner.clock() - started

        seconds(1)  # warms up
        short = seconds(1)
        epochs = max(3, min(200, int(PROBE_SECONDS / short)))
        step = max(0.0, (seconds(epochs) - short) / (2 * epochs - 2))
        per_pass = _repeat(lambda: learner.outputs(dataclasses.replace(data)), learner.clock)
        return Prices(fit=max(0.0, short - 2 * step), step=step, passed=per_pass / len(data))

    def _generation(self, c: RunConfig, run: Run, round: int) -> Prices:
        """An image in a batch as large as the round's, and one with its gradient."""
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
            score_gradient(generator, texts[:n_chains], score, [[s] for s in seeds[:n_chains]])

        image = _repeat(draw, learner.clock) / n_images
        chain = _repeat(climb, learner.clock) / n_chains if _ascends(c) else 0.0
        return Prices(image=image, chain=chain)

    def _learner(self, c: RunConfig, architecture: type[Classifier]) -> Learner:
        return Learner(c, architecture, self.spec.image_shape, self.spec.n_classes, self.device)

    def _noise(self, n: int) -> ImageSet:
        """n images of noise."""
        x = np.random.default_rng(0).integers(0, 256, (n, *self.spec.image_shape), np.uint8)
        y = torch.arange(n) % self.spec.n_classes
        return ImageSet(x, y, self.spec.mean, self.spec.std)


def _repeat(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """Median seconds; the first time warms up, and counts only if it took very long."""
    seconds: list[float] = []
    for _ in range(12):
        started = clock()
        run()
        seconds.append(clock() - started)
        if seconds[0] > PATIENCE or (len(seconds) > 1 and sum(seconds) > PROBE_SECONDS):
            break
    return statistics.median(seconds[1:] or seconds)


# -- saying it ---------------------------------------------------------------------------------


def timed(costs: Sequence[Cost], probe: Probe) -> list[Cost]:
    """The same with seconds, but for what cannot or should not be probed."""
    return [
        cost
        if cost.finished or unprobed(cost, probe.device)
        else dataclasses.replace(cost, seconds=probe.prices(cost.run, cost.done).of(cost.work))
        for cost in costs
    ]


def unprobed(cost: Cost, device: torch.device) -> str:
    """Why a run is not timed; empty if it is."""
    if cost.run.generator is None or cost.run.source is not None or cost.finished:
        return ""
    name = cost.run.config.generator
    if not weights_at_hand(cost.run.generator):
        return f"The weights of {name} are not here yet, so its time is not known."
    if _too_large(cost, device):
        return f"{name} is too large for a CPU to be timed in seconds."
    return ""


def _too_large(cost: Cost, device: torch.device) -> bool:
    """Whether a run that is not finished needs a GPU's patience."""
    size = None if cost.finished else _size(cost.run)
    return device.type == "cpu" and size is not None and size.image > FULL_SIZE


def full_size_on_cpu(costs: Sequence[Cost], device: torch.device) -> str:
    """The least time that runs of full-size generators take here; empty without any."""
    large = [c for c in costs if _too_large(c, device)]
    if not large:
        return ""
    flop, rate = sum(c.flop for c in large), matrix_rate(device)
    each = max(_size(c.run).image for c in large)
    return (
        f"{large[0].run.config.generator} needs {each / 1e12:.0f} TFLOP an image, {_pflop(flop)} "
        f"PFLOP in all: at the {rate / 1e12:.2g} TFLOP/s of this machine's matrix products at "
        f"least {three(flop / rate / 3600)} hours"
    )


def ask_for_cpu(costs: Sequence[Cost], device: torch.device) -> None:
    """
    Raises:
        UserError: a full-size generator is to run on a CPU that nobody asked for.
    """
    warning = full_size_on_cpu(costs, device)
    if warning:
        raise UserError(f"this machine has no GPU, and {warning}; to go on, add --device cpu")


def summary(costs: Sequence[Cost], device: torch.device) -> str:
    """One line for the start of a campaign. Nothing is probed: the progress says it as soon."""
    work, flop, _ = totals(costs)
    finished = sum(c.finished for c in costs)
    parts = [f"{len(costs)} run{'s' if len(costs) != 1 else ''}"]
    parts += [f"{finished} of them finished"] if finished else []
    parts += [f"{work.labels:,} labels", f"{work.images:,} images", f"{work.chains:,} chains"]
    parts += [f"{_pflop(flop)} PFLOP", _bytes(work.disk)]
    warning = full_size_on_cpu(costs, device)
    return "to do: " + ", ".join(parts) + (f"; {warning}" if warning else "")


HEAD = ("run", "rounds", "labels", "images", "chains", "PFLOP", "disk", "time", "folder")


def table(costs: Sequence[Cost], output: Path, device: torch.device) -> Iterator[str]:
    """Lines: a row for each run, the total, and what the numbers do not say."""
    rows = [HEAD]
    for c in costs:
        rounds, folder = f"{c.done}/{c.run.config.cycles}", c.run.folder(output)
        known = not c.run.generator or c.run.source or weights_at_hand(c.run.generator)
        where = str(folder.relative_to(output)) if known else "named by the weights"
        name = f"{c.run.label} seed {c.run.config.seed}"
        rows.append(
            (name, rounds, *_numbers(c.work, c.flop, 0 if c.finished else c.seconds), where)
        )
    rows.append(("total", "", *_numbers(*totals(costs)), f"in {output}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *cells, last = (
            text.ljust(w) if i in (0, len(row) - 1) else text.rjust(w)
            for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join((first, *cells, last)).rstrip()
    yield from _notes(costs, device)


def _notes(costs: Sequence[Cost], device: torch.device) -> Iterator[str]:
    pictures = sum(c.work.pictures for c in costs)
    if pictures:
        yield (
            f"chains: images of the text optimisation, each with a gradient. PFLOP and time also "
            f"hold {pictures:,} images that show c0 and c; what the store holds already is not "
            f"taken off."
        )
    sources = (c.run.source.path for c in costs if c.run.source)
    yield from dict.fromkeys(f"The generated images are those of {path}." for path in sources)
    if any(c.finished for c in costs):
        yield "A finished run costs nothing."
    yield from dict.fromkeys(filter(None, (unprobed(c, device) for c in costs)))
    warning = full_size_on_cpu(costs, device)
    if warning:
        yield f"{warning}; a run asks for --device cpu."


def totals(costs: Sequence[Cost]) -> tuple[Work, float | None, float | None]:
    """Work, FLOP and seconds of all; None where one is not known."""
    left = [c for c in costs if not c.finished]
    flop, seconds = ([getattr(c, name) for c in left] for name in ("flop", "seconds"))
    return sum((c.work for c in costs), Work()), *(
        None if None in values else sum(values) for values in (flop, seconds)
    )


def _numbers(work: Work, flop: float | None, seconds: float | None) -> tuple[str, ...]:
    counts = (f"{n:,}" for n in (work.labels, work.images, work.chains))
    return (*counts, _pflop(flop), _bytes(work.disk), _time(seconds))


def _pflop(flop: float | None) -> str:
    return "?" if flop is None else three(flop / 1e15)


def _time(seconds: float | None) -> str:
    """In the unit in which people think of it."""
    if seconds is None:
        return "?"
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{three(seconds / length)} {unit}"
    return f"{three(seconds)} s"


def three(x: float) -> str:
    """Two digits, or all before the point; never an exponent.

    >>> three(0.00123), three(4.56), three(1234.5), three(0)
    ('0.0012', '4.6', '1,234', '0')
    """
    if x == 0 or x >= 10:
        return f"{x:,.0f}"
    return f"{x:.{max(1, 1 - math.floor(math.log10(x)))}f}"


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{three(n) if unit != 'B' else n} {unit}"
        n /= 1000
    return f"{three(n)} TB"
