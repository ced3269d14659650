"""One trial of DeepALPlus's demo with generated images added to the real ones."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from generators.base import Generator
from generators.image_store import ImageStore

from ..classifiers.base import frozen_call
from ..config import SCHEMA
from ..errors import UserError
from ..galot import Galot, SyntheticBatch
from ..images import to_unit_float
from .host import check_data
from .journal import Record, TextJournal, seen
from .layout import Layout
from .settings import Settings, read_fields
from .transform import Step, differentiable


class Trial:
    """DeepALPlus's data set and network, and the images that are generated for them.

    Attributes:
        config: the configuration, with the seed of this trial's images.
        round: the next round to be trained; the first is 0.
    """

    def __init__(
        self,
        dataset: Any,
        net: Any,
        task: dict[str, Any],
        settings: Settings,
        number: int,
        generator: Generator,
    ) -> None:
        """
        Args:
            dataset, net, task: DeepALPlus's Data, Net and args_task.
            number: number of the trial, from 0. Its images have the seed `seed + number`, because
                the demo seeds all its trials only once.
            generator: loaded, on the network's device.

        Raises:
            UserError: the data set's images have an unknown format or pass through a transform
                without a gradient, a prompt is too long, or the pool is too small.
        """
        self.dataset, self.net, self.task, self.settings = dataset, net, task, settings
        self.config = replace(settings.config, seed=settings.config.seed + number)
        self.round, self._batches = 0, []
        check_data(dataset, self.config.dataset)
        self.layout = Layout.of(dataset.X_train, self.config.dataset)
        self._check_budget()
        self.folder = self._folder(generator)
        self.journal = TextJournal(self.folder)
        store = ImageStore(settings.output / "images")
        self.galot = Galot(
            self.config,
            generator,
            store,
            self.journal,
            settings.class_names,
            self.layout.image_shape,
        )
        if self._needs_gradients:
            self._check_transform()
        with undisturbed(net.device):
            _ = self.galot.c0  # so that a bad prompt fails before the first fit
        self.record = Record(
            self.folder, {"number": number, "seed": self.config.seed, **self._identity(generator)}
        )

    # -- called by DeepALPlus's demo ---------------------------------------------------------

    def fit(self) -> None:
        """Make this round's images; train the network on them and on the labeled images.

        The images are made for the previous round's classifier. Round 0 has no previous classifier.
        If it needs one, e.g. to optimise the text, it first trains one on the initial labels.
        """
        if self.round >= self.config.cycles:
            raise UserError(
                f"{self.config.cycles} rounds are planned (-q {self.config.n_rounds} × -b "
                f"{self.config.n_query}), this is another: raise -q"
            )
        started = time.perf_counter()
        with undisturbed(self.net.device):
            if self.round == 0 and self.galot.needs_classifier(0):
                self.net.train(self.dataset.get_labeled_data()[1])
            batch = self._make(self.round)
        if self.config.synthetic == "replace":
            self._batches.clear()
        self._batches.append(batch)
        made = time.perf_counter()
        self.net.train(self.training_set())
        self._write_row(batch, made - started, time.perf_counter() - made)
        self.round += 1

    def training_set(self) -> Any:
        """DeepALPlus's handler, with its training transform, of the labeled images followed by the
        generated ones. DeepALPlus's pool and labels stay as they are."""
        x, y = self.dataset.get_partial_labeled_data()
        x_new = self.layout.pack(np.concatenate([b.x for b in self._batches]))
        y_new = torch.as_tensor(np.concatenate([b.y for b in self._batches]), dtype=y.dtype)
        return self.dataset.get_new_data(self.layout.join(x, x_new), torch.cat([y, y_new]))

    def tested(self, accuracy: float) -> None:
        """Record the test accuracy of the last fit."""
        if self.record.rows:
            self.record.write(accuracy=accuracy)

    # -- the classifier for the generator ----------------------------------------------------

    def logits(self, images: Tensor) -> Tensor:
        """Logits of the network for images after its test transform; differentiable.

        No gradient reaches the network's parameters.

        Args:
            images: [B, C, H, W] float in [0, 1], of the layout's image_shape, on any device.

        Returns:
            [B, K] logits on the network's device.

        Raises:
            UserError: the network returns something else.
        """
        clf: nn.Module = self.net.clf
        first = next(itertools.chain(clf.parameters(), clf.buffers()), images)
        answer = frozen_call(clf, self.network_input(images.to(first.device)))
        n = len(self.settings.class_names)
        if not isinstance(answer, tuple | list) or answer[0].shape != (len(images), n):
            raise UserError(
                f"DeepALPlus's {type(clf).__name__} does not give ([B, {n}] logits, embeddings), "
                f"as its networks do"
            )
        return answer[0]

    def network_input(self, images: Tensor) -> Tensor:
        """[B, C, H, W] upright images in [0, 1] -> the network's input in testing."""
        return self._transform(self.layout.as_stored(images))

    @cached_property
    def _transform(self) -> Step:
        return differentiable(self.task["transform"])

    @property
    def _needs_gradients(self) -> bool:
        return self.config.epsilon > 0 or self.config.keep == "acquisition"

    # -- inside ------------------------------------------------------------------------------

    def _make(self, round: int) -> SyntheticBatch:
        clf = getattr(self.net, "clf", None)
        self.journal.against = seen(clf, self.dataset.labeled_idxs)
        with evaluating(clf):
            return self.galot.make_images(None if clf is None else self.logits, round)

    def _check_budget(self) -> None:
        wanted = self.config.budget(self.config.n_rounds)
        if wanted > self.dataset.n_pool:
            raise UserError(
                f"-s {self.config.n_init} and {self.config.n_rounds} queries of -b "
                f"{self.config.n_query} are {wanted:,} labels, {self.config.dataset} has "
                f"{self.dataset.n_pool:,} images: lower -s or -q"
            )

    def _check_transform(self) -> None:
        """Compare two network inputs of the first real image: from DeepALPlus's handler, and from
        `network_input`, which the gradient uses.

        Raises:
            UserError: they differ by more than rounding.
        """
        first = self.dataset.X_train[:1]
        theirs = self.dataset.handler(first, self.dataset.Y_train[:1], self.task["transform"])[0][0]
        ours = self.network_input(to_unit_float(self.layout.unpack(first)))[0]
        # Resizing in bytes may be off by two grey levels. `step` is this difference after the
        # transform, which is affine in grey levels.
        shape = (1, self.layout.image_shape[2], *self.layout.image_shape[:2])
        step = self.network_input(torch.full(shape, 2 / 255)) - self.network_input(
            torch.zeros(shape)
        )
        if theirs.shape != ours.shape or (theirs - ours).abs().max() > step.abs().max() + 1e-5:
            raise UserError(
                f"-d {self.config.dataset}: its handler and test transform give the network "
                f"{list(theirs.shape)} of other values than the text optimisation would "
                f"({list(ours.shape)}); add -- --epsilon 0 to go without"
            )

    def _identity(self, generator: Generator) -> dict[str, Any]:
        """Everything the texts and images of this run depend on, except the classifier."""
        return {
            "schema": SCHEMA,
            "galot": read_fields(self.config),
            "class_names": self.settings.class_names,
            "image_shape": self.layout.image_shape,
            "generator": generator.identity,
            "deepalplus": {k: repr(v) for k, v in sorted(self.task.items())},
        }

    def _folder(self, generator: Generator) -> Any:
        text = json.dumps(self._identity(generator), sort_keys=True, default=str)
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        parts = ("deepalplus", self.config.dataset, name, f"seed{self.config.seed}")
        return self.settings.output.joinpath(*parts)

    def _write_row(self, batch: SyntheticBatch, generate: float, train: float) -> None:
        self.record.write(
            round=self.round,
            labels=int(self.dataset.labeled_idxs.sum()),
            images=sum(len(b.y) for b in self._batches),
            epsilon=self.config.epsilon_at(self.round),
            **batch.columns,
            generate_seconds=round(generate, 3),
            train_seconds=round(train, 3),
        )


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Restore all global random generators and cuDNN's TF32 flag afterwards. TF32 is off inside.

    DeepALPlus's pool, weights and samplers draw from the global generators. So with the same seed
    they draw the same numbers as without generated images.
    """
    python, numpy = random.getstate(), np.random.get_state()
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # the ascent needs full float32 precision
    try:
        with torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def evaluating(classifier: nn.Module | None) -> Iterator[None]:
    """Put the network into eval mode; restore the mode of each of its modules afterwards."""
    modes = [] if classifier is None else [(m, m.training) for m in classifier.modules()]
    if classifier is not None:
        classifier.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
