"""The harness that trains and applies a classifier: DeepALPlus's Net, with the data on the device.

One code path on CPU and GPU: images live on the device as uint8, are augmented there in batches,
normalised and fed in channels_last; on GPUs that have it the network runs in bfloat16 autocast.
"""

from __future__ import annotations

import contextlib
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from . import seeding
from .classifiers.base import Classifier
from .config import RunConfig
from .pool import ImageSet

EVAL_BATCH = 1024


class Learner:
    """Fits a fresh classifier each round and answers what strategies ask of it.

    Attributes:
        clf: the current classifier (after the first fit or load), on `device`.
        device: where it runs.
    """

    def __init__(
        self,
        config: RunConfig,
        architecture: type[Classifier],
        image_shape: tuple[int, int, int],
        n_classes: int,
        device: torch.device,
    ) -> None:
        self.config, self.architecture = config, architecture
        self.image_shape, self.n_classes = image_shape, n_classes
        self.device = device
        self.clf: Classifier | None = None
        self._mean = self._std = torch.zeros(())

    # -- training ----------------------------------------------------------------------------

    def fit(self, data: ImageSet, round: int) -> int:
        """Train a newly initialised classifier; weights and batches come from this round's streams.

        Every image is used in every epoch; a last batch of a single image joins the one before,
        because BatchNorm needs two.

        Args:
            data: the training set, at least one image.
            round: names the random streams weights(round) and batches(round).

        Returns:
            The number of optimiser steps.
        """
        config = self.config
        self.clf = self._new_classifier(round)
        self._use_statistics(data)
        x, y = self._on_device(data.X), data.Y.to(self.device)
        batches_per_epoch = len(split_batches(len(x), config.batch_size))
        epochs = max(config.epochs, math.ceil(config.min_steps / batches_per_epoch))
        optimizer = self._optimizer()
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        rng = seeding.torch_rng(config.seed, "batches", round)
        self.clf.train()
        for _ in tqdm(range(epochs), "  fit", unit="epoch", leave=False, disable=None):
            order = torch.randperm(len(x), generator=rng).to(self.device)
            for batch in split_batches(len(x), config.batch_size):
                self._step(x[order[batch]], y[order[batch]], optimizer, rng)
            schedule.step()
        self.clf.eval()
        return epochs * batches_per_epoch

    def train(self, data: ImageSet) -> None:
        """DeepALPlus's name for a fit outside the rounds; uses round 0's streams."""
        self.fit(data, round=0)

    def _step(self, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer, rng) -> None:
        if len(x) == 1:  # a training set of one image: BatchNorm needs two in a batch
            x, y = x.expand(2, -1, -1, -1), y.expand(2)
        x = self._normalise(augment(x.float().div(255), self.config, rng))
        optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = F.cross_entropy(self.clf(x)[0].float(), y)
        loss.backward()
        optimizer.step()

    def _new_classifier(self, round: int) -> Classifier:
        """Initialise without disturbing the global generator; the same for every strategy."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeding.derive(self.config.seed, "weights", round))
            clf = self.architecture(self.image_shape, self.n_classes)
        return clf.to(self.device, memory_format=torch.channels_last)

    def _optimizer(self) -> torch.optim.Optimizer:
        c, parameters = self.config, self.clf.parameters()
        if c.optimizer == "sgd":
            return torch.optim.SGD(
                parameters, lr=c.lr, momentum=c.momentum, weight_decay=c.weight_decay
            )
        return torch.optim.Adam(parameters, lr=c.lr, weight_decay=c.weight_decay)

    # -- what strategies ask for -------------------------------------------------------------

    def predict_logits(self, data: ImageSet) -> Tensor:
        """[N, K] float32 CPU logits, in eval mode and without augmentation."""
        return self._forward_all(data)[0]

    def predict_prob(self, data: ImageSet) -> Tensor:
        """[N, K] float32 CPU class probabilities; rows sum to 1."""
        return self.predict_logits(data).softmax(1)

    def predict(self, data: ImageSet) -> Tensor:
        """[N] int64 CPU class predictions."""
        return self.predict_logits(data).argmax(1)

    def get_embeddings(self, data: ImageSet) -> Tensor:
        """[N, D] float32 CPU embeddings, in eval mode and without augmentation."""
        return self._forward_all(data)[1]

    def get_model(self) -> Classifier:
        """The current classifier, by DeepALPlus's name."""
        return self.clf

    def logits(self, images: Tensor) -> Tensor:
        """Differentiable logits of images as the classifier sees them in training and testing.

        Float32 without autocast, eval mode; gradients flow to the images, none to the weights.

        Args:
            images: [B, C, H, W] float in [0, 1] on any device, at the data set's size.

        Returns:
            [B, K] logits on the learner's device.
        """
        parameters = dict(self.clf.named_parameters()) | dict(self.clf.named_buffers())
        frozen = {k: v.detach() for k, v in parameters.items()}
        x = self._normalise(images.to(self.device))
        return torch.func.functional_call(self.clf, frozen, (x,))[0]

    @torch.no_grad()
    def _forward_all(self, data: ImageSet) -> tuple[Tensor, Tensor]:
        self.clf.eval()
        logits = torch.empty(len(data), self.n_classes)
        embeddings = torch.empty(len(data), self.clf.embedding_dim)
        for start in range(0, len(data), EVAL_BATCH):
            part = slice(start, start + EVAL_BATCH)
            x = self._normalise(self._on_device(data.X[part]).float().div(255))
            with self._autocast():
                out, embedding = self.clf(x)
            logits[part], embeddings[part] = out.float().cpu(), embedding.float().cpu()
        return logits, embeddings

    # -- saving ------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """The classifier's tensors on the CPU, for safetensors."""
        return {k: v.detach().cpu().contiguous() for k, v in self.clf.state_dict().items()}

    def load_state(self, state: dict[str, Tensor], mean: tuple, std: tuple) -> None:
        """Become the classifier that `state()` described, with its normalisation."""
        self.clf = self._new_classifier(0)
        self.clf.load_state_dict(state)
        self.clf.eval()
        self._set_statistics(mean, std)

    # -- helpers -----------------------------------------------------------------------------

    def _on_device(self, x: np.ndarray) -> Tensor:
        """[N, H, W, C] uint8 array -> [N, C, H, W] uint8 on the device, channels_last."""
        x = torch.from_numpy(np.ascontiguousarray(x)).to(self.device)
        return x.permute(0, 3, 1, 2)

    def _use_statistics(self, data: ImageSet) -> None:
        self._set_statistics(data.mean, data.std)

    def _set_statistics(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self._mean, self._std = (
            torch.tensor(v, dtype=torch.float32, device=self.device)[:, None, None]
            for v in (mean, std)
        )

    def _normalise(self, x: Tensor) -> Tensor:
        """[0, 1] -> zero mean, unit variance, channels_last."""
        x = (x - self._mean) / self._std
        return x.contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.device.type == "cuda" and torch.cuda.is_bf16_supported():
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return contextlib.nullcontext()


def split_batches(n: int, size: int) -> list[slice]:
    """Slices of `size` that cover 0 … n-1; a last slice of one joins the one before.

    >>> split_batches(5, 2)
    [slice(0, 2, None), slice(2, 5, None)]
    """
    starts = list(range(0, n, size))
    if len(starts) > 1 and n - starts[-1] == 1 and size > 1:
        starts.pop()
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], n], strict=True)]


def augment(x: Tensor, config: RunConfig, rng: torch.Generator) -> Tensor:
    """Random shift, flip, rotation and zoom of each image, in one batch on its device.

    Shift is the random crop after zero padding; rotation and zoom resample bilinearly, zeros
    outside. All draws come from `rng` on the CPU, so that every device sees the same.

    Args:
        x: [B, C, H, W] float in [0, 1].
        config: its shift (pixels), flip (0 or 1), rotate (degrees) and zoom (share).
        rng: the batches stream.
    """
    n, _, height, width = x.shape
    if config.rotate or config.zoom:
        angle = (torch.rand(n, generator=rng) * 2 - 1) * math.radians(config.rotate)
        scale = 1 + (torch.rand(n, 2, generator=rng) * 2 - 1) * config.zoom
        cos, sin = angle.cos(), angle.sin()
        aspect = width / height  # grid_sample's axes run over [-1, 1] whatever the pixel counts
        theta = torch.zeros(n, 2, 3)
        theta[:, 0, 0], theta[:, 0, 1] = cos / scale[:, 0], -sin / aspect / scale[:, 0]
        theta[:, 1, 0], theta[:, 1, 1] = sin * aspect / scale[:, 1], cos / scale[:, 1]
        grid = F.affine_grid(theta, list(x.shape), align_corners=False).to(x.device)
        x = F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)
    if config.flip:
        flip = torch.rand(n, generator=rng).to(x.device) < 0.5
        x = torch.where(flip[:, None, None, None], x.flip(3), x)
    if config.shift:
        pad = config.shift
        dy, dx = torch.randint(0, 2 * pad + 1, (2, n), generator=rng).to(x.device)
        rows = (dy[:, None] + torch.arange(height, device=x.device))[:, None, :, None]
        cols = (dx[:, None] + torch.arange(width, device=x.device))[:, None, None, :]
        image = torch.arange(n, device=x.device)[:, None, None, None]
        channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
        x = F.pad(x, (pad,) * 4)[image, channel, rows, cols]
    return x
