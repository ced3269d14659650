"""GALOT: a score function, class names, a generator and a budget -> pseudo-labeled images.

Knows no learner and no pool: the score function stands for the classifier, the counts for |L|.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from generators.base import Generator
from generators.image_store import Images, ImageStore, Request
from generators.prompts import fill
from generators.text_optimization import optimize

from . import seeding
from .acquisition import SCORES
from .config import RunConfig, round_half_up
from .errors import UserError
from .images import fit_to, to_uint8

PROBES = 4  # fresh-noise images a class, drawn from c0 and from c, for people and for the scores


class Journal(Protocol):
    """Where a run remembers its text states, so that a restart does not optimise again."""

    def has_text(self, round: int) -> bool: ...

    def text(self, round: int) -> dict[str, Tensor]: ...

    def save_text(self, round: int, tensors: dict[str, Tensor]) -> None: ...


Logits = Callable[[Tensor], Tensor]  # [B, C, H, W] float in [0, 1] -> [B, K], differentiable


@dataclass(frozen=True)
class TextState:
    """One round's text embeddings and what was seen on the way; journaled before images are made.

    Attributes:
        c0, c: [C, L, D] float32, of the prompts and after the ascent.
        epsilon: [] this round's ε.
        ascent_score, ascent_gradient_norm, ascent_distance: [K, C], K = 0 without an ascent.
        probe_score: [2, C, PROBES] A of fresh-noise images of c0 and of c; NaN where ε is 0.
        probe_images: [2, C, PROBES, H, W, channels] uint8, the same noise for c0 and c.
        ascent_images: [] images generated for the ascent.
    """

    c0: Tensor
    c: Tensor
    epsilon: Tensor
    ascent_score: Tensor
    ascent_gradient_norm: Tensor
    ascent_distance: Tensor
    probe_score: Tensor
    probe_images: Tensor
    ascent_images: Tensor


@dataclass(frozen=True)
class SyntheticBatch:
    """One round's pseudo-labeled training images.

    Attributes:
        x: [N, H, W, C] uint8; y: [N] int64 pseudo-labels.
        made: images requested of the generator for it (more than N with oversampling).
        retried, failed: how many of them came out blank and were drawn again, and how many of
            those stayed blank and are left out.
        key: under which the image store holds them.
    """

    x: np.ndarray
    y: np.ndarray
    made: int
    retried: int
    failed: int
    key: str


class Galot:
    """The generating half of GALOT for one run (A_GAL)."""

    def __init__(
        self,
        config: RunConfig,
        generator: Generator,
        store: ImageStore,
        journal: Journal,
        class_names: tuple[str, ...],
        image_shape: tuple[int, int, int],
    ) -> None:
        self.config, self.generator = config, generator
        self.store, self.journal = store, journal
        self.image_shape = image_shape
        self.class_names = class_names
        self.prompts = tuple(fill(config.template, name) for name in class_names)
        self._c0: Tensor | None = None

    @property
    def c0(self) -> Tensor:
        """[C, L, D] float32 embeddings of the prompts."""
        if self._c0 is None:
            self._c0 = self.generator.encode(self.prompts)
        return self._c0

    def needs_classifier(self, round: int) -> bool:
        """Whether this round's text is still to be optimised."""
        return self.config.epsilon_at(round) > 0 and not self.journal.has_text(round)

    def text(self, logits: Logits, round: int) -> TextState:
        """This round's embeddings: recalled if they were journaled, else optimised and journaled.

        Args:
            logits: the classifier; called only if needs_classifier(round).
        """
        if self.journal.has_text(round):
            return TextState(**self.journal.text(round))
        state = self.optimize_text(logits, round)
        self.journal.save_text(round, {f.name: getattr(state, f.name) for f in fields(state)})
        return state

    def optimize_text(self, logits: Logits, round: int) -> TextState:
        """Equation 2 against the current classifier; c restarts from c0 each round.

        Args:
            logits: the classifier; not called where this round's ε is 0.
            round: sets ε and names the random streams.
        """
        epsilon = self.config.epsilon_at(round)
        c, none = self.c0, torch.zeros(0, len(self.prompts))
        trace, ascent_images, score = (none, none, none), 0, None
        if epsilon > 0:
            score = self._score(logits)
            ascent = optimize(self.generator, self.c0, score, self.config, epsilon, round)
            c = ascent.c
            trace = (ascent.score, ascent.gradient_norm, ascent.distance)
            if self.config.gal_strategy != "random":
                per_step = len(self.prompts) * self.config.ascent_samples
                ascent_images = per_step * self.config.ascent_steps
        probe_score, probe_images = self._probe(c, score, round)
        return TextState(
            self.c0, c, torch.tensor(epsilon), *trace, probe_score, probe_images,
            torch.tensor(ascent_images),
        )  # fmt: skip

    def make_images(self, text: TextState, round: int) -> SyntheticBatch:
        """N_GAL images of this round, the classes as even as they go.

        With oversampling, that many times more are made and N_GAL of them kept at random; images
        that stay blank are not among them, and then a class may have fewer.
        """
        config = self.config
        kept, made = image_counts(config, len(self.prompts), round)
        images = self._images(Request(
            text.c, text.c0, made, self.prompts, self.class_names, self.image_shape, config.seed,
            round,
        ))  # fmt: skip
        keep = []
        for k, n in enumerate(kept):
            of_class = np.flatnonzero(images.y == k)
            rng = seeding.numpy_rng(config.seed, "keep", round, k)
            keep.append(of_class[np.sort(rng.permutation(len(of_class))[:n])])
        keep = np.concatenate(keep)
        return SyntheticBatch(
            images.x[keep], images.y[keep], sum(made), images.retried, images.failed, images.key
        )

    def _images(self, request: Request) -> Images:
        return self.store.get(self.generator, request)

    def _score(self, logits: Logits) -> Callable[[Tensor], Tensor]:
        """A(f(.)) of generated images, on the same path as training images."""
        name = self.config.gal_strategy
        acquisition = SCORES["margin" if name == "random" else name]
        return lambda images: acquisition(logits(fit_to(images, self.image_shape)))

    @torch.no_grad()
    def _probe(
        self, c: Tensor, score: Callable[[Tensor], Tensor] | None, round: int
    ) -> tuple[Tensor, Tensor]:
        """Scores and pictures of c0 and c at the same fresh noise."""
        n_classes = len(self.prompts)
        if not self.generator.reads_text:
            none = (2, n_classes, 0)
            return torch.zeros(none), torch.zeros(*none, *self.image_shape, dtype=torch.uint8)
        classes = torch.arange(n_classes).repeat_interleave(PROBES)
        seeds = [seeding.derive(self.config.seed, "probe", round, k, i)
                 for k in range(n_classes) for i in range(PROBES)]  # fmt: skip
        images, scores = [], []
        for embedding in (self.c0,) if c is self.c0 else (self.c0, c):
            for start in range(0, len(seeds), self.generator.batch_size):
                part = slice(start, start + self.generator.batch_size)
                raw = self.generator.sample(embedding[classes[part]], seeds[part])
                images.append(to_uint8(fit_to(raw, self.image_shape)))
                missing = torch.full((len(raw),), torch.nan)
                scores.append(missing if score is None else score(raw).cpu())
        pictures = torch.from_numpy(np.concatenate(images))
        shape = (-1, n_classes, PROBES)
        both = (2, *shape[1:])
        return (
            torch.cat(scores).reshape(shape).expand(both).contiguous(),
            pictures.reshape(*shape, *self.image_shape)
            .expand(*both, *self.image_shape)
            .contiguous(),
        )


class BorrowedGalot(Galot):
    """Another run's generated images, as they were; they cost this run nothing.

    The generator is loaded only if the store has lost some of them.
    """

    def __init__(
        self,
        config: RunConfig,
        load: Callable[[], Generator],
        store: ImageStore,
        journal: Journal,
        class_names: tuple[str, ...],
        image_shape: tuple[int, int, int],
        keys: Sequence[str],
    ) -> None:
        """
        Args:
            config, journal: the other run's; every round of it is journaled.
            keys: under which the store holds the images of each round.
        """
        super().__init__(config, _Late(load), store, journal, class_names, image_shape)
        self.keys = keys

    def text(self, logits: Logits, round: int) -> TextState:
        return replace(super().text(logits, round), ascent_images=torch.tensor(0))

    def make_images(self, text: TextState, round: int) -> SyntheticBatch:
        return replace(super().make_images(text, round), made=0)

    def _images(self, request: Request) -> Images:
        """
        Raises:
            UserError: images are lost and this generator would make others.
        """
        key = self.keys[request.round]
        found = self.store.find(key, request)
        if found is not None:
            return found
        if request.key(self.generator) != key:
            raise UserError(
                f"--synthetic-from: images of round {request.round} are gone from "
                f"{self.store.root}, and this machine's {self.config.generator} would make others "
                f"(other weights, number type or batch size)"
            )
        return super()._images(request)


class _Late:
    """A generator that is loaded when something of it is first asked for."""

    def __init__(self, load: Callable[[], Generator]) -> None:
        self._load = load

    @cached_property
    def _loaded(self) -> Generator:
        return self._load()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loaded, name)


def class_counts(total: int, n_classes: int, seed: int, round: int) -> tuple[int, ...]:
    """Split a total over the classes; who gets one more is drawn from stream quota(round)."""
    counts = np.full(n_classes, total // n_classes)
    lucky = seeding.numpy_rng(seed, "quota", round).permutation(n_classes)[: total % n_classes]
    counts[lucky] += 1
    return tuple(counts.tolist())


def image_counts(
    config: RunConfig, n_classes: int, round: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many images of each class a round trains on, and how many it makes for that."""
    kept = class_counts(config.n_synthetic_at(round), n_classes, config.seed, round)
    return kept, tuple(round_half_up(config.oversample * n) for n in kept)
