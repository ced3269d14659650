"""Acquisition scores A: logits [B, K] of K classes -> [B]; higher = more informative.

The pool samplers rank by the same functions that the text optimisation maximises. Everything is
computed from log-softmax, so probabilities of exactly 0 and 1 give finite scores and gradients.
Generated images have pseudo-labels, so the text optimisation can also maximise their loss.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import UserError, did_you_mean

Score = Callable[[Tensor], Tensor]


def margin(logits: Tensor) -> Tensor:
    """-(p1 - p2), the negated gap of the two largest probabilities, in [-1, 0].

    Scheffer, Decomain & Wrobel 2001.
    """
    top = logits.log_softmax(dim=1).topk(2, dim=1).values.exp()
    return top[:, 1] - top[:, 0]


def least_confidence(logits: Tensor) -> Tensor:
    """1 - p1, one minus the largest probability, in [0, 1 - 1/K]. Lewis & Catlett 1994.

    Computed as the sum of the other probabilities, to keep its digits when p1 is nearly 1.
    """
    log_p = logits.log_softmax(dim=1)
    others = log_p.scatter(1, log_p.argmax(dim=1, keepdim=True), -torch.inf)
    return others.logsumexp(dim=1).exp()


def entropy(logits: Tensor) -> Tensor:
    """-sum_k p_k log p_k, Shannon entropy in nats, in [0, log K]. Shannon 1948."""
    log_p = logits.log_softmax(dim=1)
    # exp(log_p) is exactly 0 where log_p underflows; the clamp keeps 0 * (-inf) from becoming NaN.
    return -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(dim=1)


def mutual_information(p: Tensor) -> Tensor:
    """[T, B, K] probabilities of T Monte Carlo passes -> [B] mutual information in nats, ≥ 0.

    H(mean_t p_t) - mean_t H(p_t) = mean_t KL(p_t ‖ mean_t p_t). Houlsby et al. 2011. Computed in
    the second form, because the first is a difference of two close numbers.
    """
    tiny = torch.finfo(p.dtype).tiny  # 0 log 0 = 0
    log_ratio = (p / p.mean(0).clamp_min(tiny)).clamp_min_(tiny).log_()
    return log_ratio.mul_(p).sum(2).mean(0)


def max_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p_y, the cross-entropy of the pseudo-label in nats, ≥ 0: high for hard images."""
    return F.cross_entropy(logits, labels, reduction="none")


def min_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """log p_y ≤ 0: high for images that the classifier assigns to their pseudo-label."""
    return -max_loss(logits, labels)


SCORES: dict[str, Score] = {
    "margin": margin,
    "entropy": entropy,
    "least_confidence": least_confidence,
}
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"max_loss": max_loss, "min_loss": min_loss}
# The strategies' names are accepted too, because the paper uses them for A_GAL.
ALIASES = {
    "MarginSampling": "margin",
    "EntropySampling": "entropy",
    "LeastConfidence": "least_confidence",
}


def text_score(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """[B, K] logits, [B] int64 pseudo-labels -> [B], the score or loss of that name."""
    return SCORES[name](logits) if name in SCORES else LOSSES[name](logits, labels)


def canonical_text_target(name: str) -> str:
    """The key of SCORES or LOSSES for a name or alias.

    Raises:
        UserError: an unknown name.
    """
    table = {k.casefold(): k for k in (*SCORES, *LOSSES)}
    table |= {k.casefold(): v for k, v in ALIASES.items()}
    found = table.get(name.casefold().replace("-", "_"))
    if found is None:
        known = [*SCORES, *LOSSES, *ALIASES]
        raise UserError(f"unknown --text-target {name!r}: {did_you_mean(name, known)}")
    return found
