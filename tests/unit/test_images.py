"""One path from generated image to classifier input."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deepal_galot import images
from deepal_galot.errors import UserError
from deepal_galot.images import (
    check_opens,
    fit_to,
    image_files,
    load_image,
    read_image,
    to_uint8,
    to_unit_float,
)


def test_downsizing_is_antialiased():
    """A one-pixel checkerboard becomes grey; without antialiasing it would stay black or white."""
    board = (torch.arange(32)[:, None] + torch.arange(32)[None]) % 2
    small = fit_to(board.float().expand(1, 3, 32, 32), (8, 8, 3))
    torch.testing.assert_close(small, torch.full((1, 3, 8, 8), 0.5), atol=0.02, rtol=0)


@given(st.integers(1, 50), st.integers(1, 6), st.integers(1, 400))
def test_parts_are_all_images_in_order_and_small(n, side, at_once):
    x = np.arange(n * side * side * 3).reshape(n, side, side, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "AT_ONCE", at_once)
        parts = images.in_parts(x)
    assert np.array_equal(np.concatenate(parts), x) and min(map(len, parts)) > 0
    assert max(part.size for part in parts) <= at_once + x[0].size


def test_downsizing_by_hand():
    """2×2 from 4×4: the triangle filter of width 2 over each axis, normalised."""
    x = torch.arange(16.0).reshape(1, 1, 4, 4) / 16
    w = np.array([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7
    expected = w @ (np.arange(16).reshape(4, 4) / 16) @ w.T
    np.testing.assert_allclose(fit_to(x, (2, 2, 1))[0, 0], expected, atol=1e-6)


SIZES = [((32, 32), (8, 8)), ((512, 512), (32, 32)), ((9, 7), (12, 5))]


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_resize_equals_torchs_antialiased_one(n, m):
    x = torch.rand(2, 3, *n)
    reference = torch.nn.functional.interpolate(x, m, mode="bilinear", antialias=True)
    torch.testing.assert_close(fit_to(x, (*m, 3)), reference, atol=2e-6, rtol=0)


def test_colour_becomes_luma_and_grey_becomes_colour():
    pixel = torch.tensor([1.0, 0.5, 0.25]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    expected = 0.299 + 0.587 * 0.5 + 0.114 * 0.25
    torch.testing.assert_close(fit_to(pixel, (4, 4, 1)), torch.full((1, 1, 4, 4), expected))
    assert fit_to(pixel[:, :1], (4, 4, 3)).shape == (1, 3, 4, 4)


def test_gradient_reaches_the_image():
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    fit_to(x, (8, 8, 1)).sum().backward()
    assert (x.grad > 0).all()


def test_uint8_round_trip():
    x = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    assert (to_uint8(to_unit_float(x)) == x).all()


def test_files_are_read_in_any_mode_and_bad_ones_named(tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "b.png")
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "a.PNG")
    (tmp_path / "notes.txt").write_text("")
    files = image_files(tmp_path)
    assert [f.name for f in files] == ["a.PNG", "b.png"]
    assert (load_image(files[1], (8, 8, 1))[..., 0] == pixels).all()
    assert load_image(files[0], (4, 4, 3)).shape == (4, 4, 3)
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "d.png")
    assert (load_image(tmp_path / "d.png", (8, 8, 1))[..., 0] == pixels).all()
    Image.fromarray(pixels.astype(np.float32)).save(tmp_path / "e.tiff")
    with pytest.raises(UserError, match="no known range"):
        load_image(tmp_path / "e.tiff", (8, 8, 1))
    (tmp_path / "c.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"c\.png: cannot be read as an image"):
        load_image(tmp_path / "c.png", (8, 8, 1))


@pytest.mark.filterwarnings("error")
def test_a_very_large_image_is_opened_without_a_warning(tmp_path, monkeypatch):
    """Before, Pillow's was printed: it comes with the opening."""
    file = tmp_path / "a.png"
    Image.new("L", (10, 10)).save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    assert read_image(file).shape == (10, 10, 1)
    with file.open("rb") as stream:
        check_opens(stream)
