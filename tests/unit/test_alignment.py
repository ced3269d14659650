"""Moments by hand and by loops; the affine map against what it must do to them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from deepal_galot import alignment, images
from deepal_galot.alignment import Alignment, Match, _transport, mismatch, moments_of
from deepal_galot.images import fit_to, to_uint8, to_unit_float

SIDE = 28


def blobs(n, center=(0.0, 0.0), spread=(0.3, 0.3), slant=0.0, seed=0, channels=1):
    """Gaussian blobs on black, each a little elsewhere, as uint8."""
    rng = np.random.default_rng(seed)
    at = (np.arange(SIDE) * 2 + 1) / SIDE - 1
    x, y = np.meshgrid(at, at)
    images = []
    for dx, dy in rng.normal(0, 0.03, (n, 2)):
        u, v = x - center[0] - dx, y - center[1] - dy
        u = u + slant * v
        images.append(np.exp(-((u / spread[0]) ** 2 + (v / spread[1]) ** 2) / 2))
    images = np.rint(np.stack(images) * 255).astype(np.uint8)[..., None]
    return images.repeat(channels, axis=3)


def mapped(alignment, images):
    """uint8 -> uint8"""
    return to_uint8(alignment.fit_to(to_unit_float(images), images.shape[1:]))


def naive_moments(images):
    """Mean centroid and covariance of the foreground on black, pixel by pixel."""
    centers, covariances = [], []
    for image in images.astype(float):
        height, width, _ = image.shape
        total, first, second = 0.0, np.zeros(2), np.zeros((2, 2))
        for i in range(height):
            for j in range(width):
                p = np.array([(2 * j + 1) / width - 1, (2 * i + 1) / height - 1])
                mass = image[i, j].sum()
                total += mass
                first += mass * p
                second += mass * np.outer(p, p)
        if total:
            centers.append(first / total)
            covariances.append(second / total - np.outer(first, first) / total**2)
    return np.mean(centers, 0), np.mean(covariances, 0)


def test_moments_by_hand():
    image = np.zeros((1, 8, 8, 1), np.uint8)
    image[0, 3, 1] = image[0, 3, 5] = 200  # x = -0.625 and 0.375, y = -0.125
    seen = moments_of(image)
    assert seen.background.tolist() == [0.0]
    np.testing.assert_allclose(seen.center, [-0.125, -0.125])
    np.testing.assert_allclose(seen.covariance, [[0.25, 0], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(seen.mean, [2 * 200 / 255 / 64])


def test_moments_are_those_of_loops():
    images = np.concatenate([blobs(3, (0.2, -0.1), (0.3, 0.2), 0.4), np.zeros((1, SIDE, SIDE, 1))])
    seen, (center, covariance) = moments_of(images.astype(np.uint8)), naive_moments(images)
    np.testing.assert_allclose(seen.center, center, atol=1e-12)
    np.testing.assert_allclose(seen.covariance, covariance, atol=1e-12)


def test_moments_take_few_images_at_once(monkeypatch):
    """At 224 pixels 4,096 of them took 14 GiB."""
    x, sizes, sums = blobs(10), [], alignment._sums
    whole = moments_of(x)
    monkeypatch.setattr(images, "AT_ONCE", 3 * x[0].size)
    monkeypatch.setattr(alignment, "_sums", lambda a, b: sizes.append(len(a)) or sums(a, b))
    parts = moments_of(x)
    assert sum(sizes) == len(x) and max(sizes) <= 3
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(parts.tensors[name], tensor)


def test_no_foreground_without_a_plain_background():
    photos = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3)).astype(np.uint8)
    assert moments_of(photos).center is None
    assert moments_of(np.full((5, 8, 8, 1), 7, np.uint8)).center is None  # blank: nothing on it
    black = blobs(20)
    generated, pool = moments_of(photos[..., :1].repeat(1, 3)), moments_of(black)
    alignment = Alignment.between(generated, pool, "pool")
    assert alignment.is_identity


def spd(draw):
    a = np.array(draw).reshape(2, 2)
    return torch.from_numpy(a @ a.T + 0.05 * np.eye(2))


entries = st.lists(st.floats(-1, 1), min_size=4, max_size=4)


@settings(max_examples=200, deadline=None)
@given(entries, entries)
def test_the_map_carries_one_covariance_to_the_other(first, second):
    of, to = spd(first), spd(second)
    a = _transport(of, to)
    np.testing.assert_allclose(a @ of @ a.T, to, atol=1e-8)
    np.testing.assert_allclose(a, a.T, atol=1e-8)
    assert torch.linalg.eigvalsh(a).min() > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_aligned_images_have_the_pools_moments(channels):
    generated = blobs(40, (0.15, -0.1), (0.4, 0.25), 0.3, seed=1, channels=channels)
    pool = moments_of(blobs(40, (-0.05, 0.1), (0.2, 0.3), -0.2, seed=2, channels=channels))
    alignment = Alignment.between(moments_of(generated), pool, "pool")
    before, after = (
        mismatch(moments_of(x), pool, "pool") for x in (generated, mapped(alignment, generated))
    )
    assert before > 0.3 and after < before / 10


def test_white_backgrounds_stay_white():
    generated, pool = 255 - blobs(20, (0.3, 0.3), (0.3, 0.3)), 255 - blobs(20, seed=3)
    alignment = Alignment.between(moments_of(generated), moments_of(pool), "pool")
    aligned = mapped(alignment, generated)
    assert (aligned[:, 0, 0] >= 250).all() and (aligned[:, -1, -1] >= 250).all()
    assert mismatch(moments_of(aligned), moments_of(pool), "pool") < 0.03


def test_what_comes_in_from_outside_has_the_generated_background():
    generated, pool = 255 - blobs(20, (0.3, 0.3)), blobs(20, seed=3)
    alignment = Alignment.between(moments_of(generated), moments_of(pool), "pool")
    aligned = mapped(alignment, generated)
    assert (aligned[:, 0, 0] >= 250).all() and (aligned[:, -1, -1] >= 250).all()


@pytest.mark.parametrize(("photos", "plain"), [(1, True), (3, False)])
def test_nine_in_ten_corners_of_one_value_are_a_background(photos, plain):
    images = blobs(20)
    images[:photos, [0, 0, -1, -1], [0, -1, 0, -1]] = 200
    assert (moments_of(images).center is not None) == plain


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_background_is_plain_in_every_channel(channel):
    images = blobs(20, channels=3)
    assert moments_of(images).center is not None
    images[..., channel] = np.random.default_rng(0).integers(0, 256, images.shape[:3])
    assert moments_of(images).center is None


def test_what_is_flat_is_not_stretched():
    """Neither a line in the plane nor a channel of one value."""
    line, circle = torch.diag(torch.tensor([0.25, 0.0])).double(), torch.eye(2).double()
    assert torch.equal(_transport(line, circle), torch.eye(2).double())
    assert torch.equal(_transport(circle, line), torch.eye(2).double())
    grey = moments_of(np.full((3, 8, 8, 1), 51, np.uint8))
    alignment = Alignment.between(grey, moments_of(blobs(3)), "channels")
    assert alignment.gain.tolist() == [1.0]


def test_channels_get_the_pools_mean_and_deviation():
    rng = np.random.default_rng(0)
    generated = rng.integers(100, 140, (30, 16, 16, 3)).astype(np.uint8)
    pool = rng.integers(30, 200, (30, 16, 16, 3)).astype(np.uint8)
    alignment = Alignment.between(moments_of(generated), moments_of(pool), "channels")
    aligned, wanted = moments_of(mapped(alignment, generated)), moments_of(pool)
    np.testing.assert_allclose(aligned.mean, wanted.mean, atol=2e-3)
    np.testing.assert_allclose(aligned.std, wanted.std, atol=2e-3)
    before, after = (mismatch(m, wanted, "channels") for m in (moments_of(generated), aligned))
    assert after < before / 20


def test_the_gradient_is_that_of_finite_differences():
    alignment = Alignment(
        torch.tensor([[0.8, 0.1, 0.05], [0.1, 1.1, -0.1]]).double(),
        torch.tensor([0.1]).double(), torch.tensor([0.9]).double(), torch.tensor([0.02]).double(),
    )  # fmt: skip
    x = (torch.rand(1, 1, 9, 9).double() * 0.5 + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: alignment.fit_to(x, (5, 4, 1)), (x,))


@settings(max_examples=50, deadline=None)
@given(entries, st.integers(2, 9), st.integers(2, 9))
def test_the_warp_is_grid_samples(draw, height, width):
    """Which asks, for each pixel of the result, where it comes from."""
    matrix = torch.cat([spd(draw), torch.tensor([[0.3], [-0.2]])], 1).double()
    alignment = Alignment(**Alignment.identity(2).tensors | {"matrix": matrix})
    x = torch.rand(3, 2, height, width, generator=torch.Generator().manual_seed(0)).double()
    back = torch.linalg.inv(matrix[:, :2])
    theta = torch.cat([back, -back @ matrix[:, 2:]], 1).expand(3, 2, 3)
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    expected = F.grid_sample(x, grid, align_corners=False).clamp(0, 1)
    torch.testing.assert_close(alignment.fit_to(x, (height, width, 2)), expected)


def test_the_plane_is_mapped_before_the_resize():
    """A stripe moved by 2 of 32 pixels is as if drawn there, not two of the small image's columns
    mixed."""
    stripe = torch.zeros(1, 1, 32, 32)
    stripe[..., 8:16] = 1
    half = Alignment.identity(1).tensors
    half["matrix"][0, 2] = 2 * 2 / 32
    by_hand = stripe.roll(2, 3)
    small = Alignment(**half).fit_to(stripe, (8, 8, 1))
    torch.testing.assert_close(small, fit_to(by_hand, (8, 8, 1)), atol=1e-6, rtol=0)


def test_mismatch_of_circles_is_known():
    a, b = moments_of(blobs(1, (0, 0), (0.2, 0.2))), moments_of(blobs(1, (0.1, 0), (0.3, 0.3)))
    shift, size = 0.1, 0.1 * np.sqrt(2)  # W2 of N(m, s²I): |m - m'|² + 2 (s - s')²
    assert mismatch(a, b, "pool") == pytest.approx(np.hypot(shift, size), abs=0.01)
    assert mismatch(a, a, "pool") == pytest.approx(0, abs=1e-6)


def test_mismatch_of_channels_by_hand():
    """Root mean square of the differences of mean (0.2, or 0) and of deviation (0, or 0.2)."""
    grey, lighter = (np.full((1, 4, 4, 2), v, np.uint8) for v in (51, 102))
    striped = np.tile(np.array([0, 102], np.uint8)[:, None], (1, 4, 2, 2))
    a, b, c = map(moments_of, (grey, lighter, striped))
    for other in (b, c):
        assert mismatch(a, other, "channels") == pytest.approx(0.2 / np.sqrt(2))


def test_rounding_keeps_what_is_not_moved():
    images = blobs(3)
    same = Alignment.identity(1)
    assert same.is_identity and (mapped(same, images) == images).all()


@pytest.mark.parametrize("images", [blobs(5), np.random.default_rng(0).integers(
    0, 256, (9, 8, 8, 3)).astype(np.uint8)])  # fmt: skip
@pytest.mark.parametrize("kind", ["pool", "channels"])
def test_a_match_is_what_its_tensors_say(images, kind):
    """With and without a foreground."""
    pool = moments_of(images)
    alignment = Alignment.between(moments_of(255 - images[1:]), pool, kind)
    match = Match(alignment, pool, 0.25)
    again = Match.of_tensors(match.tensors)
    assert again.plain == 0.25 and again.pool.tensors.keys() == pool.tensors.keys()
    assert again.tensors.keys() == match.tensors.keys()
    assert all(torch.equal(again.tensors[k], v) for k, v in match.tensors.items())
    assert again.alignment.is_identity == (kind == "pool" and pool.center is None)
