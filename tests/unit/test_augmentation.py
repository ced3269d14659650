"""Augmentation: each operation against what it is defined to be."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from deepal_galot.augmentation import RAND_AUGMENT, augment, draw, rand_augment
from helpers import small_config


def augmented(x, seed=0, **fields):
    still = {"shift": 0, "flip": 0, "rotate": 0.0, "zoom": 0.0}
    config = small_config(**still | fields)
    draws = draw(len(x), config, torch.Generator().manual_seed(seed))
    return augment(x, draws, config)


def test_no_augmentation_is_the_identity():
    x = torch.rand(3, 2, 5, 7)
    assert torch.equal(augmented(x), x)


def test_shift_is_a_crop_of_the_padded_image():
    x = torch.rand(64, 2, 5, 7)
    out, padded = augmented(x, shift=2), F.pad(x, (2, 2, 2, 2))
    found = set()
    for i in range(64):
        crops = [(r, c) for r in range(5) for c in range(5)
                 if torch.equal(padded[i, :, r : r + 5, c : c + 7], out[i])]  # fmt: skip
        assert len(crops) == 1
        found.add(crops[0])
    assert len(found) > 15  # all over the 25 places


def test_flip_mirrors_about_half():
    x = torch.rand(400, 1, 4, 4)
    out = augmented(x, flip=1)
    flipped = [torch.equal(o, i.flip(2)) for o, i in zip(out, x, strict=True)]
    kept = [torch.equal(o, i) for o, i in zip(out, x, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert 150 < sum(flipped) < 250


def test_rotation_turns_pixels_not_the_frame(monkeypatch):
    """A quarter turn of a non-square image's central square, pixel for pixel."""
    x = torch.rand(1, 1, 4, 8)
    monkeypatch.setattr(torch, "rand", lambda *size, generator: torch.ones(*size))
    out = augmented(x, rotate=90.0)
    middle = x[..., 2:6]
    turned = min(
        (torch.rot90(middle, k, (2, 3)) for k in (1, 3)),
        key=lambda t: (t - out[..., 2:6]).abs().max(),
    )
    torch.testing.assert_close(out[..., 2:6], turned, atol=1e-5, rtol=0)
    assert math.isclose(float(out[..., :2].sum() + out[..., 6:].sum()), 0, abs_tol=1e-4)


def test_zoom_keeps_a_constant_centre():
    x = torch.ones(8, 1, 9, 9)
    out = augmented(x, zoom=0.3)
    assert torch.allclose(out[:, :, 3:6, 3:6], torch.ones(8, 1, 3, 3))
    assert not torch.allclose(out, x)


def test_a_scale_above_one_magnifies():
    """Two columns of light, bilinear: 4 ± 0.5 pixels of the result are 4 ± 0.25 of the image."""
    x = torch.zeros(1, 1, 8, 8)
    x[..., 3:5] = 1
    draws = {"angle": torch.zeros(1), "scale": torch.tensor([[2.0, 1.0]])}
    out = augment(x, draws, small_config(shift=0, flip=0))
    row = torch.tensor([0, 0.25, 0.75, 1, 1, 0.75, 0.25, 0])
    torch.testing.assert_close(out[0, 0, 2:6], row.expand(4, 8), atol=1e-5, rtol=0)


def test_what_is_drawn_fills_its_range():
    config = small_config(rotate=30.0, zoom=0.2)
    draws = draw(4000, config, torch.Generator().manual_seed(0))
    ranges = [(draws["angle"], -math.pi / 6, math.pi / 6)]
    ranges += [(side, 0.8, 1.2) for side in draws["scale"].T]
    for values, low, high in ranges:
        assert low <= values.min() and values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
        assert values.std() == pytest.approx((high - low) / 12**0.5, rel=0.05)
    assert abs(torch.corrcoef(draws["scale"].T)[0, 1]) < 0.1  # each side by its own factor


def test_augmentation_does_not_depend_on_the_global_generator():
    x = torch.rand(4, 1, 8, 8)
    first = augmented(x, shift=1, rotate=9.0, zoom=0.1, flip=1)
    np.random.rand(3), torch.rand(3)
    assert torch.equal(first, augmented(x, shift=1, rotate=9.0, zoom=0.1, flip=1))


# -- RandAugment -------------------------------------------------------------------------------

STRENGTHS = [0.0, 0.3, 1.0]


def applied(name, x, sign, strength):
    which = torch.full((len(x),), RAND_AUGMENT.index(name))
    return rand_augment(x, which, torch.full((len(x),), float(sign)), strength)


def grey_levels(n=5, channels=3, seed=0, size=(12, 16)):
    """Images as training has them: k / 255."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, *size), generator=rng).float() / 255


REFERENCE = {
    "identity": lambda x, m: x,
    "brightness": lambda x, m: TF.adjust_brightness(x, 1 + 0.9 * m),
    "contrast": lambda x, m: torch.stack([TF.adjust_contrast(i, 1 + 0.9 * m) for i in x]),
    "saturation": lambda x, m: TF.adjust_saturation(x, 1 + 0.9 * m),
    "solarize": lambda x, m: TF.solarize(x, 1 - abs(m)),
    "autocontrast": lambda x, m: TF.autocontrast(x),
    "posterize": lambda x, m: TF.posterize((x * 255).round().byte(), 8 - round(4 * abs(m))) / 255,
    "rotate": lambda x, m: TF.rotate(x, 30 * m, InterpolationMode.BILINEAR),
}


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("size", [(12, 16), (224, 224)])
def test_an_operation_is_torchvisions(name, strength, sign, size):
    x = grey_levels(size=size)
    expected = REFERENCE[name](x, sign * strength)
    torch.testing.assert_close(applied(name, x, sign, strength), expected, atol=5e-4, rtol=0)


@pytest.mark.parametrize("sign", [-1, 1])
def test_translation_moves_whole_pixels(sign):
    """By 150/331 of 331 pixels at full strength."""
    x = torch.rand(1, 1, 2, 331)
    out = applied("translate_x", x, sign, 1.0)
    expected = torch.zeros_like(x)
    if sign == 1:
        expected[..., :-150] = x[..., 150:]
    else:
        expected[..., 150:] = x[..., :-150]
    torch.testing.assert_close(out, expected, atol=1e-3, rtol=0)
    turned = applied("translate_y", x.mT, sign, 1.0).mT
    torch.testing.assert_close(turned, expected, atol=1e-3, rtol=0)


def test_shear_moves_rows_in_proportion_to_their_height():
    """0.3 pixels a row at full strength: rows 10 above and below the centre by 3."""
    x = torch.zeros(1, 1, 41, 41)
    x[..., 20] = 1  # a vertical line through the centre
    out = applied("shear_x", x, 1, 1.0)[0, 0]
    found = {int(out[row].argmax()) for row in (10, 20, 30)}
    assert found == {17, 20, 23}
    assert torch.allclose(applied("shear_y", x.mT, 1, 1.0)[0, 0].mT, out, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_values_stay_in_range_and_grey_has_no_colour(channels):
    x = grey_levels(channels=channels)
    for name in RAND_AUGMENT:
        for sign in (-1, 1):
            out = applied(name, x, sign, 1.0)
            assert out.shape == x.shape and out.min() >= 0 and out.max() <= 1
    if channels == 1:
        torch.testing.assert_close(applied("saturation", x, 1, 1.0), x, atol=1e-5, rtol=0)


def test_layers_follow_each_other_at_half_of_the_greatest_magnitude():
    """0.5 darkened by 0.9 · 15 / 30, then left alone or made lighter by as much."""
    config = small_config(shift=0, rotate=0.0, zoom=0.0, rand_augment=2, rand_magnitude=15.0)
    names = [["brightness", "identity"], ["brightness", "brightness"]]
    which = torch.tensor([[RAND_AUGMENT.index(name) for name in of] for of in names])
    draws = {"operation": which, "sign": torch.tensor([[-1.0, 1.0]] * 2)}
    out = augment(torch.full((2, 1, 4, 4), 0.5), draws, config)[:, 0, 1, 1]
    torch.testing.assert_close(out, torch.tensor([0.5 * 0.55, 0.5 * 0.55 * 1.45]))


def test_each_image_has_operations_of_its_own():
    """All of them, each alike often; a constant image stays finite."""
    config = small_config(rand_augment=2)
    draws = draw(12_000, config, torch.Generator().manual_seed(0))
    counts = draws["operation"].flatten().bincount(minlength=12)
    assert draws["operation"].shape == (12_000, 2) and (counts - 2000).abs().max() < 200
    assert draws["sign"].unique().tolist() == [-1, 1]
    x = torch.full((64, 3, 8, 8), 0.5)
    assert augment(x, {k: v[:64] for k, v in draws.items()}, config).isfinite().all()
    one, many = grey_levels(1), grey_levels(1).expand(12, -1, -1, -1)
    together = rand_augment(many, torch.arange(12), torch.ones(12), 0.7)
    for i, name in enumerate(RAND_AUGMENT):
        torch.testing.assert_close(together[i : i + 1], applied(name, one, 1, 0.7))
