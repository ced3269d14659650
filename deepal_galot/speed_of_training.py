"""Images a second of a fit beside a plain loop's, for `python -m deepal_galot.speed train`.

The plain loop is what DeepALPlus does: a DataLoader that changes one image at a time by
torchvision's transforms, and eager float32 steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from . import registry
from .campaign import machine
from .classifiers.base import Classifier
from .config import RunConfig, resolve
from .device import pick_device
from .errors import UserError
from .learner import Learner, product_dtype
from .pool import ImageSet
from .timing import alternately, matrix_rate, with_spread
from .training import make_optimizer

CIFAR_SHAPE = (32, 32, 3)
N_CLASSES = 10
BACKWARD = 2  # a backward pass takes as many products again for the inputs, and for the weights
ON_GPU = {"batch": (32, 128, 512), "images": (1000, 10_000), "workers": 1}
ON_CPU = {"batch": (32,), "images": (256,), "workers": 0}


def train_lines(args: argparse.Namespace) -> Iterator[str]:
    """The report of `train`, line by line as it is measured."""
    device = pick_device(args.device)
    usual = ON_GPU if device.type == "cuda" else ON_CPU
    batches, sizes = args.batch or usual["batch"], args.images or usual["images"]
    workers = usual["workers"] if args.workers is None else args.workers
    torch.backends.cudnn.allow_tf32 = False  # as a run has it
    architecture = registry.classifiers.get(args.classifier)
    data = _images(args.dataset, max(sizes))
    flops = count_flops(architecture, data.X.shape[1:])
    fields = {"protocol": args.protocol, "epochs": args.epochs, "min_steps": 0,
              "precision": args.precision}  # fmt: skip
    config = resolve("RandomSampling", args.dataset or "random", flags=fields)
    dtype = product_dtype(config, device)
    limit = matrix_rate(device, dtype)
    yield ", ".join(f"{k} {v}" for k, v in machine(device).items())
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
            yield _compare(of_batch, architecture, part, device, workers, flops, limit)


def _compare(
    config: RunConfig, architecture: type[Classifier], data: ImageSet, device: torch.device,
    workers: int, flops: float, limit: float,
) -> str:  # fmt: skip
    learner = Learner(config, architecture, data.X.shape[1:], N_CLASSES, device)

    def ours() -> None:
        learner.fit(data, 0)

    def plain() -> None:
        fit_plainly(config, architecture, data, device, workers)

    seen = config.epochs * len(data)
    rates = {
        name: [seen / s for s in seconds]
        for name, seconds in alternately({"ours": ours, "plain": plain}, device).items()
    }
    median = {name: statistics.median(r) for name, r in rates.items()}
    return (
        f"{len(data):6,} images  batch {config.batch_size:<4} ours {with_spread(rates['ours'])}  "
        f"{median['ours'] * flops / 1e12:.3g} TFLOP/s  {median['ours'] * flops / limit:.1%} of "
        f"{limit / 1e12:.3g}  plain {with_spread(rates['plain'])}  ours is "
        f"{median['ours'] / median['plain']:.2f}× plain"
    )


def _images(dataset: str | None, n: int) -> ImageSet:
    """n labeled images of a data set, or of noise; they say nothing about accuracy."""
    if dataset is None:
        x = np.random.default_rng(0).integers(0, 256, (n, *CIFAR_SHAPE), np.uint8)
        return ImageSet(x, torch.arange(n) % N_CLASSES, (0.5,) * 3, (0.25,) * 3)
    spec = registry.datasets.get(dataset)().load(Path("data"))
    if spec.n_classes > N_CLASSES or len(spec.x_train) == 0:
        raise UserError(f"--dataset {dataset}: needs images of at most {N_CLASSES} classes")
    rows = np.arange(n) % len(spec.x_train)  # again from the start where there are fewer
    return ImageSet(spec.x_train[rows], torch.as_tensor(spec.y_train[rows]), spec.mean, spec.std)


def count_flops(architecture: type[Classifier], image_shape: Sequence[int]) -> float:
    """Of a training step, an image."""
    height, width, channels = image_shape
    clf = architecture(tuple(image_shape), N_CLASSES).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        clf(torch.zeros(1, channels, height, width))
    return counter.get_total_flops() * (1 + BACKWARD)


class _OneByOne(Dataset):
    """Images through torchvision's transforms, in DeepALPlus's form."""

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
    config: RunConfig, architecture: type[Classifier], data: ImageSet, device: torch.device,
    workers: int,
) -> Any:  # fmt: skip
    """The same network, optimiser, batch size, augmentation and loss the plain way, without a
    schedule and averaged weights; the network."""
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
