"""How many generated images of each class a round makes and trains on, and which by an order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from generators.prompts import templates

from . import seeding
from .config import FOLDER, RunConfig, round_half_up

PROBES = 4  # fresh-noise images a class, drawn from c0 and from c, for people and for the scores
ALIGNED_BY = 30  # plain images a class whose moments are compared with the pool's


def class_counts(total: int, n_classes: int, seed: int, round: int) -> tuple[int, ...]:
    """Split a total over the classes; who gets one more is drawn from stream quota(round)."""
    counts = np.full(n_classes, total // n_classes)
    lucky = seeding.numpy_rng(seed, "quota", round).permutation(n_classes)[: total % n_classes]
    counts[lucky] += 1
    return tuple(counts.tolist())


def image_counts(
    config: RunConfig, n_classes: int, round: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many images of each class a round trains on, and of how many those are chosen."""
    kept = class_counts(config.n_synthetic_at(round), n_classes, config.seed, round)
    return kept, tuple(round_half_up(config.oversampling * n) for n in kept)


def reuses_earlier_rounds(config: RunConfig) -> bool:
    """Whether a round chooses among the images of the earlier rounds too, and makes only what is
    missing: where the text never moves they are as good as new ones."""
    exist = config.generator.startswith(FOLDER)  # then each round takes its own
    return config.epsilon == 0 and config.synthetic == "replace" and not exist


def new_counts(config: RunConfig, n_classes: int, round: int) -> tuple[int, ...]:
    """How many images of each class a round makes."""
    rounds = range(round + 1) if reuses_earlier_rounds(config) else (round,)
    wanted = [image_counts(config, n_classes, r)[1] for r in rounds]
    at_hand = np.maximum.accumulate([(0,) * n_classes, *wanted])
    return tuple((at_hand[-1] - at_hand[-2]).tolist())


def ascent_images(config: RunConfig, n_classes: int, round: int) -> int:
    """How many images a round makes for the ascent alone."""
    if config.epsilon_at(round) == 0 or config.direction == "random":
        return 0
    chains = n_classes * len(templates(config.template)) * config.ascent_samples
    if config.refines_at(round):
        chains = sum(new_counts(config, n_classes, round)) + n_classes * PROBES
    return chains * config.ascent_steps


def first_of_each(
    y: np.ndarray, counts: tuple[int, ...], order: Callable[[int, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Of each class k, counts[k] positions in y: the first by `order` (of k and its positions),
    sorted."""
    kept = []
    for k, n in enumerate(counts):
        of_class = np.flatnonzero(y == k)
        kept.append(np.sort(of_class[order(k, of_class)[:n]]))
    return np.concatenate(kept)


def best_of_each(y: np.ndarray, counts: tuple[int, ...], scores: np.ndarray) -> np.ndarray:
    """Of each class k, the counts[k] positions of the highest scores [N], sorted."""
    return first_of_each(y, counts, lambda k, where: np.argsort(-scores[where], kind="stable"))
