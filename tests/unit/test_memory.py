"""Out of memory: the same images in smaller parts, said once."""

import pytest
import torch

from deepal_galot.device import is_out_of_memory
from deepal_galot.errors import UserError
from generators.memory import MicroBatches
from generators.networks import Networks
from generators.text_optimization import score_gradient
from generators.tiny import Tiny
from helpers import small_config


class SmallMemory:
    """Work that fails for more than `fits` rows, and remembers the parts it was given."""

    def __init__(self, fits):
        self.fits, self.done = fits, []

    def __call__(self, part):
        if part.stop - part.start > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.done.append(part)
        return list(range(part.start, part.stop))


@pytest.mark.parametrize(("rows", "fits", "n"), [(16, 16, 40), (16, 5, 40), (16, 1, 3), (4, 3, 0)])
def test_every_row_once_and_in_order(rows, fits, n, capsys):
    parts, work = MicroBatches(rows, "sampling"), SmallMemory(fits)
    assert sum(parts.each(n, work), []) == list(range(n))
    assert all(p.stop - p.start <= fits for p in work.done)
    assert (parts.rows == rows) == (fits >= rows or n == 0)
    assert len(capsys.readouterr().err.splitlines()) == (fits < rows and n > 0)


def test_it_stays_small_and_says_so_once(capsys):
    parts, work = MicroBatches(16, "sampling"), SmallMemory(5)
    parts.each(40, work)
    assert capsys.readouterr().err == "out of memory: sampling goes on with 4 images at once\n"
    work.fits = 2
    parts.each(40, work)
    assert parts.rows == 2 and capsys.readouterr().err == ""


def test_what_torch_keeps_is_given_back_where_there_is_such_a_device(monkeypatch):
    emptied = []
    for there, kind in ((torch.cuda, torch.cuda), (torch.backends.mps, torch.mps)):
        monkeypatch.setattr(there, "is_available", lambda: True)
        monkeypatch.setattr(kind, "empty_cache", lambda kind=kind: emptied.append(kind))
    MicroBatches(16, "sampling").each(16, SmallMemory(8))
    assert emptied == [torch.cuda, torch.mps]


def test_not_even_one_row():
    with pytest.raises(
        UserError,
        match=r"does not fit with one image at once \(.*memory.*\); use a smaller --resolution",
    ):
        MicroBatches(16, "sampling").each(3, SmallMemory(0))


@pytest.mark.parametrize("says", [
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "[enforce fail] DefaultCPUAllocator: can't allocate "
    "memory: you tried to allocate 8 bytes.",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "GET was unable to find an engine to execute this computation",
])  # fmt: skip
def test_what_libraries_say_of_memory(says):
    assert is_out_of_memory(RuntimeError(says)) and not is_out_of_memory(ValueError(says))


def test_other_errors_are_not_memory():
    def fail(part):
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        MicroBatches(16, "sampling").each(3, fail)


@pytest.fixture
def small_networks(monkeypatch):
    """Call it with the rows that fit into the UNet (both branches) and the VAE."""

    def limit(unet, vae):
        for name, most in (("noise", unet), ("images", vae)):
            original = getattr(Networks, name)

            def call(self, x, *args, original=original, most=most):
                if len(x) > most:
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                return original(self, x, *args)

            monkeypatch.setattr(Networks, name, call)

    return limit


def test_images_are_the_same(tiny, small_networks, capsys):
    c = tiny.encode([f"a handwritten digit {n}" for n in ("two", "nine", "four")] * 3)
    whole = tiny.sample(c, range(9))
    generator = Tiny(small_config(), torch.device("cpu"))
    identity = dict(generator.identity)
    small_networks(unet=6, vae=2)
    parts = [generator.sample(c, range(9)) for _ in range(2)]
    assert (parts[0] - whole).abs().max() < 1 / 255 and torch.equal(*parts)
    said = capsys.readouterr().err
    assert said.count("sampling goes on with 2 images") == 1
    assert said.count("decoding goes on with 2 images") == 1
    assert generator.identity == identity


def test_gradients_are_the_same(tiny, small_networks, capsys):
    c, seeds = tiny.encode(["two", "three"]), [[1, 2, 3], [4, 5, 6]]
    generator = Tiny(small_config(), torch.device("cpu"))
    whole = score_gradient(tiny, c, lambda x, _: x[..., :16].mean((1, 2, 3)), seeds)
    small_networks(unet=4, vae=9)
    for _ in range(2):
        part = score_gradient(generator, c, lambda x, _: x[..., :16].mean((1, 2, 3)), seeds)
        for a, b in zip(whole, part, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-7)
    assert capsys.readouterr().err.count("the gradient goes on with 1 images") == 1
