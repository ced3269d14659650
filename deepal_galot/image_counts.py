"""How many generated images of each class a round makes and trains on, and choosing the first or
best."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from generators.prompts import templates

from . import seeding
from .config import FOLDER, RunConfig, round_half_up

PROBES = 4  # fresh-noise images a class from c0 and from c, to look at and to score
ALIGNED_BY = 30  # plain images a class whose moments are compared with the pool's


def class_counts(total: int, n_classes: int, seed: int, round: int) -> tuple[int, ...]:
    """Split a total evenly over the classes. Stream quota(round) draws which classes get one
    more."""
    counts = np.full(n_classes, total // n_classes)
    lucky = seeding.numpy_rng(seed, "quota", round).permutation(n_classes)[: total % n_classes]
    counts[lucky] += 1
    return tuple(counts.tolist())


def image_counts(
    config: RunConfig, n_classes: int, round: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(images a round trains on, images it chooses them from), for each class."""
    kept = class_counts(config.n_synthetic_at(round), n_classes, config.seed, round)
    return kept, tuple(round_half_up(config.effective_oversample * n) for n in kept)


def reuses_earlier_rounds(config: RunConfig) -> bool:
    """Whether a round also chooses among the images of earlier rounds and makes only the missing
    ones.

    If the text never moves, old images are as good as new ones. For a choice by the classifier's
    score they are not, because it was trained on some of them; existing images (`folder:`) are
    taken round by round.
    """
    if config.epsilon > 0 or config.synthetic == "accumulate" or config.keep == "acquisition":
        return False
    return not config.generator.startswith(FOLDER)


def new_counts(config: RunConfig, n_classes: int, round: int) -> tuple[int, ...]:
    """How many images of each class a round makes."""
    rounds = range(round + 1) if reuses_earlier_rounds(config) else (round,)
    wanted = [image_counts(config, n_classes, r)[1] for r in rounds]
    at_hand = np.maximum.accumulate([(0,) * n_classes, *wanted])
    return tuple((at_hand[-1] - at_hand[-2]).tolist())


def ascent_images(config: RunConfig, n_classes: int, round: int) -> int:
    """How many images a round makes for the text optimisation alone."""
    if config.epsilon_at(round) == 0 or config.direction == "random":
        return 0
    chains = n_classes * len(templates(config.template)) * config.ascent_samples
    if config.refines_at(round):
        chains = sum(new_counts(config, n_classes, round)) + n_classes * PROBES
    return chains * config.ascent_steps


def first_of_each(
    y: np.ndarray, counts: tuple[int, ...], order: Callable[[int, np.ndarray], np.ndarray]
) -> np.ndarray:
    """For each class k, the sorted positions in y of its first counts[k] images.

    Args:
        order: (k, its positions in y) -> the order in which they are taken.
    """
    kept = []
    for k, n in enumerate(counts):
        of_class = np.flatnonzero(y == k)
        kept.append(np.sort(of_class[order(k, of_class)[:n]]))
    return np.concatenate(kept)


def best_of_each(y: np.ndarray, counts: tuple[int, ...], scores: np.ndarray) -> np.ndarray:
    """For each class k, the sorted positions of the counts[k] highest scores [N]."""
    return first_of_each(y, counts, lambda k, where: np.argsort(-scores[where], kind="stable"))
