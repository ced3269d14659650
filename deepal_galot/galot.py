"""GALOT: a score function, class names, a generator and a budget -> pseudo-labeled images.

It imports neither learner nor pool. The classifier comes as a function `logits`, |L| through the
configuration, and the unlabeled pool as the protocol UnlabeledImages.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from generators.base import Generator, ImageRequest, Refinement, check_sample, check_text
from generators.image_store import Images, ImageStore
from generators.prompts import prompts_of
from generators.text_optimization import (
    Ascent,
    ImageScore,
    check_failed,
    length,
    optimize,
    optimize_each,
)

from . import seeding
from .acquisition import text_score
from .alignment import Alignment, Match, Moments, fit_aligned, mismatch, moments_of
from .config import RunConfig
from .errors import UserError
from .image_counts import (
    ALIGNED_BY,
    PROBES,
    ascent_images,
    best_of_each,
    first_of_each,
    image_counts,
    new_counts,
    reuses_earlier_rounds,
)
from .images import to_uint8, to_unit_float

SCORED_AT_ONCE = 256


class Journal(Protocol):
    """Where a run remembers its tensors by name and round, so that a restart goes on from them."""

    def has(self, name: str, round: int) -> bool: ...

    def load(self, name: str, round: int) -> dict[str, Tensor]: ...

    def save(self, name: str, round: int, tensors: dict[str, Tensor]) -> None: ...


class UnlabeledImages(Protocol):
    """What is asked of the pool; see unlabeled.Unlabeled."""

    def moments(self) -> Moments: ...

    def choose(
        self, x: np.ndarray, y: np.ndarray, plain: np.ndarray, counts: tuple[int, ...], round: int
    ) -> np.ndarray: ...


Logits = Callable[[Tensor], Tensor]  # [B, C, H, W] float in [0, 1] -> [B, classes], differentiable


@dataclass(frozen=True)
class TextState:
    """One round's text embeddings and their ascent; journaled before images are made.

    R rows, one for each class and template, class by class; K ascent steps. With --text-per image
    each image has a text of its own. Then c is c0, the ascent's tensors are [K, classes], means
    over the probes, and arrived_distance is [classes].

    Attributes:
        c0, c: [R, L, D] float32, of the prompts and after the ascent.
        epsilon: [] this round's ε.
        ascent_score, ascent_gradient_norm, ascent_distance: [K, R]; K = 0 without an ascent.
        arrived_distance: [R] ‖c - c0‖ after the ascent as the generator's network reads it.
        probe_score: [2, classes, PROBES] A of images at fresh noise, from c0 and from c; NaN where
            ε is 0. If ε is 0 in every round, only round 0 has probes.
        probe_images: [2, classes, PROBES, H, W, channels] uint8, the same images. Where ε is 0:
            as the generator makes them, and aligned (the same image without an alignment).
        ascent_failed: [] images whose score or gradient was not finite; g leaves them out.
    """

    c0: Tensor
    c: Tensor
    epsilon: Tensor
    ascent_score: Tensor
    ascent_gradient_norm: Tensor
    ascent_distance: Tensor
    arrived_distance: Tensor
    probe_score: Tensor
    probe_images: Tensor
    ascent_failed: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def measures(self) -> dict[str, float]:
        """Columns of a round's row: how far the ascent moved the texts and to which score, means
        over texts and over the probes with two finite scores. Empty where ε is 0; without scores if
        no probe has two."""
        if self.epsilon == 0:
            return {}
        scores = self.probe_score.double().flatten(1)
        scores = scores[:, scores.isfinite().all(0)]
        measures = {
            "distance": self.ascent_distance[-1].double().mean().item(),
            "arrived_distance": self.arrived_distance.double().mean().item(),
            "ascent_failed": int(self.ascent_failed),
        }
        if scores.numel():
            measures["score_before"], measures["score_after"] = scores.mean(1).tolist()
        return measures

    def digest(self) -> str:
        """Forty hex digits over texts, traces and probes. Another classifier gives another digest,
        because its scores differ."""
        whole = hashlib.sha256()
        for name, tensor in self.tensors.items():
            whole.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return whole.hexdigest()[:40]


@dataclass(frozen=True)
class SyntheticBatch:
    """One round's pseudo-labeled training images.

    Attributes:
        x: [N, H, W, C] uint8; y: [N] int64 pseudo-labels.
        made: images asked of the generator this round: more than N with oversampling, fewer where
            earlier rounds' images are used again, see `reuses_earlier_rounds`.
        ascent_images: images generated for the text optimisation.
        retried, failed: images that came out blank and were drawn again; those that stayed blank
            and are left out.
        key: under which the image store holds them.
        seconds_stored: what it once took to make those images that the store held already.
        measures: further columns of the round's row: TextState.measures and, with an alignment,
            how far plain images' and this round's moments are from the pool's.
    """

    x: np.ndarray
    y: np.ndarray
    made: int
    ascent_images: int
    retried: int
    failed: int
    key: str
    seconds_stored: float
    measures: dict[str, float]

    @property
    def columns(self) -> dict[str, float | str]:
        """The columns of a round's row that tell of these images."""
        return {
            "images_made": self.made,
            "ascent_images": self.ascent_images,
            "images_retried": self.retried,
            "images_failed": self.failed,
            "images_key": self.key,
            "seconds_stored": round(self.seconds_stored, 3),
            **self.measures,
        }


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
        unlabeled: UnlabeledImages | None = None,
    ) -> None:
        """
        Args:
            unlabeled: the pool; needed if `align` or `keep` asks it and no answer is journaled.
        """
        self.config, self.generator, self.unlabeled = config, generator, unlabeled
        self.store, self.journal = store, journal
        self.image_shape, self.class_names = image_shape, class_names
        self.n_classes = len(class_names)
        self._alignment_seconds_stored: float | None = None  # unknown if its map is journaled
        self.prompts = prompts_of(config.template, class_names)
        self.n_templates = len(self.prompts) // len(class_names)

    @cached_property
    def c0(self) -> Tensor:
        """[R, L, D] float32 embeddings of the prompts."""
        return check_text(self.generator, self.generator.encode(self.prompts), len(self.prompts))

    def needs_classifier(self, round: int) -> bool:
        """Whether this round needs the classifier: to optimise texts or to choose images that are
        not journaled or stored yet."""
        if self.config.epsilon_at(round) > 0 and not self.journal.has("text", round):
            return True
        if self.config.classifier_chooses(round) and not self.journal.has("kept", round):
            return True
        if not self.config.refines_at(round):
            return False
        request = self._request(self.text(None, round), None, round)
        return self.store.find(request.key(self.generator), request) is None

    def text(self, logits: Logits | None, round: int) -> TextState:
        """This round's embeddings, from the journal if it has them; else optimised and journaled.

        Args:
            logits: the classifier; called only if needs_classifier(round).
        """
        if self.journal.has("text", round):
            return TextState(**self.journal.load("text", round))
        state = self.optimize_text(logits, round)
        self.journal.save("text", round, state.tensors)
        return state

    def optimize_text(self, logits: Logits | None, round: int) -> TextState:
        """Equation 2 against the current classifier; c restarts from c0 each round.

        Args:
            logits: the classifier; not needed where this round's ε is 0.
            round: sets ε and names the random streams.

        Raises:
            UserError: it is needed, and gone.
        """
        config, epsilon = self.config, self.config.epsilon_at(round)
        logits = _required(logits, round) if epsilon > 0 else None
        ascent = Ascent.none(self.c0)
        if epsilon > 0 and not self.config.refines_at(round):
            score = self._image_score(logits)
            ascent = optimize(self.generator, self.c0, score, config, epsilon, round)
        probed, probe_score, probe_images = self._probe(ascent.c, logits, round)
        arrived = self._arrived(ascent.c, self.c0)
        if self.config.refines_at(round):
            arrived = self._arrived(probed.c, self.c0[self._probed_texts()])
            arrived = arrived.unflatten(0, (-1, PROBES)).mean(1)
            ascent = replace(probed.mean_over(PROBES), c=self.c0)
        return TextState(
            self.c0,
            ascent.c,
            torch.tensor(epsilon),
            ascent.score,
            ascent.gradient_norm,
            ascent.distance,
            arrived,
            probe_score,
            probe_images,
            torch.tensor(ascent.failed),
        )

    def make_images(self, logits: Logits | None, round: int) -> SyntheticBatch:
        """N_GAL images of this round, evenly over the classes and, within a class, over templates.

        With oversampling, so many times more are made and N_GAL of them kept. Images that stay
        blank are left out, so a class may have fewer.

        Args:
            logits: the current classifier; None if it is gone. Then everything that depends on it
                must be journaled or stored.

        Raises:
            UserError: the classifier is gone and something that depends on it, too.
        """
        text = self.text(logits, round)
        rounds = range(round + 1) if reuses_earlier_rounds(self.config) else (round,)
        parts = [self._images(self._request(text, logits, r)) for r in rounds]
        x, y = (np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y"))
        last, measures = parts[-1], text.measures
        made, stored = sum(new_counts(self.config, self.n_classes, round)), last.seconds_stored
        if self.config.aligns:
            match = self._match
            measures["mismatch_plain"] = match.plain
            measures["mismatch"] = mismatch(moments_of(x), match.pool, self.config.align)
            of_map = self._alignment_cost() if round == 0 else (0, 0.0)
            made, stored = made + of_map[0], stored + of_map[1]
        keep = self._keep(x, y, logits, round)
        return SyntheticBatch(
            x[keep],
            y[keep],
            made,
            ascent_images(self.config, self.n_classes, round),
            last.retried,
            last.failed,
            last.key,
            stored,
            measures,
        )

    def _images(self, request: ImageRequest) -> Images:
        return self.store.get(self.generator, request)

    # -- held against the unlabeled pool -----------------------------------------------------------

    @cached_property
    def _match(self) -> Match:
        """How this run's images are aligned. Made from plain images, so that every round and the
        ascent have the same map."""
        if not self.journal.has("alignment", 0):
            kind, plain = self.config.align, self._images(self._alignment_request())
            self._alignment_seconds_stored = plain.seconds_stored
            pool, generated = self.unlabeled.moments(), moments_of(plain.x)
            if kind == "pool" and any(m.center is None for m in (generated, pool)):
                tqdm.write(
                    "--align pool: generated or real images have no plain background, so "
                    "they stay as they are",
                    file=sys.stderr,
                )
            alignment = Alignment.between(generated, pool, kind)
            match = Match(alignment, pool, mismatch(generated, pool, kind))
            self.journal.save("alignment", 0, match.tensors)
        return Match.of_tensors(self.journal.load("alignment", 0))

    @property
    def _alignment(self) -> Alignment | None:
        """The map of this run's images; None if it would leave them as they are."""
        if not self.config.aligns or self._match.alignment.is_identity:
            return None
        return self._match.alignment

    def _alignment_request(self) -> ImageRequest:
        """The plain images whose moments the map is made from: ALIGNED_BY a class, or all there
        are."""
        supplies = [self.generator.supply(name) for name in self.class_names]
        counts = tuple(ALIGNED_BY if s is None else min(s, ALIGNED_BY) for s in supplies)
        return self._request_of(self.c0, self.c0, counts, 0)

    def _alignment_cost(self) -> tuple[int, float]:
        """How many images the map is made from, and their seconds_stored (see SyntheticBatch)."""
        request = self._alignment_request()
        if self._alignment_seconds_stored is None:  # made before a restart
            found = self.store.find(request.key(self.generator), request)
            self._alignment_seconds_stored = 0.0 if found is None else found.seconds_stored
        return sum(request.counts), self._alignment_seconds_stored

    def _as_trained(self, images: Tensor) -> Tensor:
        """[B, 3 or 1, S, S] as the generator makes them -> [B, C, H, W] as the classifier sees
        them; differentiable."""
        return fit_aligned(images, self.image_shape, self._alignment)

    # -- which images to make and to keep --------------------------------------------------------

    def _request(self, text: TextState, logits: Logits | None, round: int) -> ImageRequest:
        refinement, counts = None, new_counts(self.config, self.n_classes, round)
        if self.config.refines_at(round):
            n = sum(counts)
            refinement = Refinement(text.digest(), self._refine(logits, round, n))
        plain = self._request_of(text.c, text.c0, counts, round)
        return replace(plain, refinement=refinement, alignment=self._alignment)

    def _request_of(
        self, c: Tensor, c0: Tensor, counts: tuple[int, ...], round: int
    ) -> ImageRequest:
        """A request for images as the generator makes them, neither refined nor aligned."""
        return ImageRequest(
            c, c0, counts, self.prompts, self.class_names, self.image_shape, self.config.seed, round
        )

    def _keep(self, x: np.ndarray, y: np.ndarray, logits: Logits | None, round: int) -> np.ndarray:
        """[N] positions of the kept images among the [M] at hand, class by class. A choice by the
        classifier or the pool is journaled."""
        counts, _ = image_counts(self.config, self.n_classes, round)
        kept = first_of_each(
            y,
            counts,
            lambda k, where: seeding.numpy_rng(self.config.seed, "keep", round, k).permutation(
                len(where)
            ),
        )
        by_classifier = self.config.classifier_chooses(round)
        if not by_classifier and not self.config.asks_pool:
            return kept
        if not self.journal.has("kept", round):
            if by_classifier:
                kept = best_of_each(y, counts, self._scores(x, y, _required(logits, round)))
            else:
                kept = self.unlabeled.choose(x, y, kept, counts, round)
            self.journal.save("kept", round, {"kept": torch.from_numpy(kept)})
        return self.journal.load("kept", round)["kept"].numpy()

    @torch.no_grad()
    def _scores(self, x: np.ndarray, y: np.ndarray, logits: Logits) -> np.ndarray:
        """[N] text-target scores of training images."""
        parts = []
        for start in range(0, len(y), SCORED_AT_ONCE):
            part = slice(start, start + SCORED_AT_ONCE)
            answer = logits(to_unit_float(x[part])).cpu()
            labels = torch.from_numpy(y[part])
            parts.append(text_score(self.config.text_target, answer, labels))
        return torch.cat(parts).numpy()

    # -- text optimisation ---------------------------------------------------------------------

    def _refine(
        self, logits: Logits | None, round: int, n: int
    ) -> Callable[[Tensor, Sequence[int], Tensor], Tensor]:
        """The function that optimises each image's own c at its own noise.

        Args:
            n: images that the round makes, for the check of how many failed.
        """
        epsilon, failed = self.config.epsilon_at(round), 0

        def refine(c: Tensor, seeds: Sequence[int], rows: Tensor) -> Tensor:
            nonlocal failed
            score = self._image_score(_required(logits, round), rows)
            ascent = optimize_each(self.generator, c, seeds, score, self.config, epsilon)
            failed += ascent.failed
            check_failed(self.generator, failed, n * self.config.ascent_steps, round)
            return ascent.c

        return refine

    def _image_score(self, logits: Logits, texts: Tensor | None = None) -> ImageScore:
        """A(f(x)) of generated images x, which take the same path as training images.

        Args:
            texts: [B] the row of c0 that each scored embedding comes from; default: all in order.
        """
        texts = torch.arange(len(self.prompts)) if texts is None else texts

        def score(images: Tensor, rows: Tensor) -> Tensor:
            answer = logits(self._as_trained(images))
            labels = texts[rows].to(answer.device) // self.n_templates
            return text_score(self.config.text_target, answer, labels)

        return score

    def _arrived(self, c: Tensor, c0: Tensor) -> Tensor:
        """[B] ‖c - c0‖ with both as the generator's network reads them; 0 if nothing moved."""
        if torch.equal(c, c0):
            return torch.zeros(len(c))
        read = (self.generator.arrived(v) for v in (c, c0))
        return length(next(read) - next(read), self.config.norm).float()

    @torch.no_grad()
    def _probe(self, c: Tensor, logits: Logits | None, round: int) -> tuple[Ascent, Tensor, Tensor]:
        """PROBES images a class at fresh noise, from c0 and from c.

        Returns:
            The ascent of each probe image, if images have texts of their own; then TextState's
            probe_score and probe_images.
        """
        config, epsilon = self.config, self.config.epsilon_at(round)
        never_moves = config.epsilon == 0 and round > 0  # then round 0 has shown it all
        if never_moves or not self.generator.reads_text:
            return Ascent.none(c), *self._no_probes()
        address = [(k, i) for k in range(self.n_classes) for i in range(PROBES)]
        texts = self._probed_texts()
        seeds = [seeding.derive(config.seed, "probe", round, k, i) for k, i in address]
        score = self._image_score(logits, texts)
        ascent = Ascent.none(c[texts])
        if config.refines_at(round):
            ascent = optimize_each(self.generator, self.c0[texts], seeds, score, config, epsilon)
        pictures, scores = self._seen(self.c0[texts], ascent.c, seeds, score, epsilon)
        shape = (2, self.n_classes, PROBES)
        return ascent, scores.reshape(shape), pictures.reshape(*shape, *self.image_shape)

    def _seen(
        self, c0: Tensor, c: Tensor, seeds: Sequence[int], score: ImageScore, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        """Pairs of images [2, B, H, W, channels] uint8 and their scores [2, B]; see TextState."""

        def as_made(raw: Tensor, rows: Tensor) -> Tensor:
            return torch.from_numpy(to_uint8(fit_aligned(raw, self.image_shape, None)))

        def as_trained(raw: Tensor, rows: Tensor) -> Tensor:
            return torch.from_numpy(to_uint8(self._as_trained(raw)))

        if epsilon == 0:
            pictures = self._draw(c0, seeds, as_made, as_trained)
            return torch.stack(pictures), torch.full((2, len(c0)), torch.nan)
        pairs = [self._draw(v, seeds, as_trained, score) for v in (c0, c)]
        pictures, scores = (torch.stack(both) for both in zip(*pairs, strict=True))
        return pictures, scores

    def _probed_texts(self) -> Tensor:
        """[classes·PROBES] the row of c0 of each probe: probe i of a class has its template
        i mod P, as training image i has."""
        own = torch.arange(PROBES) % self.n_templates
        return (torch.arange(self.n_classes)[:, None] * self.n_templates + own).flatten()

    def _no_probes(self) -> tuple[Tensor, Tensor]:
        none = (2, self.n_classes, 0)
        return torch.zeros(none), torch.zeros(*none, *self.image_shape, dtype=torch.uint8)

    def _draw(
        self, c: Tensor, seeds: Sequence[int], *views: Callable[[Tensor, Tensor], Tensor]
    ) -> list[Tensor]:
        """Sample one image for each of B embeddings, batch by batch.

        Args:
            views: functions of (a batch's images, their rows of c) -> [rows, ...].

        Returns:
            For each view its outputs, [B, ...].
        """
        seen: list[list[Tensor]] = [[] for _ in views]
        for rows in torch.arange(len(c)).split(self.generator.batch_size):
            raw = self.generator.sample(c[rows], [seeds[i] for i in rows])
            check_sample(self.generator, raw, len(rows))
            for view, parts in zip(views, seen, strict=True):
                parts.append(view(raw, rows).cpu())
        return [torch.cat(parts) for parts in seen]


def _required(logits: Logits | None, round: int) -> Logits:
    """
    Raises:
        UserError: the classifier is gone.
    """
    if logits is None:
        raise UserError(
            f"what was made of round {round}'s images is gone from the results, and so is the "
            f"classifier that they depend on; move the run's folder away to run it again"
        )
    return logits
