"""Images a second of a fit, compared with a plain loop, for `python -m deepal_galot.speed train`.

The plain loop is DeepALPlus's way: a DataLoader that applies torchvision's transforms to one image
at a time, and eager float32 steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from .. import registry
from ..classifiers.base import Classifier
from ..config import RunConfig
from ..costs import network_of
from ..device import machine_line
from ..errors import UserError
from ..gpu_sharing import side_by_side
from ..learner import Learner
from ..pool import ImageSet
from ..precision import product_dtype
from ..protocols import resolve
from ..timing import alternately, share_of_peak, three_digits, with_spread
from ..training import make_optimizer

CIFAR_SHAPE = (32, 32, 3)
N_CLASSES = 10
ON_GPU = {"batch": (32, 128, 512), "images": (1000, 10_000), "workers": 1}
ON_CPU = {"batch": (32,), "images": (256,), "workers": 0}
# Upper bounds on the images that pass through a fit on a GPU: in the plain loop, and in each of
# several fits at once (the paper's shortest fit: 300 epochs of 1,000 images). Our single fit
# has the protocol's full length, because its first steps are not yet replayed from a graph.
SEEN_PLAINLY, SEEN_AT_ONCE = 4000, 300_000


def train_lines(args: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """The report of `train`; each line is yielded when it is measured."""
    if args.compile and device.type != "cuda":
        raise UserError("--compile: fits are compiled on a GPU alone; leave it out")
    usual = ON_GPU if device.type == "cuda" else ON_CPU
    batches, sizes = args.batch or usual["batch"], args.images or usual["images"]
    workers = usual["workers"] if args.workers is None else args.workers
    architecture = registry.classifiers.get(args.classifier)
    data = _images(args.dataset, args.data_dir, max(sizes))
    flops = network_of(architecture, data.X.shape[1:], N_CLASSES).train
    fields = {"protocol": args.protocol, "min_steps": 0, "precision": args.precision}
    if args.epochs or device.type != "cuda":
        fields["epochs"] = args.epochs or 1
    config = resolve("RandomSampling", args.dataset or "random", flags=fields)
    dtype = product_dtype(config, device)
    yield machine_line(device)
    yield (
        f"{registry.class_name(architecture)}, protocol {args.protocol}, images "
        f"{'×'.join(map(str, data.X.shape[1:]))} of {args.dataset or 'random noise'}, "
        f"{flops / 1e9:.3g} GFLOP an image; images/s, median (range, n), one beside the other; "
        f"share of this device's own matrix rate in the same dtype; ours: "
        f"{str(dtype).removeprefix('torch.')}; plain: float32, loader with {workers} workers"
    )
    for n in sizes:
        for batch in batches:
            of_batch = dataclasses.replace(config, batch_size=batch)
            part = dataclasses.replace(data, X=data.X[:n], Y=data.Y[:n])
            fits = _Fits(of_batch, architecture, part, device, args.compile)
            yield _compare(fits, workers)
            if args.jobs:
                yield _at_once(fits, args.jobs)


@dataclass(frozen=True)
class _Fits:
    """Repeatable fits of one configuration.

    Attributes:
        compiled: compile them, however short they are.
    """

    config: RunConfig
    architecture: type[Classifier]
    data: ImageSet
    device: torch.device
    compiled: bool

    def make(self, epochs: int) -> Callable[[], int]:
        """A function that runs one fit of ours, with its own networks."""
        config = dataclasses.replace(self.config, epochs=epochs)
        shape = self.data.X.shape[1:]
        learner = Learner(config, self.architecture, shape, N_CLASSES, self.device)
        if self.compiled:
            learner.compiled_from = 0
        return lambda: learner.fit(self.data, 0)

    def epochs(self, seen: int) -> int:
        """Epochs for about this many images, at most the protocol's. On a CPU always the
        configuration's."""
        if self.device.type != "cuda":
            return self.config.epochs
        return min(self.config.epochs, math.ceil(seen / len(self.data)))

    def share(self, rate: float) -> str:
        """Text: this rate of images a second as a share of the device's peak."""
        flops = network_of(self.architecture, self.data.X.shape[1:], N_CLASSES).train
        return share_of_peak(rate * flops, self.device, product_dtype(self.config, self.device))


def _compare(fits: _Fits, workers: int) -> str:
    many, few = fits.config.epochs, fits.epochs(SEEN_PLAINLY)
    plainly = dataclasses.replace(fits.config, epochs=few)

    def plain() -> None:
        torch.backends.cudnn.allow_tf32 = True  # torch's default, used by DeepALPlus
        fit_plainly(plainly, fits.architecture, fits.data, fits.device, workers)
        torch.backends.cudnn.allow_tf32 = False

    works = {"ours": fits.make(many), "plain": plain}
    seconds = alternately(works, fits.device, before={"ours": fits.make(1)})
    n = len(fits.data)
    ours, theirs = [n * many / s for s in seconds["ours"]], [n * few / s for s in seconds["plain"]]
    ratio = statistics.median(ours) / statistics.median(theirs)
    return (
        f"{n:6,} images  batch {fits.config.batch_size:<4} ours {with_spread(ours)}  "
        f"{fits.share(statistics.median(ours))}  plain {with_spread(theirs)}  ours is "
        f"{ratio:.2f}× plain"
    )


def _at_once(fits: _Fits, jobs: int) -> str:
    """Text: the rate of `jobs` fits at the same time, each in its own process, as with --jobs."""
    epochs, context = fits.epochs(SEEN_AT_ONCE), multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    ready = context.Barrier(jobs)
    with (
        side_by_side(fits.device),
        ProcessPoolExecutor(jobs, context, _get_ready, (threads, ready)) as pool,
    ):
        futures = [pool.submit(_fit_with_others, fits, epochs) for _ in range(jobs)]
        errors = [e for e in (future.exception() for future in futures) if e is not None]
        for error in sorted(errors, key=lambda e: isinstance(e, BrokenBarrierError)):
            if isinstance(error, BrokenProcessPool):
                raise UserError(f"--jobs {jobs}: a process was killed, as when memory runs out")
            raise error  # the first cause; the barrier's errors come last
        spans = [future.result() for future in futures]
    seconds = max(stop for _, stop in spans) - min(start for start, _ in spans)
    rate = jobs * epochs * len(fits.data) / seconds
    return (
        f"{len(fits.data):6,} images  batch {fits.config.batch_size:<4} {jobs} fits at once: "
        f"{three_digits(rate)} (n=1) in all  {fits.share(rate)}"
    )


_ready: Barrier


def _get_ready(threads: int, ready: Barrier) -> None:
    global _ready
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False
    _ready = ready


def _fit_with_others(fits: _Fits, epochs: int) -> tuple[float, float]:
    """Start and end of a fit, on the clock of all processes. All processes start it together, after
    a warm-up fit of one epoch."""
    try:
        fits.make(1)()
        fit = fits.make(epochs)
    except BaseException:
        _ready.abort()  # or the others would wait forever
        raise
    _ready.wait()
    started = time.time()
    fit()
    return started, time.time()


def _images(dataset: str | None, folder: Path, n: int) -> ImageSet:
    """n labeled images of a data set, or of noise. Only for timing, not for accuracy."""
    if dataset is None:
        x = np.random.default_rng(0).integers(0, 256, (n, *CIFAR_SHAPE), np.uint8)
        return ImageSet(x, torch.arange(n) % N_CLASSES, (0.5,) * 3, (0.25,) * 3)
    spec = registry.datasets.get(dataset)().load(folder)
    if spec.n_classes > N_CLASSES or len(spec.x_train) == 0:
        raise UserError(f"--dataset {dataset}: needs images of at most {N_CLASSES} classes")
    rows = np.arange(n) % len(spec.x_train)  # repeated if there are fewer
    return ImageSet(spec.x_train[rows], torch.as_tensor(spec.y_train[rows]), spec.mean, spec.std)


class _OneByOne(Dataset):
    """Images through torchvision's transforms, one at a time, in DeepALPlus's form."""

    def __init__(self, data: ImageSet, config: RunConfig) -> None:
        from torchvision import transforms as T

        size, changes = data.X.shape[1:3], []
        if config.rotate or config.zoom:
            scale = (1 - config.zoom, 1 + config.zoom)
            changes.append(T.RandomAffine(config.rotate, scale=scale))
        if config.flip:
            changes.append(T.RandomHorizontalFlip())
        if config.shift:
            changes.append(T.RandomCrop(size, config.shift))
        if config.rand_augment:
            changes.append(T.RandAugment(config.rand_augment, int(config.rand_magnitude)))
        changes += [T.ToTensor(), T.Normalize(data.mean, data.std)]
        self.data, self.change = data, T.Compose(changes)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, int]:
        from PIL import Image

        x = self.data.X[i]
        image = Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x)
        return self.change(image), self.data.Y[i], i


def fit_plainly(
    config: RunConfig,
    architecture: type[Classifier],
    data: ImageSet,
    device: torch.device,
    workers: int,
) -> Any:
    """Train the same network the plain way and return it. Optimiser, batch size, augmentation and
    loss are the same; there is no schedule and no weight averaging."""
    clf = architecture(data.X.shape[1:], N_CLASSES).to(device).train()
    optimizer = make_optimizer(config, clf)
    loader = DataLoader(
        _OneByOne(data, config), batch_size=config.batch_size, shuffle=True, num_workers=workers
    )
    for _ in range(config.epochs):
        for x, y, _ in loader:
            x, y = x.to(device), y.to(device)
            optimizer.zero_grad()
            F.cross_entropy(clf(x)[0], y, label_smoothing=config.label_smoothing).backward()
            optimizer.step()
    return clf
