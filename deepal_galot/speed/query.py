"""Seconds of each strategy's query, for `python -m deepal_galot.speed query`."""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import registry, seeding
from ..classifiers.base import Classifier
from ..config import usual_values
from ..datasets.base import DatasetSpec
from ..device import machine_line
from ..errors import UserError
from ..learner import Learner, Outputs
from ..pool import UNKNOWN, ImageSet, Pool, check_query
from ..protocols import resolve
from ..timing import measured, with_spread

LABELED = 1000
SMALL_POOL, SMALL_PICKS = 5000, 100  # more takes the plain ways too much memory and time


@dataclass(frozen=True)
class Problem:
    """A pool for which the classifier's outputs are given.

    Attributes:
        pool: its first LABELED images are labeled; all images are blank.
        net: returns the given outputs without a pass.
    """

    pool: Pool
    net: _KnownAnswers
    picks: int

    def query(self, name: str) -> float:
        """Seconds of one query of this strategy."""
        cls = registry.strategies.get(name)
        self.net.config = resolve(name, "random", reads=cls.reads)
        names = tuple(map(str, range(self.net.n_classes)))
        task = {"num_class": len(names), "class_names": names, "image_shape": (8, 8, 1)}
        strategy = cls(self.pool, self.net, self.net.config, task)
        seeding.seed_globals(0, "query", 1)
        started = self.net.clock()
        answer = strategy.query(self.picks)
        seconds = self.net.clock() - started
        check_query(answer, self.picks, self.pool.labeled_idxs)
        return seconds


class _Head(Classifier):
    """A classifier without a body; the embeddings are given."""

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int, dim: int) -> None:
        super().__init__()
        self.embedding_dim, self.head = dim, nn.Linear(dim, n_classes)


class _KnownAnswers(Learner):
    """A learner that returns stored embeddings and the logits of a random head, without a pass."""

    def __init__(
        self, pool: Pool, n_classes: int, embeddings: Tensor, device: torch.device
    ) -> None:
        dim = embeddings.shape[1]
        super().__init__(resolve("", "random"), _Head, (8, 8, 1), n_classes, device)
        self.clf = _Head((8, 8, 1), n_classes, dim).to(device).requires_grad_(False)
        self.clf.head.weight.normal_(std=3 / dim**0.5)  # logits of std 3: sure and unsure images
        embeddings = embeddings.to(device)
        logits = self.clf.head(embeddings)
        mask = torch.from_numpy(pool.labeled_idxs).to(device)
        self.labeled = Outputs(logits[mask], embeddings[mask])
        self.unlabeled = Outputs(logits[~mask], embeddings[~mask])

    def outputs(self, data: ImageSet) -> Outputs:
        return self.unlabeled if data.Y[0] == UNKNOWN else self.labeled

    def apply(self, data: ImageSet, function: Callable[[Tensor], Tensor]) -> Tensor:
        return self.outputs(data).logits[:, 0]


def make_problem(n: int, dim: int, n_classes: int, picks: int, device: torch.device) -> Problem:
    """n unlabeled images with embeddings [n, dim], and LABELED labeled ones."""
    total = n + LABELED
    blank, nothing = np.zeros((total, 8, 8, 1), np.uint8), np.zeros((0, 8, 8, 1), np.uint8)
    labels = np.arange(total) % n_classes
    names = tuple(str(k) for k in range(n_classes))
    pool = Pool(DatasetSpec("random", blank, labels, nothing, labels[:0], names, (0.5,), (0.5,)))
    pool.label(np.arange(LABELED))
    torch.manual_seed(0)
    embeddings = torch.randn(total, dim).relu()  # non-negative, as after a ReLU
    net = _KnownAnswers(pool, n_classes, embeddings, device)
    return Problem(pool, net, picks)


# -- the plain ways ----------------------------------------------------------------------------


def plain_k_center(problem: Problem) -> list[int]:
    """The full distance matrix; each pick takes its minimum over all centers again."""
    points, centers = _known_embeddings(problem)
    everything = np.concatenate([centers, points])
    squared = (everything**2).sum(1)
    gaps = np.sqrt((squared[:, None] + squared - 2 * everything @ everything.T).clip(0))
    covered, rest = list(range(len(centers))), list(range(len(centers), len(everything)))
    for _ in range(problem.picks):
        farthest = gaps[np.ix_(rest, covered)].min(1).argmax()
        covered.append(rest.pop(int(farthest)))
    return [i - len(centers) for i in covered[len(centers) :]]


def plain_badge(problem: Problem) -> list[int]:
    """The gradients in full as float64 [N, K·D], then k-means++ on them."""
    _, images = problem.pool.get_unlabeled_data()
    g = problem.net.get_grad_embeddings(images).astype(np.float64)
    chosen = [int(np.linalg.norm(g, axis=1).argmax())]
    nearest = np.full(len(g), np.inf)
    while len(chosen) < problem.picks:
        nearest = np.minimum(nearest, ((g - g[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(np.random.choice(len(g), p=nearest / nearest.sum())))
    return chosen


def plain_k_means(problem: Problem) -> list[int]:
    """scikit-learn's KMeans with default settings, then the nearest image of each cluster."""
    from sklearn.cluster import KMeans

    points, _ = _known_embeddings(problem)
    fitted = KMeans(n_clusters=problem.picks).fit(points)
    gaps = fitted.transform(points)
    return [int(gaps[:, k].argmin()) for k in range(problem.picks)]


def plain_monte_carlo(problem: Problem) -> list[int]:
    """A separate mask for each image and pass; all passes are kept: [T, N, K]."""
    _, images = problem.pool.get_unlabeled_data()
    h, head = problem.net.outputs(images).embeddings, problem.net.clf.head
    passes = torch.stack(
        [head(F.dropout(h)).softmax(1) for _ in range(usual_values()["mc_passes"])]
    )
    mean = passes.mean(0)
    score = -(mean * mean.log()).sum(1) + (passes * passes.log()).sum(2).mean(0)
    return score.sort(descending=True).indices[: problem.picks].tolist()


def _known_embeddings(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    parts = problem.pool.get_unlabeled_data()[1], problem.pool.get_labeled_data()[1]
    points, centers = (problem.net.get_embeddings(p).numpy() for p in parts)
    return points, centers


PLAIN: dict[str, Callable[[Problem], list[int]]] = {
    "KCenterGreedy": plain_k_center,
    "BadgeSampling": plain_badge,
    "KMeansSampling": plain_k_means,
    "BALDDropout": plain_monte_carlo,
}


def compare_with_plain(name: str, small: Problem) -> str:
    """Text: seconds of ours and of the plain way on the same small pool, and their ratio."""

    def plain() -> float:
        seeding.seed_globals(0, "query", 1)
        started = time.perf_counter()
        PLAIN[name](small)
        return time.perf_counter() - started

    ours, theirs = measured(lambda: small.query(name)), measured(plain)
    ratio = statistics.median(theirs) / statistics.median(ours)
    return f"{with_spread(ours)}  {with_spread(theirs)}  {ratio:,.0f}×"


# -- query ----------------------------------------------------------------------------------------


def pool_strategies() -> list[str]:
    """Names of the strategies that pick from the pool and generate no images."""
    classes = {name: registry.strategies.get(name) for name in registry.strategies.names()}
    return [name for name, cls in classes.items() if cls.picks_real and not cls.generates]


def query_lines(args: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """The report of `query`; each line is yielded when it is measured."""
    known = pool_strategies()
    names = [registry.class_name(registry.strategies.get(n)) for n in args.strategies or known]
    if set(names) - set(known):
        others = ", ".join(sorted(set(names) - set(known)))
        raise UserError(f"--strategies {others}: makes images, has no query of a pool to time")
    if args.picks > args.pool:
        raise UserError(f"--picks {args.picks}: more than the {args.pool} images of --pool")
    yield machine_line(device)
    yield (
        f"seconds of a query beyond the pass over the pool (of LossPrediction: the ranking): "
        f"{args.pool:,} blank 8×8 images, embeddings of {args.dim}, {args.picks:,} picks; median "
        f"(range, n)"
    )
    for n_classes in args.classes:
        problem = make_problem(args.pool, args.dim, n_classes, args.picks, device)
        for name in names:
            seconds = measured(functools.partial(problem.query, name))
            yield f"{n_classes:4} classes  {name:24} {with_spread(seconds)}"
    yield (
        f"against the plain way (NumPy and scikit-learn on the CPU), {SMALL_POOL:,} images, "
        f"{SMALL_PICKS} picks, 10 classes: ours on the CPU, plain, ratio"
    )
    small = make_problem(SMALL_POOL, args.dim, 10, SMALL_PICKS, torch.device("cpu"))
    for name in names:
        if name in PLAIN:
            yield f"{name:24} {compare_with_plain(name, small)}"
