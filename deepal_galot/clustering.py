"""Choosing diverse points: k-center, k-means++ seeding, k-means, and the points nearest to centers.

Everything runs on the points' device, holds no N×N or N×n matrix and costs O(N·D) a choice. Random
numbers come from torch's global CPU generator, so every device draws the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .device import float64

CHUNK = 2**22  # elements of a distance block: 16 MB of float32
DistanceTo = Callable[[Tensor], Tensor]  # index [1] -> squared distances [N] from that point


def k_center(points: Tensor, centers: Tensor, n: int) -> Tensor:
    """The greedy 2-approximation of k-center: each choice is the point farthest from all centers so
    far.

    Sener & Savarese 2018, algorithm 1. Ties go to the lower index, up to rounding.

    Args:
        points: [N, D]; centers: [L, D], already covered.
        n: how many to choose, at most N.

    Returns:
        [n] int64 distinct indices in the order of choice, on the points' device.
    """
    nearest = nearest_distance(points, centers)
    chosen = torch.empty(n, dtype=torch.int64, device=points.device)
    for i in range(n):
        chosen[i] = nearest.argmax()
        this = chosen[i : i + 1]  # a 1-element tensor, so the CPU does not wait for the GPU
        torch.minimum(nearest, distances(points, points[this][0]), out=nearest)
        nearest.index_fill_(0, this, -1.0)
    return chosen


def kmeans_plus_plus(distance_to: DistanceTo, first: Tensor, n: int) -> Tensor:
    """k-means++ seeding: the next point is drawn with probability in proportion to D², the squared
    distance to the nearest chosen point. When every D² is 0, it is drawn uniformly from the rest.

    Arthur & Vassilvitskii 2007.

    Args:
        distance_to: index [1] -> [N] squared distances.
        first: [1] int64, the first choice, on the points' device.
        n: how many to choose, at most N.

    Returns:
        [n] int64 distinct indices in the order of choice, on the points' device.
    """
    chosen, nearest = [first], distance_to(first).clone()
    rest = torch.ones_like(nearest)  # 1.0 for each point that is not chosen
    draws = torch.rand(max(0, n - 1), dtype=torch.float64).to(float64(nearest[:1]).device)
    # An index stays a 1-element tensor, so the CPU does not wait for the GPU between choices.
    for u in draws.unbind():
        nearest.index_fill_(0, chosen[-1], 0.0)
        rest.index_fill_(0, chosen[-1], 0.0)
        cumulative = float64(torch.where(nearest.amax() > 0, nearest, rest)).cumsum(0)
        # rand ≤ 1 - 2⁻⁵³, so the product rounds below the total: the point found has a weight > 0.
        found = torch.searchsorted(cumulative, u * cumulative[-1:], right=True)
        chosen.append(found.to(nearest.device))
        torch.minimum(nearest, distance_to(chosen[-1]), out=nearest)
    return torch.cat(chosen)[:n]


def k_means(points: Tensor, k: int, iterations: int = 100) -> Tensor:
    """Lloyd's algorithm from k-means++ seeds, until no point changes its cluster.

    A cluster that loses all its points keeps its centroid. The points are centered first, because
    sums and matrix products lose the fewest digits near the origin.

    Args:
        points: [N, D]; k: clusters, at most N; iterations: upper bound.

    Returns:
        [k, D] centroids.
    """
    mean = points.mean(0)
    points = points - mean
    first = torch.randint(len(points), (1,)).to(points.device)
    seeds = kmeans_plus_plus(lambda i: distances(points, points[i][0]), first, k)
    centroids, of = points[seeds], None
    for _ in range(iterations):
        before, of = of, nearest_center(points, centroids)
        if before is not None and torch.equal(before, of):
            break
        count = torch.bincount(of, minlength=k).to(points)
        total = torch.zeros_like(centroids).index_add_(0, of, points)
        centroids = torch.where(count[:, None] > 0, total / count[:, None].clamp_min(1), centroids)
    return centroids + mean


def nearest_points(points: Tensor, centers: Tensor) -> Tensor:
    """For each center in turn, the nearest point that is not taken yet.

    Args:
        points: [N, D]; centers: [k, D], k at most N.

    Returns:
        [k] int64 distinct indices, on the points' device.
    """
    chosen = torch.empty(len(centers), dtype=torch.int64, device=points.device)
    taken = torch.zeros(len(points), device=points.device)
    for i, center in enumerate(centers):
        chosen[i] = (distances(points, center) + taken).argmin()
        taken.index_fill_(0, chosen[i : i + 1], torch.inf)
    return chosen


def distances(points: Tensor, point: Tensor) -> Tensor:
    """[N] squared Euclidean distances, by subtraction: exactly 0 for duplicates."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(points, point[None], compute_mode=exact)[:, 0].square()


def nearest_distance(points: Tensor, centers: Tensor) -> Tensor:
    """[N] squared distance to the nearest of the centers [L, D]; inf if L = 0.

    Uses matrix products on centered points, because they lose the fewest digits near the origin.
    """
    nearest = torch.full((len(points),), torch.inf, device=points.device, dtype=points.dtype)
    mean = points.mean(0)
    centers = centers - mean
    norms = centers.square().sum(1)
    for part in _blocks(points, centers):
        block = points[part] - mean
        gap = norms - 2 * (block @ centers.T)
        nearest[part] = (gap.amin(1) + block.square().sum(1)).clamp_min(0)
    return nearest


def nearest_center(points: Tensor, centers: Tensor) -> Tensor:
    """[N] int64 index of the nearest center. Uses matrix products, which are most exact near the
    origin."""
    half_norms = centers.square().sum(1) / 2
    blocks = [
        (points[part] @ centers.T - half_norms).argmax(1) for part in _blocks(points, centers)
    ]
    return torch.cat(blocks)


def principal_components(x: Tensor, n: int) -> Tensor:
    """[N, min(n, D)] scores of the leading principal components, from the D×D covariance."""
    x = x - x.mean(0)
    _, vectors = torch.linalg.eigh(float64(x.T @ x))
    return x @ vectors[:, -n:].flip(1).to(x)


def _blocks(points: Tensor, centers: Tensor) -> list[slice]:
    """Slices of points, small enough that their distances to all centers fit into CHUNK
    elements."""
    rows = max(1, CHUNK // max(1, len(centers)))
    return [slice(a, a + rows) for a in range(0, len(points), rows)] if len(centers) else []
