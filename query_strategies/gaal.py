"""GAAL: queries are images of a GAN, moved to the decision boundary of an SVM on pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from deepal_galot import seeding
from deepal_galot.config import RunConfig
from deepal_galot.images import to_uint8, to_unit_float
from deepal_galot.learner import Learner
from deepal_galot.pool import ImageSet, Pool, SyntheticQuery

from .strategy import Strategy

# The GAN has the layout of Radford et al. 2016. It is narrower than theirs, with fewer latents and
# a higher learning rate, so that a minute on one CPU core gives legible MNIST digits. The values
# were chosen on MNIST and Digits.
LATENT = 32  # entries of z, standard normal
WIDTH = 32  # channels at half the image's size, doubled with each further halving
MOST_CHANNELS = 256
GAN_BATCH = 64
GAN_RATE, GAN_BETAS = 1e-3, (0.5, 0.999)  # Adam

# The descent to the boundary, chosen on MNIST.
DESCENT_STEPS = 50
DESCENT_RATE = 0.1  # Adam
DESCENT_BATCH = 256  # bounds the memory; images do not depend on the others in their batch

SVM_C = 1.0  # scikit-learn's default; best of 0.1, 1, 10 on 1,000 images of MNIST, FashionMNIST
SVM_ITERATIONS = 300  # maximum; on 10,000 CIFAR10 images within 0.1 % of the smallest loss


class GAAL(Strategy):
    """GAN images at the decision boundary of an SVM on pixels; Zhu & Bento 2017

    The GAN is trained once a run, on all images of the pool without labels. The SVM is linear,
    one-vs-rest, and is fitted in each round to all human labels. A query starts at a random latent
    z. Over z it minimises the squared distance of the image to the boundary between the two classes
    with the highest decision values there. (Multi-class as in arXiv 2412.16227; the original has
    two classes.) z keeps its length, because nearly all of a Gaussian in many dimensions lies at
    one distance from 0. Queries are diverse because their starting points are random.

    Time: gan_steps batches through both networks once a run; O(|L|·D·K) for an iteration of the
    SVM on D pixel values, K classes; n·DESCENT_STEPS passes of the generator. Memory: the pool as
    uint8, O(|L|·D) for the SVM, DESCENT_BATCH images with gradients for the descent.

    Class attributes:
        gan_steps: optimiser steps of each of the GAN's networks for images whose smaller side is
            below 32 pixels; four times as many for each further doubling of it.
    """

    remark = "queries are images that its GAN makes; a classifier trained on all labels names them"
    picks_real = False
    gan_steps = 2000

    def __init__(
        self, dataset: Pool, net: Learner, args_input: RunConfig, args_task: dict[str, Any]
    ) -> None:
        super().__init__(dataset, net, args_input, args_task)
        self._svm: LinearSVM | None = None
        self._svm_size = 0  # images it was fitted to

    def query(self, n: int) -> SyntheticQuery:
        generator, svm = self.generator, self.svm()
        batches = [
            to_uint8(descend(generator, svm, z.to(self.net.device)))
            for z in torch.randn(n, LATENT).split(DESCENT_BATCH)
        ]
        return SyntheticQuery(np.concatenate(batches))

    def measure(self) -> dict[str, float]:
        """The SVM's accuracy on the test images, because publications report it for GAAL."""
        if 0 in (self.dataset.n_test, self.dataset.n_labeled):
            return {}
        return {"svm_accuracy": self.dataset.cal_test_acc(self.svm().predict(self.dataset.X_test))}

    @cached_property
    def generator(self) -> GANGenerator:
        """The GAN's generator, trained on first use from random streams of its own.

        So it is the same after a restart: on a CPU always, on a GPU with --deterministic.
        """
        images, device = self.dataset.X_train, self.net.device
        with self.net.extra_training():
            return train_gan(images, self.gan_steps, self.args_input.seed, device)

    def svm(self) -> LinearSVM:
        """The SVM, fitted to all human labels so far."""
        data = self.dataset.human_labeled()
        if self._svm is None or self._svm_size != len(data):  # labels are only ever added
            with self.net.extra_training():
                self._svm, self._svm_size = fit_svm(data, self.net.device), len(data)
        return self._svm


# -- the GAN -----------------------------------------------------------------------------------


def doublings(image_shape: tuple[int, int, int]) -> int:
    """How often the generator doubles the size, from 4 … 7 pixels to the smaller side."""
    return max(1, int(math.log2(min(image_shape[:2]) / 4)))


def channels(level: int) -> int:
    """Channels of the feature maps after `level` halvings of the image, level ≥ 1."""
    return min(WIDTH * 2 ** (level - 1), MOST_CHANNELS)


class GANGenerator(nn.Module):
    """[B, LATENT] -> [B, C, H, W] in [0, 1]. A side that is no multiple of 2^doublings is cut from
    the centre of the next larger multiple."""

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.height, self.width, colours = image_shape
        depth = doublings(image_shape)
        h, w = (math.ceil(side / 2**depth) for side in image_shape[:2])
        self.first = nn.Sequential(
            nn.Linear(LATENT, channels(depth) * h * w, bias=False),
            nn.Unflatten(1, (channels(depth), h, w)),
            nn.BatchNorm2d(channels(depth)),
            nn.ReLU(),
        )
        self.doubling = nn.Sequential(
            *(
                nn.Sequential(
                    nn.ConvTranspose2d(channels(i + 1), channels(i), 4, 2, 1, bias=False),
                    nn.BatchNorm2d(channels(i)),
                    nn.ReLU(),
                )
                for i in range(depth - 1, 0, -1)
            )
        )
        self.last = nn.ConvTranspose2d(channels(1), colours, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = torch.sigmoid(self.last(self.doubling(self.first(z))))
        top, left = (x.shape[2] - self.height) // 2, (x.shape[3] - self.width) // 2
        return x[:, :, top : top + self.height, left : left + self.width]


class Discriminator(nn.Module):
    """[B, C, H, W] in [0, 1] -> [B] logits of being real."""

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        height, width, colours = image_shape
        depth = doublings(image_shape)
        layers: list[nn.Module] = []
        for i in range(1, depth + 1):
            before = colours if i == 1 else channels(i - 1)
            layers += [nn.Conv2d(before, channels(i), 4, 2, 1, bias=i == 1)]
            layers += [nn.BatchNorm2d(channels(i))] if i > 1 else []
            layers += [nn.LeakyReLU(0.2)]
        size = channels(depth) * (height >> depth) * (width >> depth)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x * 2 - 1)[:, 0]


def train_gan(images: np.ndarray, gan_steps: int, seed: int, device: torch.device) -> GANGenerator:
    """Train a GAN on images; return its generator, in eval mode with frozen weights.

    Random numbers come from the run's stream `model`; the global generators do not change. Each
    step draws its images with replacement, so any N ≥ 1 works.

    Args:
        images: [N, H, W, C] uint8.
        gan_steps: see GAAL.
    """
    rng = seeding.torch_rng(seed, "model", 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.derive(seed, "model", 0))
        nets = GANGenerator(images.shape[1:]), Discriminator(images.shape[1:])
    generator, discriminator = (net.to(device).train() for net in nets)
    adam = [torch.optim.Adam(net.parameters(), GAN_RATE, GAN_BETAS) for net in nets]
    steps = gan_steps * 4 ** max(0, doublings(images.shape[1:]) - 2)
    pool = torch.tensor(images, device=device)
    for _ in tqdm(range(steps), "  GAN", unit="step", leave=False, disable=None):
        real = to_unit_float(pool[torch.randint(len(pool), (GAN_BATCH,), generator=rng).to(device)])
        fake = generator(torch.randn(GAN_BATCH, LATENT, generator=rng).to(device))
        loss = F.softplus(-discriminator(real)) + F.softplus(discriminator(fake.detach()))
        update(adam[1], loss.mean())
        update(adam[0], F.softplus(-discriminator(fake)).mean())
    return generator.eval().requires_grad_(False)


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one optimiser step on the loss."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


# -- the SVM -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LinearSVM:
    """A linear decision value for each of the K classes that have a label.

    Attributes:
        weights: [K, D] float32; biases: [K].
        classes: [K] int64.
        mean, std: [C, 1, 1], the data set's pixel statistics.
    """

    weights: Tensor
    biases: Tensor
    classes: Tensor
    mean: Tensor
    std: Tensor

    def decide(self, images: Tensor) -> Tensor:
        """[B, C, H, W] float in [0, 1] -> [B, K] decision values."""
        return pixel_values(images, self.mean, self.std) @ self.weights.T + self.biases

    def distance(self, images: Tensor) -> Tensor:
        """[B] distance to the boundary between the classes a and b with the two highest decision
        values, in the SVM's space: |f_a - f_b| / ‖w_a - w_b‖. Differentiable.

        Args:
            images: [B, C, H, W] float in [0, 1].
        """
        values, leading = self.decide(images).topk(2)
        a, b = self.weights[leading].unbind(1)
        return (values[:, 0] - values[:, 1]) / (a - b).norm(dim=1).clamp_min(1e-12)

    def predict(self, images: np.ndarray) -> Tensor:
        """[N, H, W, C] uint8 -> [N] int64 CPU classes."""
        batches = torch.tensor(images).split(DESCENT_BATCH)
        values = [self.decide(to_unit_float(x.to(self.weights.device))) for x in batches]
        return self.classes[torch.cat(values).argmax(1)].cpu()


def pixel_values(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """[B, C, H, W] float in [0, 1] -> [B, D], normalised and divided by √D, so that one SVM_C fits
    all image sizes."""
    x = ((images - mean) / std).flatten(1)
    return x / math.sqrt(x.shape[1])


def fit_svm(data: ImageSet, device: torch.device) -> LinearSVM:
    """Fit the SVM one-vs-rest: min_w ‖w‖²/2 + SVM_C·Σ max(0, 1 - t·w·x)², t = ±1, x with a 1 for
    the bias.

    scikit-learn's LinearSVC minimises the same loss. Here L-BFGS minimises it for all classes at
    once, with matrix products on the device.

    Args:
        data: at least one image with its label.
    """
    mean, std = (
        torch.tensor(v, dtype=torch.float32, device=device)[:, None, None]
        for v in (data.mean, data.std)
    )
    x = F.pad(pixel_values(to_unit_float(data.X).to(device), mean, std), (0, 1), value=1.0)
    classes, y = data.Y.to(device).unique(return_inverse=True)
    signs = F.one_hot(y, len(classes)) * 2.0 - 1
    w = torch.zeros(len(classes), x.shape[1], device=device, requires_grad=True)
    solver = torch.optim.LBFGS(
        [w], max_iter=SVM_ITERATIONS, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = w.square().sum() / 2 + SVM_C * F.relu(1 - signs * (x @ w.T)).square().sum()
        value.backward()
        return value

    solver.step(loss)
    w = w.detach()
    return LinearSVM(w[:, :-1], w[:, -1], classes, mean, std)


# -- the query ---------------------------------------------------------------------------------


def descend(generator: GANGenerator, svm: LinearSVM, z: Tensor) -> Tensor:
    """Move latents towards the boundary; return for each the nearest image that was on its way.

    With a single class there is no boundary. The result then is the starting latents' images.

    Args:
        z: [B, LATENT] starting latents.

    Returns:
        [B, C, H, W] in [0, 1].
    """
    best = generator(z)
    if len(svm.classes) == 1:
        return best
    length = z.norm(dim=1, keepdim=True)
    nearest = torch.full((len(z),), torch.inf, device=z.device)
    z = z.clone().requires_grad_()
    adam = torch.optim.Adam([z], DESCENT_RATE)
    for _ in range(DESCENT_STEPS):
        images = generator(z)
        distance = svm.distance(images)
        better = distance.detach() < nearest
        nearest = torch.where(better, distance.detach(), nearest)
        best = torch.where(better[:, None, None, None], images.detach(), best)
        update(adam, distance.square().sum())
        with torch.no_grad():
            z.mul_(length / z.norm(dim=1, keepdim=True))
    return best
