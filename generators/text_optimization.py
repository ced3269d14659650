"""Text optimisation: raise the acquisition score of what a text embedding generates.

max_c A(f(x)), x ~ D(.|c), subject to ‖c - c0‖ ≤ ε (equation 2), by projected ascent (equation 5)
    c ← Π_{‖c-c0‖≤ε}( c + η·u ),   g = (1/m) Σ_i ∂A(f(x_0^(i)))/∂c over m fresh images (equation 6),
with the gradient through the last reverse step alone (Proposition 1, equation 7).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from deepal_galot import seeding
from deepal_galot.config import RunConfig

from .base import Generator, Graph

ImageScore = Callable[[Tensor], Tensor]  # [B, 3, S, S] float in [0, 1] -> [B], higher is better


@dataclass(frozen=True)
class Ascent:
    """What an ascent gave, for C classes and K steps.

    Attributes:
        c: [C, L, D] float32, the optimised embeddings.
        score: [K, C] mean score over the m images before each step; NaN for a random direction,
            which looks at no image.
        gradient_norm: [K, C] ‖g‖₂; NaN for a random direction.
        distance: [K, C] ‖c - c0‖ in the chosen norm after each step, from the c that is handed on.
    """

    c: Tensor
    score: Tensor
    gradient_norm: Tensor
    distance: Tensor


def optimize(
    generator: Generator,
    c0: Tensor,
    score: ImageScore,
    config: RunConfig,
    epsilon: float,
    round: int,
) -> Ascent:
    """K projected ascent steps from c0, all classes side by side.

    Args:
        generator: draws the images.
        c0: [C, L, D] float32 embeddings of the prompts, one a class.
        score: acquisition score of generated images, differentiable.
        config: K, m, η/ε, direction, norm, A_GAL, seed.
        epsilon: this round's ε > 0.
        round: names the random streams.
    """
    n_classes, steps = len(c0), config.ascent_steps
    delta = torch.zeros_like(c0)
    scores, gradient_norms, distances = (
        torch.full((steps, n_classes), torch.nan) for _ in range(3)
    )
    for k in tqdm(range(steps), "  text", unit="step", leave=False, disable=None):
        if config.gal_strategy == "random":
            direction = _random_direction(c0, config, round, k)
        else:
            gradient, scores[k] = score_gradient(
                generator, c0 + delta, score, _ascent_seeds(config, round, k, n_classes)
            )
            gradient_norms[k] = gradient.flatten(1).norm(dim=1)
            direction = gradient.sign() if config.direction == "sign" else gradient
        u = unit(freeze_bos(direction), config.norm)
        delta = project(delta + config.eta * epsilon * u, epsilon, config.norm)
        distances[k] = length((c0 + delta) - c0, config.norm)
    return Ascent(c0 + delta, scores, gradient_norms, distances)


def score_gradient(
    generator: Generator,
    c: Tensor,
    score: ImageScore,
    seeds: list[list[int]],
    graph: Graph = "last",
) -> tuple[Tensor, Tensor]:
    """The gradient of equation 6 and the mean score.

    Args:
        c: [C, L, D] float embeddings.
        seeds: for each class, the seeds of its m images.
        graph: "last" is Proposition 1; "all" goes through every reverse step.

    Returns:
        g [C, L, D] in c's dtype on the CPU, and the mean score [C].
    """
    m = len(seeds[0])
    rows = [(k, seed) for k, of_class in enumerate(seeds) for seed in of_class]
    gradient, total = torch.zeros_like(c), torch.zeros(len(c), dtype=c.dtype)

    def add(part: slice) -> None:
        classes, noise = zip(*rows[part], strict=True)
        index = torch.tensor(classes)
        with torch.enable_grad():
            each = c[index].detach().requires_grad_()
            a = score(generator.sample(each, noise, graph))
            (of_each,) = torch.autograd.grad(a.sum(), each)
        gradient.index_add_(0, index, of_each.cpu() / m)
        total.index_add_(0, index, a.detach().cpu().to(total) / m)

    generator.gradients.each(len(rows), add)
    return gradient, total


def length(delta: Tensor, norm: str) -> Tensor:
    """[C, L, D] -> [C]: the l2 or linf norm over a whole embedding."""
    return delta.flatten(1).norm(p=2 if norm == "l2" else torch.inf, dim=1)


def unit(direction: Tensor, norm: str) -> Tensor:
    """[C, L, D] scaled to length 1 in the norm, so that η is a length; zero stays zero."""
    largest = length(direction, "linf")[:, None, None]
    # By the largest entry first, because the squares of a tiny gradient would underflow.
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
    """Zero the direction at token 0: moving BOS changes every image and informs about none."""
    direction = direction.clone()
    direction[:, 0] = 0
    return direction


def _ascent_seeds(config: RunConfig, round: int, step: int, n_classes: int) -> list[list[int]]:
    return [
        [
            seeding.derive(config.seed, "ascent", round, k, step, i)
            for i in range(config.ascent_samples)
        ]
        for k in range(n_classes)
    ]


def _random_direction(c0: Tensor, config: RunConfig, round: int, step: int) -> Tensor:
    """The control: a fresh Gaussian direction for each class and step."""
    return torch.stack([
        torch.randn(
            c0.shape[1:], generator=seeding.torch_rng(config.seed, "direction", round, k, step)
        )
        for k in range(len(c0))
    ])  # fmt: skip
