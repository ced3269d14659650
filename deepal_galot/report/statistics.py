"""What may be said about methods and their seeds: errors, areas, paired differences, wins.

All accuracies are in [0, 1]; every comparison of two methods is over the seeds that both have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .comparison import Curve

LEVEL = 0.05  # of two-sided tests and intervals
LEAST_SEEDS = 3  # with fewer no spread is claimed


def mean_sem(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard error of the mean (n - 1); the error of fewer than three values is NaN."""
    values = np.asarray(values, float)
    if len(values) < LEAST_SEEDS:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def has_spread(curves: Sequence[Curve]) -> bool:
    """Whether one of them has seeds enough for a spread."""
    return any(len(curve.seeds) >= LEAST_SEEDS for curve in curves)


def normalized_area(curve: Curve, budgets: Sequence[int]) -> np.ndarray | None:
    """[S] area under accuracy over |L| by trapezoids, divided by the range of |L|.

    So it is the mean accuracy over labels, not over rounds: right for any first budget and any last
    query. In [0, 1]; None with fewer than two budgets, or if one is missing.
    """
    accuracy = curve.at(budgets)
    if accuracy is None or len(budgets) < 2:
        return None
    return np.trapezoid(accuracy, budgets, axis=1) / (budgets[-1] - budgets[0])


@dataclass(frozen=True)
class PairedDifference:
    """Mean of seed-paired differences, the half-width of its 95 % t-interval, and the p of the
    two-sided paired t-test (both NaN for fewer than three pairs)."""

    mean: float
    half_width: float
    p: float
    n: int


def paired(a: np.ndarray, b: np.ndarray) -> PairedDifference:
    """a - b of values paired by seed, [S] each; differences that are all alike have p 0 or 1."""
    from scipy import stats  # scikit-learn brings it

    differences = np.asarray(a, float) - np.asarray(b, float)
    (mean, sem), n = mean_sem(differences), len(differences)
    if n < LEAST_SEEDS:
        return PairedDifference(mean, float("nan"), float("nan"), n)
    half_width = float(stats.t.ppf(1 - LEVEL / 2, n - 1) * sem)
    if sem <= 1e-12:  # rounding: the accuracies are ratios of counts
        return PairedDifference(mean, half_width, float(abs(mean) <= 1e-12), n)
    return PairedDifference(mean, half_width, float(2 * stats.t.sf(abs(mean) / sem, n - 1)), n)


def paired_difference(a: Curve, b: Curve, budgets: Sequence[int]) -> PairedDifference | None:
    """a - b of the average over these budgets, over the seeds that both have; None if no such."""
    ours, theirs = a.average(budgets), b.average(budgets)
    common = _common_seeds(a, b)
    if common is None or ours is None or theirs is None:
        return None
    return paired(ours[common[0]], theirs[common[1]])


def paired_by_budget(a: Curve, b: Curve) -> dict[int, PairedDifference]:
    """a - b at each |L| that both have, over the seeds that both have."""
    budgets, common = sorted(set(a.budgets) & set(b.budgets)), _common_seeds(a, b)
    if not budgets or common is None:
        return {}
    ours, theirs = a.at(budgets)[common[0]], b.at(budgets)[common[1]]
    return {budget: paired(ours[:, r], theirs[:, r]) for r, budget in enumerate(budgets)}


def win_shares(curves: Sequence[Curve]) -> np.ndarray:
    """[M, M] share of budgets at which row i beats column j by the two-sided paired t-test at 5 %.

    The matrix of BADGE (Ash et al. 2020, section 5), where a data set adds at most 1 to an entry.
    NaN on the diagonal and where two methods share fewer than three seeds, or no budget.
    """
    wins = np.full((len(curves), len(curves)), np.nan)
    for i, a in enumerate(curves):
        for j, b in enumerate(curves):
            tests = [] if i == j else list(paired_by_budget(a, b).values())
            if not tests or tests[0].n < LEAST_SEEDS:
                continue
            wins[i, j] = np.mean([t.mean > 0 and t.p < LEVEL for t in tests])
    return wins


def labels_needed(curve: Curve, target: float) -> np.ndarray:
    """[S] |L| at which each seed's curve first reaches the target accuracy, linear in between.

    The first budget if it is reached there already; infinite if it never is.
    """
    needed = []
    for accuracy in curve.accuracy:
        reached = np.flatnonzero(accuracy >= target)
        if not len(reached):
            needed.append(np.inf)
            continue
        r = reached[0]
        if r == 0:
            needed.append(float(curve.budgets[0]))
            continue
        share = (target - accuracy[r - 1]) / (accuracy[r] - accuracy[r - 1])
        needed.append(curve.budgets[r - 1] + share * (curve.budgets[r] - curve.budgets[r - 1]))
    return np.array(needed)


def _common_seeds(a: Curve, b: Curve) -> tuple[list[int], list[int]] | None:
    """Positions of the common seeds in a and in b; None without any."""
    seeds = sorted(set(a.seeds) & set(b.seeds))
    if not seeds:
        return None
    return [a.seeds.index(s) for s in seeds], [b.seeds.index(s) for s in seeds]
