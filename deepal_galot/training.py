"""One training of a classifier: batches, steps, learning rate and averaged weights.

Real and generated images are shuffled together. A batch has about the same share of generated
images as the training set; the exact number is random.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import auxiliary_norm
from .augmentation import augment, draw
from .classifiers.base import Classifier
from .compiled_layers import in_compiled_forms
from .config import RunConfig
from .cuda_graph import Captured, Inputs, stream_for_graphs
from .errors import UserError
from .objective import Batch, Objective
from .precision import WorkingCopies, autocast, product_dtype

# One-cycle (Smith & Topin 2018) with PyTorch's defaults, except that momentum is not cycled.
WARM_UP = 0.3  # share of the fit in which the rate rises
FIRST_RATE = 1 / 25  # of the highest rate: the rate at the start
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # exactly these, not subclasses
MOST_COMPILED = 64  # batch sizes and networks; further ones run uncompiled


class Training:
    """A fit of one classifier and the objective's modules to one training set.

    Attributes:
        x: [N, C, H, W] uint8; y: [N] int64; generated: [N] bool; all on the classifier's device.
        weight: [N] weight of each image's loss, with mean 1; None if all are equal.
        rows: with separate norms, which rows of the current batch are generated; else None.
        copies: during the fit, the 16-bit weights that a step uses; None if autocast casts the
            weights itself.
        network: during the fit, the classifier, compiled or not.
        optimizer, average: during the fit; `average` is None without --ema.
        progress: during the fit, the share of it done so far, in [0, 1).
    """

    def __init__(
        self,
        clf: Classifier,
        objective: Objective,
        config: RunConfig,
        normalise: Callable[[Tensor], Tensor],
        x: Tensor,
        y: Tensor,
        n_generated: int,
    ) -> None:
        """
        Args:
            clf: freshly initialised, on its device.
            normalise: [0, 1] images -> the classifier's input.
            x, y: at least one image; the last n_generated are generated.
        """
        self.clf, self.objective, self.config = clf, objective, config
        self.normalise, self.x, self.y = normalise, x, y
        objective.label_smoothing = config.label_smoothing
        self.generated = torch.arange(len(x), device=x.device) >= len(x) - n_generated
        self.weight = self.rows = self.copies = None
        if 0 < n_generated < len(x):
            if config.synthetic_weight != 1:
                weight = torch.where(self.generated, config.synthetic_weight, 1.0)
                self.weight = weight / weight.mean()
            if config.synthetic_norm == "separate":
                self.rows = auxiliary_norm.set_apart(clf)

    def run(self, rng: torch.Generator, compiled_from: int | None = None) -> int:
        """Train on every image in every epoch, in even batches (see split_batches).

        Args:
            rng: draws the batch order and the augmentation.
            compiled_from: a fit of at least this many steps is compiled; None for never.

        Returns:
            The number of optimiser steps.

        Raises:
            UserError: weights became infinite or NaN.
        """
        models = nn.ModuleList([self.clf, self.objective])
        self.optimizer = make_optimizer(self.config, models, self._capturable)
        self.average = WeightAverage(models, self.config.ema) if self.config.ema else None
        per_epoch = count_batches(len(self.x), self.config.batch_size)
        epochs = count_epochs(self.config, len(self.x))
        worth_it = compiled_from is not None and epochs * per_epoch >= compiled_from
        self.network = _compiled(self.clf) if worth_it and self._capturable else self.clf
        self.clf.train()
        with self._at_speed(models, epochs * per_epoch):
            self._run(epochs, per_epoch, rng)
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.give_back()
        auxiliary_norm.join(self.clf)
        self.clf.eval()
        if not all(v.isfinite().all() for v in models.state_dict().values()):
            raise UserError(
                f"the fit on {len(self.x):,} images diverged: after {epochs * per_epoch:,} steps "
                f"some weights are not finite; lower --lr {self.config.lr:g}"
            )
        return epochs * per_epoch

    def _run(self, epochs: int, per_epoch: int, rng: torch.Generator) -> None:
        """Do all steps, on the current stream."""
        total = epochs * per_epoch
        step_on = self._as_graph() if self._capturable else self._step
        shown = {"unit": " images", "unit_scale": True, "leave": False, "disable": None}
        with tqdm(desc="  fit", total=epochs * len(self.x), **shown) as bar:
            for step, inputs in enumerate(self._batches(epochs, rng)):
                self._set_rate(step, per_epoch, epochs)
                self.progress = step / total
                step_on(inputs)
                if self.average is not None:
                    self.average.update()
                bar.update(len(inputs["order"]))

    @property
    def _declared(self) -> bool:
        """Whether classifier and objective both declare themselves capturable: a step is only calls
        of their layers on the device."""
        return self.clf.capturable and self.objective.capturable

    @property
    def _capturable(self) -> bool:
        """Whether a step can be replayed as a CUDA graph. With separate norms it cannot, because
        Rows.set uses `nonzero`, which waits for the GPU."""
        return self.x.is_cuda and self.rows is None and self._declared

    @contextlib.contextmanager
    def _at_speed(self, models: nn.Module, steps: int) -> Iterator[None]:
        """Speed-ups active during the steps: 16-bit weight copies, the CUDA-graph stream, compiled
        layers.

        Results change by rounding only, except that a compiled network of the user's own may draw
        other random numbers.
        """
        dtype, self.copies = product_dtype(self.config, self.x.device), None
        with contextlib.ExitStack() as during:
            if dtype != torch.float32 and self._declared:
                self.copies = WorkingCopies(models, dtype)
                during.enter_context(self.copies.in_place())
            if self._capturable:
                during.enter_context(batches_counted_at_once(models, steps))
                during.enter_context(stream_for_graphs(self.x.device))
            if self.network is not self.clf:  # last, because the others recognise layers by type
                during.enter_context(in_compiled_forms(self.clf))
            yield

    def _as_graph(self) -> Captured:
        parts = " with ".join(type(m).__name__ for m in (self.clf, self.objective))
        return Captured(self._step, f"a training step of {parts}")

    def _batches(self, epochs: int, rng: torch.Generator) -> Iterator[Inputs]:
        """Inputs of each step, on the device: the rows `order` [B], the augmentation's draws, and
        the mask of head dropout. Drawn on the CPU and copied once an epoch."""
        device = self.x.device
        for _ in range(epochs):
            order = torch.randperm(len(self.x), generator=rng)
            batches = [
                for_batchnorm(order[part])
                for part in split_batches(len(order), self.config.batch_size)
            ]
            drawn = [{"order": batch} | self._draw(len(batch), rng) for batch in batches]
            inputs = {k: torch.cat([d[k] for d in drawn]).to(device) for k in drawn[0]}
            for start, stop in pairwise(accumulate(map(len, batches), initial=0)):
                yield {k: v[start:stop] for k, v in inputs.items()}

    def _draw(self, n: int, rng: torch.Generator) -> Inputs:
        draws = draw(n, self.config, rng)
        if self.objective.dropout is not None:
            draws["kept"] = self.objective.dropout.draw(n, self.clf.embedding_dim)
        return draws

    def _set_rate(self, step: int, per_epoch: int, epochs: int) -> None:
        share = rate_share(self.config.schedule, step, per_epoch, epochs)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # a graph reads it from this memory
                group["lr"].fill_(self.config.lr * share)
            else:
                group["lr"] = self.config.lr * share

    def _step(self, inputs: Inputs) -> None:
        order = inputs["order"]
        if self.rows is not None:
            self.rows.set(self.generated[order])
        x = augment(self.x[order].float().div(255), inputs, self.config)
        weight = None if self.weight is None else self.weight[order]
        self.optimizer.zero_grad(set_to_none=True)
        batch = Batch(self.normalise(x), self.y[order], weight, inputs.get("kept"))
        mixed = functools.partial(autocast, self.config, x.device)
        self.objective.backward(self.network, batch, self.progress, mixed)
        if self.copies is not None:
            self.copies.hand_over_gradients()
        self.optimizer.step()
        if self.copies is not None:
            self.copies.follow()


def _compiled(clf: Classifier) -> nn.Module:
    """The classifier with compiled forward and backward pass. Compiled once a process for each
    batch size and kind of network."""
    torch._dynamo.config.recompile_limit = MOST_COMPILED
    return torch.compile(clf, dynamic=False)


@contextlib.contextmanager
def batches_counted_at_once(model: nn.Module, steps: int) -> Iterator[None]:
    """Update BatchNorm's num_batches_tracked once after the fit instead of in each step, which
    saves a kernel per layer. Only layers without a momentum read it; they are left alone."""
    norms = [
        m
        for m in model.modules()
        if type(m) in NORMS and m.num_batches_tracked is not None and m.momentum is not None
    ]
    counters = [norm.num_batches_tracked for norm in norms]
    try:
        for norm in norms:
            norm.num_batches_tracked = None
        yield
    finally:
        for norm, counter in zip(norms, counters, strict=True):
            norm.num_batches_tracked = counter.add_(steps)


class WeightAverage:
    """Exponential moving average of all floating-point tensors of a model, buffers included.

    After each step t = 0, 1, …: a ← a + (1 - d)(w - a), d = min(decay, (1 + t) / (10 + t)). The
    smaller d at the start lets a short fit forget its initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        state = model.state_dict(keep_vars=False).values()
        self.current = [v for v in state if v.is_floating_point()]
        self.averages = [v.clone() for v in self.current]

    @torch.no_grad()
    def update(self) -> None:
        """Average in the current weights; called after each step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.averages, self.current, 1 - decay)
        self.steps += 1

    @torch.no_grad()
    def give_back(self) -> None:
        """Copy the averages into the model."""
        torch._foreach_copy_(self.current, self.averages)


def make_optimizer(
    config: RunConfig, model: nn.Module, for_graph: bool = False
) -> torch.optim.Optimizer:
    """SGD, Adam (L2 penalty) or AdamW (decoupled weight decay).

    Args:
        for_graph: use one fused kernel that reads the learning rate from the device, so that a CUDA
            graph can record it.
    """
    usual = {"lr": config.lr, "weight_decay": config.weight_decay}
    if for_graph:
        device = next(model.parameters()).device
        usual |= {"lr": torch.tensor(config.lr, device=device), "fused": True}
    if config.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=config.momentum, **usual)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[config.optimizer](model.parameters(), capturable=for_graph, **usual)


def rate_share(schedule: str, step: int, per_epoch: int, epochs: int) -> float:
    """The learning rate as a share of --lr.

    Args:
        schedule: constant; cosine: to 0, by whole epochs; or onecycle: by steps, up from FIRST_RATE
            in the first WARM_UP of the fit, then to 0 in its last step. Both parts are half
            cosines, as in torch.optim.lr_scheduler.OneCycleLR. A fit of one step has a rate above
            0.
        step: steps done, of per_epoch * epochs.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return _half_cosine(step // per_epoch / epochs)
    steps = per_epoch * epochs
    highest, last = WARM_UP * steps - 1, max(steps - 1, 1)
    if step < highest:
        return 1 - (1 - FIRST_RATE) * _half_cosine(step / highest)
    return _half_cosine((step - highest) / (last - highest))


def _half_cosine(share: float) -> float:
    """A half cosine: 1 at 0, 0 at 1."""
    return (1 + math.cos(math.pi * share)) / 2


def split_batches(n: int, size: int) -> list[slice]:
    """Cut 0 … n-1 into as few slices of at most `size` as possible, of even length. A slice never
    holds a single image if a slice of size + 1 avoids that.

    Even, because BatchNorm's running statistics come mostly from the last few batches. A short last
    batch spoils them: with one of 4 images MeanSTD on Digits (5 seeds) lost 6 points at 100 labels.

    >>> split_batches(5, 4)
    [slice(0, 3, None), slice(3, 5, None)]
    """
    count = count_batches(n, size)
    ends = [-(-(i + 1) * n // count) for i in range(count)]
    return [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]


def count_batches(n: int, size: int) -> int:
    """How many slices split_batches makes."""
    count = -(-n // size)
    return min(count, n // 2) if size > 1 and n > 1 else count


def count_epochs(config: RunConfig, n: int) -> int:
    """Epochs of a fit to n images: `epochs`, or as many as `min_steps` asks for."""
    return max(config.epochs, math.ceil(config.min_steps / count_batches(n, config.batch_size)))


def for_batchnorm(x: Tensor) -> Tensor:
    """[B, ...] unchanged; a single image is repeated, because BatchNorm in training needs two."""
    return x if len(x) > 1 else torch.cat([x, x])
