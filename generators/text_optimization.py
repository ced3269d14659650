"""Text optimisation: raise the acquisition score of the images that a text embedding generates.

max_c A(f(x)), x ~ D(.|c), subject to ‖c - c0‖ ≤ ε (equation 2), by projected ascent (equation 5)
    c ← Π_{‖c-c0‖≤ε}( c + η·u ),   g = (1/m) Σ_i ∂A(f(x_0^(i)))/∂c over m fresh images (equation 6).
u is g, or another chosen direction, scaled to length 1. The gradient goes through the last reverse
step alone (Proposition 1, equation 7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from deepal_galot import seeding
from deepal_galot.config import RunConfig
from deepal_galot.errors import UserError

from .base import ONE_IN, Generator, Graph, check_sample

# ([B, 3, S, S] float images in [0, 1], [B] the row of c that each was drawn from) -> [B] scores,
# higher is better; differentiable.
ImageScore = Callable[[Tensor, Tensor], Tensor]
Seeds = Sequence[Sequence[int]]  # for each row of c the seeds of its images


@dataclass(frozen=True)
class Ascent:
    """The result of an ascent of R embeddings in K steps.

    Attributes:
        c: [R, L, D] float32, the optimised embeddings.
        score: [K, R] mean score of the images before each step; NaN for a random direction, which
            needs no images.
        gradient_norm: [K, R] ‖g‖₂; NaN for a random direction.
        distance: [K, R] ‖c - c0‖ in the chosen norm after each step, of c rounded to float32.
        failed: images left out because their score or gradient was not finite.
    """

    c: Tensor
    score: Tensor
    gradient_norm: Tensor
    distance: Tensor
    failed: int = 0

    @classmethod
    def none(cls, c0: Tensor) -> Ascent:
        """The result without any step."""
        nothing = torch.zeros(0, len(c0))
        return cls(c0, nothing, nothing, nothing)

    def mean_over(self, n: int) -> Ascent:
        """Average the traces over each n consecutive rows."""
        traces = (self.score, self.gradient_norm, self.distance)
        means = (t.unflatten(1, (-1, n)).mean(2) for t in traces)
        return Ascent(self.c, *means, failed=self.failed)


def optimize(
    generator: Generator,
    c0: Tensor,
    score: ImageScore,
    config: RunConfig,
    epsilon: float,
    round: int,
) -> Ascent:
    """Optimise one embedding for all images of a prompt, as the paper does; each step draws fresh
    noise.

    Args:
        generator: draws the images.
        c0: [R, L, D] float32 embeddings of the prompts, optimised side by side.
        score: acquisition score of generated images.
        config: K, m, T, η/ε, direction, norm, seed.
        epsilon: this round's ε > 0.
        round: part of the random streams' addresses.

    Raises:
        UserError: more than one in ONE_IN images is not finite.
    """
    noise = [
        [
            [
                seeding.derive(config.seed, "ascent", round, r, k, i)
                for i in range(config.ascent_samples)
            ]
            for r in range(len(c0))
        ]
        for k in range(config.ascent_steps)
    ]
    noise = tqdm(noise, "  text", unit="step", leave=False, disable=None)
    directions = [(config.seed, "direction", round, r) for r in range(len(c0))]
    ascent = _ascend(generator, c0, score, config, epsilon, noise, directions)
    n = len(c0) * config.ascent_steps * config.ascent_samples
    check_failed(generator, ascent.failed, n, round)
    return ascent


def check_failed(generator: Generator, failed: int, images: int, round: int) -> None:
    """
    Args:
        generator: drew them.
        failed: how many of the images of a round's ascent are not finite.
        images: how many there are.

    Raises:
        UserError: more than one in ONE_IN failed.
    """
    if failed * ONE_IN > images:
        raise UserError(
            f"{failed:,} of {images:,} images of {generator.called()} in round {round}'s text "
            f"optimisation, or their gradients, are not finite, more than {100 // ONE_IN} %: "
            f"{generator.at_fault()}"
        )


def optimize_each(
    generator: Generator,
    c0: Tensor,
    seeds: Sequence[int],
    score: ImageScore,
    config: RunConfig,
    epsilon: float,
) -> Ascent:
    """Optimise one embedding for each image, at the image's own noise.

    Args:
        c0: [B, L, D] float32 embedding of each image's prompt.
        seeds: B seeds, one for each image.
        score, config, epsilon: as for `optimize`; m is not read.
    """
    noise = [[[seed] for seed in seeds]] * config.ascent_steps
    directions = [(seed, "direction") for seed in seeds]
    return _ascend(generator, c0, score, config, epsilon, noise, directions)


def _ascend(
    generator: Generator,
    c0: Tensor,
    score: ImageScore,
    config: RunConfig,
    epsilon: float,
    noise: Iterable[Seeds],
    directions: Sequence[tuple],
) -> Ascent:
    """Make K projected steps from c0.

    Args:
        noise: for each of the K steps the seeds of its images.
        directions: for each row the address of its random stream, without the step.
    """
    delta, failed = torch.zeros_like(c0), 0
    traces = (config.ascent_steps, len(c0))
    scores, norms, distances = (torch.full(traces, torch.nan) for _ in range(3))
    for k, seeds in enumerate(noise):
        if config.direction == "random":
            rngs = [seeding.torch_rng(*stream, k) for stream in directions]
            direction = torch.stack([torch.randn(c0.shape[1:], generator=rng) for rng in rngs])
        else:
            gradient, scores[k], bad = score_gradient(
                generator, c0 + delta, score, seeds, steps=config.ascent_denoising
            )
            failed += bad
            norms[k] = gradient.flatten(1).norm(dim=1)
            direction = gradient.sign() if config.direction == "sign" else gradient
        u = unit(freeze_bos(direction), config.norm)
        delta = project(delta + config.eta * epsilon * u, epsilon, config.norm)
        distances[k] = length((c0 + delta) - c0, config.norm)
    return Ascent(c0 + delta, scores, norms, distances, failed)


def score_gradient(
    generator: Generator,
    c: Tensor,
    score: ImageScore,
    seeds: Seeds,
    graph: Graph = "last",
    steps: int | None = None,
) -> tuple[Tensor, Tensor, int]:
    """The gradient of equation 6 and the mean score, over the images with finite values.

    Args:
        c: [R, L, D] float embeddings.
        seeds: for each row, the seeds of its m images.
        graph: "last" is Proposition 1; "all" goes through every reverse step.
        steps: T; default: the generator's own.

    Returns:
        g [R, L, D] in c's dtype on the CPU; the mean score [R]; the number of images left out
        because their score or gradient is not finite, e.g. after an overflow in 16 bits. If all
        images of a row are left out, its g is 0 and its score NaN.
    """
    images = [(r, seed) for r, of_row in enumerate(seeds) for seed in of_row]
    gradient, total = torch.zeros_like(c), torch.zeros(len(c), dtype=c.dtype)
    good = torch.zeros(len(c), dtype=c.dtype)

    def add(part: slice) -> None:
        of_rows, noise = zip(*images[part], strict=True)
        rows = torch.tensor(of_rows)
        with torch.enable_grad():
            each = c[rows].detach().requires_grad_()
            seen = generator.sample(each, noise, graph, steps)
            check_sample(generator, seen, len(rows), graph)
            a = score(seen, rows)
            (of_each,) = torch.autograd.grad(a.sum(), each)
        a, of_each = a.detach().cpu().to(total), of_each.cpu()
        finite = a.isfinite() & of_each.flatten(1).isfinite().all(1)
        gradient.index_add_(0, rows[finite], of_each[finite])
        total.index_add_(0, rows[finite], a[finite])
        good.index_add_(0, rows[finite], torch.ones_like(a[finite]))

    generator.gradients.each(len(images), add)
    mean = gradient / good.clamp_min(1)[:, None, None]
    return mean, total / good, len(images) - int(good.sum())


def length(delta: Tensor, norm: str) -> Tensor:
    """[R, L, D] -> [R]: the l2 or linf norm over a whole embedding."""
    return delta.flatten(1).norm(p=2 if norm == "l2" else torch.inf, dim=1)


def unit(direction: Tensor, norm: str) -> Tensor:
    """[R, L, D] scaled to length 1 in the norm, so that η is the step length; zero stays zero."""
    largest = length(direction, "linf")[:, None, None]
    # Divide by the largest entry first. Otherwise the squares of a tiny gradient would underflow.
    scaled = torch.where(largest > 0, direction / largest, 0.0)
    size = length(scaled, norm)[:, None, None]
    return torch.where(size > 0, scaled / size, 0.0)


def project(delta: Tensor, epsilon: float, norm: str) -> Tensor:
    """The nearest point of the ε-ball: scaling for l2, clamping each entry for linf."""
    if norm == "linf":
        return delta.clamp(-epsilon, epsilon)
    size = length(delta, norm)[:, None, None]
    return torch.where(size > epsilon, delta * (epsilon / size), delta)


def freeze_bos(direction: Tensor) -> Tensor:
    """Zero the direction at token 0. BOS is the same for all prompts, so moving it would change
    the images but say nothing about a class."""
    direction = direction.clone()
    direction[:, 0] = 0
    return direction
