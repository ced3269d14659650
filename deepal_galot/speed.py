"""What this machine does a second: `python -m deepal_galot.speed train | query | generate`.

train: images a second of a fit, beside a plain DataLoader loop.
query: seconds of each strategy's query beyond the pass over the pool, on random logits and
embeddings, and beside it the plain way on a smaller pool, in the same run.
generate: images a second of Stable Diffusion 2.1 base with random weights, beside a plain pipeline
call; the gradient of the text optimisation; how much of ‖c − c0‖ reaches the network.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import registry, seeding
from .campaign import machine
from .classifiers.base import Classifier
from .config import HUGE, resolve, usual_values
from .datasets.base import DatasetSpec
from .device import compiler_fault, is_out_of_memory, pick_device
from .errors import UserError, complain, said
from .flags import Parser
from .learner import Learner, Outputs
from .pool import UNKNOWN, ImageSet, Pool, check_query
from .speed_of_generation import generate_lines
from .speed_of_training import train_lines
from .timing import measured, with_spread

LABELED = 1000
SMALL_POOL, SMALL_PICKS = 5000, 100  # the plain ways' memory and patience end soon after


@dataclass(frozen=True)
class Problem:
    """A pool whose classifier answers are known.

    Attributes:
        pool: its first LABELED images are labeled; the images themselves are blank.
        net: answers without a pass.
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
    """No body; the embeddings are given."""

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int, dim: int) -> None:
        super().__init__()
        self.embedding_dim, self.head = dim, nn.Linear(dim, n_classes)


class _KnownAnswers(Learner):
    """Gives stored embeddings and the logits of a random head, instead of a pass."""

    def __init__(
        self, pool: Pool, n_classes: int, embeddings: Tensor, device: torch.device
    ) -> None:
        dim = embeddings.shape[1]
        super().__init__(resolve("", "random"), _Head, (8, 8, 1), n_classes, device)
        self.clf = _Head((8, 8, 1), n_classes, dim).to(device).requires_grad_(False)
        self.clf.head.weight.normal_(std=3 / dim**0.5)  # logits of spread 3: from sure to unsure
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
    """n unlabeled images with embeddings [n, dim] beside LABELED labeled ones."""
    total = n + LABELED
    blank, nothing = np.zeros((total, 8, 8, 1), np.uint8), np.zeros((0, 8, 8, 1), np.uint8)
    labels = np.arange(total) % n_classes
    names = tuple(str(k) for k in range(n_classes))
    pool = Pool(DatasetSpec("random", blank, labels, nothing, labels[:0], names, (0.5,), (0.5,)))
    pool.label(np.arange(LABELED))
    torch.manual_seed(0)
    embeddings = torch.randn(total, dim).relu()  # as after a ReLU
    net = _KnownAnswers(pool, n_classes, embeddings, device)
    return Problem(pool, net, picks)


# -- the plain ways ----------------------------------------------------------------------------


def plain_k_center(problem: Problem) -> list[int]:
    """The full matrix of distances, and its minimum over all centers anew for each pick."""
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
    """Gradients written out as float64 [N, K·D], then k-means++ over them."""
    _, images = problem.pool.get_unlabeled_data()
    g = problem.net.get_grad_embeddings(images).astype(np.float64)
    chosen = [int(np.linalg.norm(g, axis=1).argmax())]
    nearest = np.full(len(g), np.inf)
    while len(chosen) < problem.picks:
        nearest = np.minimum(nearest, ((g - g[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(np.random.choice(len(g), p=nearest / nearest.sum())))
    return chosen


def plain_k_means(problem: Problem) -> list[int]:
    """scikit-learn's KMeans with its default settings, then the nearest image of each cluster."""
    from sklearn.cluster import KMeans

    points, _ = _known_embeddings(problem)
    fitted = KMeans(n_clusters=problem.picks).fit(points)
    gaps = fitted.transform(points)
    return [int(gaps[:, k].argmin()) for k in range(problem.picks)]


def plain_monte_carlo(problem: Problem) -> list[int]:
    """A mask for each image and pass, and all passes kept: [T, N, K]."""
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
    """Ours and the plain way on the same small pool, and how many times as fast ours is."""

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
    """Names of those that pick from the pool and make no images."""
    classes = {name: registry.strategies.get(name) for name in registry.strategies.names()}
    return [name for name, cls in classes.items() if cls.picks_real and not cls.generates]


def query_lines(args: argparse.Namespace) -> Iterator[str]:
    """The report of `query`, line by line as it is measured."""
    device = pick_device(args.device)
    known = pool_strategies()
    names = [registry.class_name(registry.strategies.get(n)) for n in args.strategies or known]
    if set(names) - set(known):
        others = ", ".join(sorted(set(names) - set(known)))
        raise UserError(f"--strategies {others}: makes images, has no query of a pool to time")
    if args.picks > args.pool:
        raise UserError(f"--picks {args.picks}: more than the {args.pool} images of --pool")
    yield ", ".join(f"{k} {v}" for k, v in machine(device).items())
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


# -- the command -------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """`train`, `query` and `generate`, and their sizes."""
    parser = Parser(prog="python -m deepal_galot.speed", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    train = commands.add_parser("train")
    train.set_defaults(lines=train_lines)
    train.add_argument("--classifier", default="resnet18", metavar="NAME")
    train.add_argument("--dataset", metavar="NAME", help="default: 32×32 colour images of noise")
    train.add_argument("--data-dir", type=Path, default=Path("data"), metavar="DIR",
                       help="of --dataset; default: data")  # fmt: skip
    train.add_argument("--protocol", default="paper", metavar="NAME", help="default: paper")
    train.add_argument("--precision", default="auto", metavar="NAME", help="default: auto")
    train.add_argument("--epochs", type=_positive, help="of one fit that is timed; default: the "
                       "protocol's (minutes with 10,000 images), on a CPU 1; on a GPU the plain "
                       "loop has no more than 4,000 images need, fits at once 300,000")  # fmt: skip
    train.add_argument("--batch", type=_positive, nargs="+",
                       help="default: 32 128 512, on a CPU 32")  # fmt: skip
    train.add_argument("--images", type=_positive, nargs="+",
                       help="in the training set; default: 1000 10000, on a CPU 256")  # fmt: skip
    train.add_argument("--workers", type=_natural, help="of the plain loader; default: 1, on "
                       "a CPU 0")  # fmt: skip
    train.add_argument("--compile", action="store_true", help="ours compiled, however short a fit "
                       "is (GPU)")  # fmt: skip
    train.add_argument("--jobs", type=_positive, help="also as many fits at once")
    query = commands.add_parser("query")
    query.set_defaults(lines=query_lines)
    query.add_argument("--pool", type=_positive, default=50_000, help="unlabeled images")
    query.add_argument("--dim", type=_positive, default=512, help="length of an embedding")
    query.add_argument("--classes", type=_positive, nargs="+", default=[10, 100, 200])
    query.add_argument("--picks", type=_positive, default=1000, help="images a query")
    query.add_argument("--strategies", nargs="+", metavar="NAME", help="default: all that query")
    generate = commands.add_parser("generate")
    generate.set_defaults(lines=generate_lines)
    generate.add_argument("--steps", type=_positive, nargs="+", default=[50, 20], help="T")
    generate.add_argument("--batch", type=_positive, default=16, help="images of ours at once")
    generate.add_argument("--small", action="store_true", help="a miniature, for a CPU")
    generate.add_argument("--compile", action="store_true", help="ours compiled")
    generate.add_argument(
        "--checkpointing", action="store_true", help="the gradient in less memory"
    )
    for command in (train, query, generate):
        command.add_argument("--device", default="auto", help="auto, cpu, cuda, … (default: auto)")
    return parser


def _natural(text: str, least: int = 0) -> int:
    if not text.isdecimal() or not least <= int(text) <= HUGE:
        raise argparse.ArgumentTypeError(f"{text}: a whole number, {least} to {HUGE:,.0f}")
    return int(text)


_positive = functools.partial(_natural, least=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        args = build_parser().parse_args(argv)
        for line in args.lines(args):
            print(line, flush=True)
    except UserError as error:
        return complain(error)
    except (RuntimeError, MemoryError) as error:
        lost = f"out of memory ({said(error)}): ask for less"
        fault = lost if is_out_of_memory(error) else compiler_fault(error)
        if fault is None:
            raise
        return complain(fault)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
