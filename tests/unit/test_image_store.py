"""Shards: complete, reusable, repaired, and the same whatever interrupted them."""

import numpy as np
import pytest
import torch

from deepal_galot.errors import UserError
from generators import image_store
from generators.image_store import ImageStore, Request

SHAPE = (8, 8, 1)


def request(counts=(5, 4, 3), round=0, seed=0, shift=0.0):
    c = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(1)) + shift
    return Request(c, counts, ("a one", "a two", "a three"), SHAPE, seed, round)


def test_images_and_pseudo_labels_in_order(tmp_path, fake_generator):
    images = ImageStore(tmp_path).get(fake_generator, request())
    assert images.x.shape == (12, *SHAPE) and images.x.dtype == np.uint8
    assert images.y.tolist() == [0] * 5 + [1] * 4 + [2] * 3
    assert images.made == 12
    assert len(np.unique(images.x.reshape(12, -1), axis=0)) == 12


def test_second_time_nothing_is_made(tmp_path, fake_generator):
    first = ImageStore(tmp_path).get(fake_generator, request())
    fake_generator.calls.clear()
    again = ImageStore(tmp_path).get(fake_generator, request())
    assert again.made == 0 and fake_generator.calls == []
    assert (again.x == first.x).all() and (again.y == first.y).all()


@pytest.mark.parametrize("change", [{"round": 1}, {"seed": 1}, {"shift": 1e-6}])
def test_another_address_is_another_image(tmp_path, fake_generator, change):
    first = ImageStore(tmp_path).get(fake_generator, request())
    other = ImageStore(tmp_path).get(fake_generator, request(**change))
    assert other.made == 12 and request(**change).key(fake_generator) != request().key(
        fake_generator
    )
    if "shift" not in change:
        assert (other.x != first.x).any()


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "missing"])
def test_a_damaged_shard_is_made_again_alike(tmp_path, fake_generator, damage):
    store = ImageStore(tmp_path)
    first = store.get(fake_generator, request())
    shard = sorted(tmp_path.rglob("*-0001-*.npz"))[0]
    data = bytearray(shard.read_bytes())
    if damage == "flip":
        data[300] ^= 0xFF  # inside the pixels
    shard.write_bytes({"truncate": data[:-50], "empty": b""}.get(damage, bytes(data)))
    if damage == "missing":
        shard.unlink()
    again = store.get(fake_generator, request())
    assert again.made == 4 and (again.x == first.x).all()
    assert store.get(fake_generator, request()).made == 0


def test_interrupted_anywhere_it_ends_alike(tmp_path, fake_generator):
    expected = ImageStore(tmp_path / "whole").get(fake_generator, request())
    sample = fake_generator.sample
    for stop_at in range(3):
        store = ImageStore(tmp_path / str(stop_at))
        left = [stop_at]

        def until_stopped(*args, left=left, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return sample(*args, **kwargs)

        fake_generator.sample = until_stopped
        with pytest.raises(KeyboardInterrupt):
            store.get(fake_generator, request())
        fake_generator.sample = sample
        images = store.get(fake_generator, request())
        assert (images.x == expected.x).all()
        assert not list(store.root.rglob(".*"))  # no temporary file stays


def test_large_requests_are_cut_into_shards(tmp_path, fake_generator, monkeypatch):
    monkeypatch.setattr(image_store, "SHARD", 2)
    images = ImageStore(tmp_path).get(fake_generator, request())
    assert len(list(tmp_path.rglob("*.npz"))) == 3 + 2 + 2
    assert len(images.x) == 12


def test_blank_images_are_drawn_again_from_another_seed(tmp_path, fake_generator):
    good = ImageStore(tmp_path / "a").get(fake_generator, request())
    sample, bad_calls = fake_generator.sample, []

    def sometimes_blank(c, seeds, graph="none"):
        images = sample(c, seeds, graph)
        if not bad_calls:
            images[1], images[2] = float("nan"), 0.5
            bad_calls.append(seeds)
        return images

    fake_generator.sample = sometimes_blank
    images = ImageStore(tmp_path / "b").get(fake_generator, request())
    same = (images.x == good.x).reshape(12, -1).all(1)
    assert same.tolist() == [True, False, False] + [True] * 9
    assert all(len(np.unique(x)) > 1 for x in images.x)


def test_a_broken_generator_stops_with_a_clear_line(tmp_path, fake_generator):
    fake_generator.sample = lambda c, seeds, graph="none": torch.zeros(len(c), 3, 16, 16)
    with pytest.raises(UserError, match="4 blank images in a row for 'a one'"):
        ImageStore(tmp_path).get(fake_generator, request())
    assert not list(tmp_path.rglob("*.npz"))
