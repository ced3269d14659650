"""What the seeding keeps for any distances; its laws and the rest are in tests/parity."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.utils._python_dispatch import TorchDispatchMode

from deepal_galot.clustering import k_center, k_means, kmeans_plus_plus, principal_components
from no_float64 import device_without_float64

sizes = st.integers(1, 12)
distances = st.one_of(
    st.just(0.0),
    st.floats(0, 2.0**127, width=32),
    st.floats(0, 2.0**-120, width=32),  # subnormal numbers too
)


@st.composite
def matrices(draw):
    """[N, N] distances of any kind, not even symmetric, and how many of the N to choose."""
    n = draw(sizes)
    return draw(arrays("float32", (n, n), elements=distances)), draw(st.integers(0, n))


def rows_of(matrix):
    return lambda i: torch.from_numpy(matrix)[i][0]


@given(matrices(), st.data())
@settings(max_examples=300, deadline=None)
def test_seeds_are_distinct_and_in_range(case, data):
    matrix, n = case
    first = data.draw(st.integers(0, len(matrix) - 1))
    torch.manual_seed(data.draw(st.integers(0, 2**32)))
    before = matrix.copy()
    chosen = kmeans_plus_plus(rows_of(matrix), torch.tensor([first]), n).tolist()
    assert len(chosen) == len(set(chosen)) == n and set(chosen) <= set(range(len(matrix)))
    assert n == 0 or chosen[0] == first
    assert (matrix == before).all()


@given(matrices())
@settings(max_examples=100, deadline=None)
def test_a_point_at_a_distance_goes_before_one_at_none(case):
    """Points of weight 0 are drawn only once no other is left."""
    matrix, n = case
    chosen = kmeans_plus_plus(rows_of(matrix), torch.tensor([0]), n).tolist()
    nearest = matrix[0].copy()
    for k, i in enumerate(chosen[1:], 1):
        nearest[chosen[:k]] = 0
        assert nearest[i] > 0 or not nearest.any()
        nearest = nearest.clip(max=matrix[i])


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("scale", [1.0, 2.0**-149, 2.0**127])
def test_the_ends_of_the_unit_interval(monkeypatch, u, scale):
    """The smallest and the largest number that can be drawn: weights of 0 first, between and last,
    of the smallest and the largest size; what is drawn has a weight above 0."""
    monkeypatch.setattr(torch, "rand", lambda n, dtype: torch.full((n,), u, dtype=dtype))
    distances = torch.tensor([0, 0, 1, 0, 1, 0, 0]) * scale
    chosen = kmeans_plus_plus(lambda i: distances, torch.tensor([0]), 7).tolist()
    assert sorted(chosen[1:3]) == [2, 4] and sorted(chosen) == list(range(7))


@given(arrays("float32", st.tuples(sizes, st.integers(1, 3)), elements=st.floats(-9, 9, width=32)))
@settings(max_examples=100, deadline=None)
def test_k_center_chooses_each_point_once(points):
    points = torch.from_numpy(points)
    for centers in (points[:0], points[:2]):
        chosen = k_center(points, centers, len(points)).tolist()
        assert sorted(chosen) == list(range(len(points)))


def test_a_device_without_float64_chooses_the_same():
    points = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    points[20:] = points[:20]  # so that of 30 seeds the last ten are drawn among duplicates
    gaps = torch.cdist(points, points)

    def answers(points, gaps):
        torch.manual_seed(1)
        seeds = kmeans_plus_plus(lambda i: gaps[i][0], torch.tensor([0]).to(gaps.device), 30)
        return seeds.cpu(), k_means(points, 4).cpu(), principal_components(points, 2).cpu()

    expected = answers(points, gaps)
    with device_without_float64() as device:
        found = answers(points.to(device), gaps.to(device))
    assert all(map(torch.equal, found, expected))


class _Reads(TorchDispatchMode):
    """Counts how often a number of a tensor is read, for which the CPU waits for a GPU."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.name == "aten::_local_scalar_dense"
        return func(*args, **kwargs or {})


def test_seeding_does_not_wait_for_the_device_between_choices():
    """Neither while distances are left nor afterwards, among duplicates."""
    points = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    points[20:] = points[:20]
    gaps = torch.cdist(points, points)
    with _Reads() as reads:
        kmeans_plus_plus(lambda i: gaps[i][0], torch.tensor([0]), 30)
    assert reads.count == 0
