"""The harness that trains and applies a classifier: DeepALPlus's Net, with the data on the device.

CPU and GPU run the same code. Images are stored on the device as uint8, augmented there in batches,
normalised and fed in channels_last. On GPUs with bfloat16 the network runs under bfloat16 autocast.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import seeding
from .augmentation import augment, draw
from .classifiers.base import Classifier, check_outputs, frozen_call
from .config import RunConfig
from .device import is_out_of_memory, synchronize
from .errors import UserError, said
from .objective import HeadDropout, Objective, dropout_masks
from .pool import ImageSet
from .precision import autocast
from .training import Training, for_batchnorm, split_batches

GPU_EVAL_BATCH = 1024  # images of 32×32 pixels; fewer if they are larger
CPU_EVAL_BATCH = 64  # activations stay in the cache: 2.5× as fast as 1024 (small_cnn, 28 px)
MC_BLOCK = 3 * 2**19  # probabilities, over all Monte Carlo passes, scored at once: 6 MB
MC_GROUPS = 64
NOISY_BATCH = 1000  # DeepALPlus's test batch; its statistics are the Monte Carlo noise
OBJECTIVE = "objective."  # prefix of the objective's tensors in a stored classifier


class Outputs(NamedTuple):
    """Outputs of one pass over N images, float32 on the learner's device.

    Attributes:
        logits: [N, K]; embeddings: [N, D].
    """

    logits: Tensor
    embeddings: Tensor


class Learner:
    """Fits a fresh classifier each round and computes its outputs for strategies.

    Attributes:
        clf: the current classifier (after the first fit or load), on `device`.
        device: where it runs.
        objective: what a fit minimises; a strategy may put its own here.
        extra_train_seconds: time spent in `extra_training` this round.
        compiled_from: on a GPU, a fit of this many steps or more is compiled; None for never.
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
        self.objective = Objective()
        self.extra_train_seconds = 0.0
        self.compiled_from: int | None = None
        self._seen: tuple[ImageSet, Outputs] | None = None
        self._mean = self._std = torch.zeros(())

    # -- training ----------------------------------------------------------------------------

    def fit(self, data: ImageSet, round: int, member: int = 0) -> int:
        """Train a freshly initialised classifier and the objective's own modules.

        Uses the random streams weights, batches, dropout and network.

        Args:
            data: the training set, at least one image.
            round, member: name the streams, see seeding.py.

        Returns:
            The number of optimiser steps.

        Raises:
            UserError: out of memory, or the fit diverged.
        """
        key = (round, member) if member else (round,)
        self._new_classifier(*key)
        self._set_statistics(data.mean, data.std)
        self._use_dropout(*key)
        rng = seeding.torch_rng(self.config.seed, "batches", *key)
        with self._said_if_too_large(data), self._seeded("network", *key):
            x, y = self._on_device(data.X), data.Y.to(self.device)
            training = Training(
                self.clf, self.objective, self.config, self._normalise, x, y, data.n_generated
            )
            return training.run(rng, self.compiled_from)

    def train(self, data: ImageSet, *, member: int = 0) -> None:
        """DeepALPlus's name for a fit outside the rounds; uses round 0's streams."""
        self.fit(data, 0, member)

    def _new_classifier(self, *key: int) -> None:
        """Make a classifier from stream weights(key), so that all strategies start from the same
        weights."""
        with self._seeded("weights", *key):
            self._make_classifier()

    def _make_classifier(self) -> None:
        """Make a classifier and the objective's modules; draws from torch's global CPU
        generator."""
        self._seen = None
        clf = self.architecture(self.image_shape, self.n_classes)
        self.objective.build(clf, self.image_shape)
        self.clf = clf.to(self.device, memory_format=torch.channels_last)
        self.objective.to(self.device)

    @contextlib.contextmanager
    def _seeded(self, stream: str, *key: int) -> Iterator[None]:
        """Seed torch's global generators from a stream. The CPU generator is restored after the
        block."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeding.derive(self.config.seed, stream, *key))
            yield

    def _use_dropout(self, *key: int) -> None:
        """Set up head dropout for the fit, if this run's strategy reads head_dropout."""
        if self.config.head_dropout is not None:
            if not isinstance(getattr(self.clf, "head", None), nn.Linear):
                raise UserError(
                    f"the classifier {type(self.clf).__name__} has no `head` for head dropout, a "
                    f"torch.nn.Linear: give it one (Monte Carlo strategies do without under "
                    f"--mc-noise batchnorm)"
                )
            rng = seeding.torch_rng(self.config.seed, "dropout", *key)
            self.objective.dropout = HeadDropout(self.config.head_dropout, rng)

    @contextlib.contextmanager
    def extra_training(self) -> Iterator[None]:
        """Measure the time that a strategy trains other networks; the results have a column for
        it."""
        started = self.clock()
        yield
        self.extra_train_seconds += self.clock() - started

    def clock(self) -> float:
        """Time in seconds, read after the device has finished its work."""
        synchronize(self.device)
        return time.perf_counter()

    @contextlib.contextmanager
    def _said_if_too_large(self, data: ImageSet) -> Iterator[None]:
        """Turn out-of-memory into a one-line error.

        The batch is not made smaller, because that would be another fit.

        Raises:
            UserError: memory ran out.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"out of memory: a fit of {self.config.classifier} on {len(data):,} images with "
                f"--batch-size {self.config.batch_size} does not fit on {self.device} "
                f"({said(error)}); what is recorded is kept: with more memory the same command "
                f"goes on, a smaller --batch-size makes it another run"
            ) from error

    # -- outputs for strategies --------------------------------------------------------------

    def outputs(self, data: ImageSet) -> Outputs:
        """Logits and embeddings of one pass in eval mode, on the learner's device.

        The outputs for the last ImageSet object are kept until the next fit. So a query needs only
        one pass over the pool.

        Raises:
            UserError: some are NaN or infinite, or have another shape.
        """
        if self._seen is None or self._seen[0] is not data:
            logits = torch.empty(len(data), self.n_classes, device=self.device)
            embeddings = torch.empty(len(data), self.clf.embedding_dim, device=self.device)
            for part, x in self._eval_batches(data):
                answer = self._in_eval(self.clf, x)
                check_outputs(self.clf, answer, len(x), self.n_classes)
                logits[part], embeddings[part] = answer
            self._check_finite(logits, embeddings)
            self._seen = (data, Outputs(logits, embeddings))
        return self._seen[1]

    def _check_finite(self, logits: Tensor, embeddings: Tensor) -> None:
        finite = logits.isfinite().all(1) & embeddings.isfinite().all(1)
        bad = int((~finite).sum())
        if bad:
            raise UserError(
                f"the classifier {self.config.classifier} gives logits or embeddings that are not "
                f"finite for {bad:,} of {len(finite):,} images: its forward is at fault, or its "
                f"fit diverged (--lr {self.config.lr:g})"
            )

    def apply(self, data: ImageSet, function: Callable[[Tensor], Tensor]) -> Tensor:
        """[N, ...] float32 on the device: a function of the classifier, batch by batch.

        Args:
            function: [B, C, H, W] normalised images -> [B, ...]; called without gradients, with the
                classifier in eval mode.
        """
        parts = [self._in_eval(function, x).float() for _, x in self._eval_batches(data)]
        return torch.cat(parts) if parts else torch.empty(0, device=self.device)

    def predict_logits(self, data: ImageSet) -> Tensor:
        """[N, K] float32 CPU logits in eval mode; a copy, so the caller may change it."""
        return self.outputs(data).logits.to("cpu", copy=True)

    def predict_prob(self, data: ImageSet) -> Tensor:
        """[N, K] float32 CPU class probabilities; rows sum to 1."""
        return self.predict_logits(data).softmax(1)

    def predict(self, data: ImageSet) -> Tensor:
        """[N] int64 CPU class predictions."""
        return self.predict_logits(data).argmax(1)

    def get_embeddings(self, data: ImageSet) -> Tensor:
        """[N, D] float32 CPU embeddings in eval mode; a copy, so the caller may change it."""
        return self.outputs(data).embeddings.to("cpu", copy=True)

    def get_grad_embeddings(self, data: ImageSet) -> np.ndarray:
        """[N, K·D] float32, (p - onehot(argmax p)) ⊗ embedding, in DeepALPlus's dense form.

        It is there for DeepALPlus's strategies. BadgeSampling here uses only the two factors.
        """
        logits, embeddings = self.outputs(data)
        residual = logits.softmax(1) - F.one_hot(logits.argmax(1), self.n_classes)
        return torch.einsum("nk,nd->nkd", residual, embeddings).flatten(1).cpu().numpy()

    def apply_to_passes(
        self, data: ImageSet, function: Callable[[Tensor], Tensor], passes: int | None = None
    ) -> Tensor:
        """[N, ...] on the device: a function of each image's Monte Carlo passes.

        With head_dropout, the body runs once over the pool and the passes differ only in the head.
        The images are split at random into at least MC_GROUPS groups. In each pass, the images of a
        group share one dropout mask from torch's global rng. (Kirsch et al. 2019 use one mask for
        all images. Then near duplicates score alike: BALDDropout on Digits lost 1.6 ± 1.3 points,
        20 seeds.)

        With batchnorm, a copy of the network runs in training mode, so each batch is normalised by
        its own statistics. The classifier's running statistics do not change. Each pass shuffles
        the images into new batches. (DeepALPlus does not shuffle. Without augmentation all its
        passes are alike.) A strategy that does not declare that it reads `mc_noise` gets batchnorm.

        Args:
            function: [T, B, K] float32 class probabilities, T passes for B images -> [B, ...].
            passes: T; default mc_passes, or DeepALPlus's 10 if the strategy does not read it.
        """
        passes = passes or self.config.mc_passes or 10
        dropout = self.config.mc_noise == "head_dropout"
        draws = self._dropped_heads if dropout else self._noisy_networks
        rows, answers = zip(*((r, function(p)) for r, p in draws(data, passes)), strict=True)
        answers = torch.cat(answers)
        in_order = torch.empty_like(answers)
        in_order[torch.cat(rows).to(self.device)] = answers
        return in_order

    def _noisy_networks(self, data: ImageSet, passes: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (rows [B], their probabilities [T, B, K]), block by block."""
        noisy = copy.deepcopy(self.clf).train()
        size = min(NOISY_BATCH, -(-len(data) // 2))  # at least 2 batches, to shuffle between
        for block in split_batches(len(data), 8 * NOISY_BATCH):
            draws = [self._noisy_logits(noisy, data, block, size) for _ in range(passes)]
            yield torch.arange(block.start, block.stop), torch.stack(draws).softmax(2)

    @torch.no_grad()
    def _noisy_logits(self, noisy: Classifier, data: ImageSet, block: slice, size: int) -> Tensor:
        """[B, K] logits of a block of images, in training mode and in random batches."""
        n = block.stop - block.start
        logits = torch.empty(n, self.n_classes, device=self.device)
        order = torch.randperm(n)
        for part in split_batches(n, size):
            x = self._batch(data, (block.start + order[part]).numpy())
            with autocast(self.config, self.device):
                logits[order[part]] = noisy(for_batchnorm(x))[0][: len(x)].float()
        return logits

    @torch.no_grad()
    def _dropped_heads(self, data: ImageSet, passes: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (rows [B], their probabilities [T, B, K]), group by group. A pass multiplies only
        the embedding dimensions that its mask keeps."""
        p, head = self.config.head_dropout, self.clf.head
        embeddings, weight = self.outputs(data).embeddings, head.weight.T.contiguous() / (1 - p)
        bias = weight.new_zeros(()) if head.bias is None else head.bias
        buffer = weight.new_empty(passes, max(1, len(data) // MC_GROUPS), weight.shape[1])
        at_once = max(1, MC_BLOCK // buffer[:, 0].numel())
        for rows in torch.randperm(len(data)).split(buffer.shape[1]):
            # Transposed, because picking rows is faster than picking columns.
            h = embeddings[rows.to(self.device)].T.contiguous()
            logits = buffer[:, : len(rows)]
            kept = dropout_masks((passes, len(h)), p)
            used = kept.nonzero()[:, 1].to(h.device).split(kept.sum(1).tolist())
            for out, of_pass in zip(logits, used, strict=True):
                torch.addmm(bias, h[of_pass].T, weight[of_pass], out=out)
            for part in split_batches(len(rows), at_once):
                yield rows[part], logits[:, part].softmax(2)

    def predict_prob_dropout(self, data: ImageSet, n_drop: int | None = None) -> Tensor:
        """[N, K] float32 CPU, the mean of the Monte Carlo passes."""
        return self.apply_to_passes(data, lambda p: p.mean(0), n_drop).cpu()

    def predict_prob_dropout_split(self, data: ImageSet, n_drop: int | None = None) -> Tensor:
        """[n_drop, N, K] float32 CPU, each Monte Carlo pass."""
        return self.apply_to_passes(data, lambda p: p.transpose(0, 1), n_drop).transpose(0, 1).cpu()

    def get_model(self) -> Classifier:
        """The current classifier, under DeepALPlus's name."""
        return self.clf

    def logits(self, images: Tensor) -> Tensor:
        """Differentiable logits of images that are normalised as in training and testing.

        Float32 without autocast, eval mode. Gradients flow to the images, not to the weights.

        Args:
            images: [B, C, H, W] float in [0, 1] on any device, of the data set's size.

        Returns:
            [B, K] logits on the learner's device.
        """
        return frozen_call(self.clf, self._normalise(images.to(self.device)))[0]

    def _eval_batches(self, data: ImageSet) -> Iterator[tuple[slice, Tensor]]:
        """Yield (slice, normalised images) over all N images."""
        size = CPU_EVAL_BATCH
        if self.device.type != "cpu":
            pixels = self.image_shape[0] * self.image_shape[1]
            size = min(GPU_EVAL_BATCH, max(1, GPU_EVAL_BATCH * 32 * 32 // pixels))
        for part in split_batches(len(data), size):
            yield part, self._batch(data, part)

    def _batch(self, data: ImageSet, part: slice | np.ndarray) -> Tensor:
        """Normalised images as strategies see them, augmented if `data.augmented`."""
        x = self._on_device(data.X[part]).float().div(255)
        if data.augmented:
            draws = draw(len(x), self.config, torch.default_generator)
            x = augment(x, {k: v.to(x.device) for k, v in draws.items()}, self.config)
        return self._normalise(x)

    @torch.no_grad()
    def _in_eval(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        self.clf.eval()
        with autocast(self.config, self.device):
            return function(x)

    # -- saving ------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """CPU copies of the classifier's and the objective's tensors, for safetensors."""
        own = {f"{OBJECTIVE}{k}": v for k, v in self.objective.state_dict().items()}
        tensors = self.clf.state_dict() | own
        # Cloned, because networks may tie weights and safetensors does not store a tensor twice.
        return {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}

    def load_state(self, state: dict[str, Tensor], mean: tuple, std: tuple) -> None:
        """Load the tensors of `state()` into a new classifier and set its normalisation.

        The objective's tensors are ignored if this learner's objective has none (--predict).
        """
        with torch.random.fork_rng(devices=[]):  # its initial weights are overwritten
            self._make_classifier()
        own = {k.removeprefix(OBJECTIVE): v for k, v in state.items() if k.startswith(OBJECTIVE)}
        self.clf.load_state_dict({k: v for k, v in state.items() if not k.startswith(OBJECTIVE)})
        if self.objective.state_dict():
            self.objective.load_state_dict(own)
        self.clf.eval()
        self._set_statistics(mean, std)

    # -- helpers -----------------------------------------------------------------------------

    def _on_device(self, x: np.ndarray) -> Tensor:
        """[N, H, W, C] uint8 array -> [N, C, H, W] uint8 on the device, channels_last."""
        x = np.ascontiguousarray(x)
        # torch.from_numpy warns about read-only arrays.
        x = (torch.from_numpy(x) if x.flags.writeable else torch.tensor(x)).to(self.device)
        return x.permute(0, 3, 1, 2)

    def _set_statistics(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self._mean, self._std = (
            torch.tensor(v, dtype=torch.float32, device=self.device)[:, None, None]
            for v in (mean, std)
        )

    def _normalise(self, x: Tensor) -> Tensor:
        """[0, 1] -> zero mean, unit variance, channels_last."""
        x = (x - self._mean) / self._std
        return x.contiguous(memory_format=torch.channels_last)
