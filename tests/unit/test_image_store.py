"""Shards: complete, reusable, repaired, and the same whatever interrupted them."""

import dataclasses
import hashlib
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deepal_galot.alignment import Alignment
from deepal_galot.errors import UserError
from deepal_galot.galot import Galot
from deepal_galot.images import load_image
from generators import image_store
from generators.base import ImageRequest, Refinement
from generators.image_store import FullSizeFolder, ImageStore, read_manifest
from generators.tiny import Tiny
from helpers import FakeGenerator, NoJournal, small_config

SHAPE = (8, 8, 1)


def request(counts=(5, 4, 3), round=0, seed=0, shift=0.0):
    c0 = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(1))
    prompts, names = ("a one", "a two", "a three"), ("one", "two", "three")
    return ImageRequest(c0 + shift, c0, counts, prompts, names, SHAPE, seed, round)


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


def test_what_is_stored_cost_what_making_it_took(tmp_path, fake_generator, a_second_a_batch):
    def get(counts):
        return ImageStore(tmp_path).get(fake_generator, request(counts=counts)).seconds_stored

    assert get((5, 4, 3)) == 0  # three batches of four
    assert get((5, 4, 3)) == pytest.approx(3, abs=0.003)  # a manifest has three digits
    found = ImageStore(tmp_path).find(request().key(fake_generator), request())
    assert found.seconds_stored == pytest.approx(3, abs=0.003)
    next(tmp_path.rglob("*-0001-0000.json")).unlink()
    # Class 1 is drawn again with all of its batches, and so is one image of class 0.
    assert get((5, 4, 3)) == pytest.approx(1, abs=0.003)
    pictured = ImageStore(tmp_path, FullSizeFolder(tmp_path / "full", 2))
    shown = pictured.get(fake_generator, request())
    assert shown.made == 0 and shown.seconds_stored == 0  # each batch has pictures


def test_batches_may_be_drawn_elsewhere_in_any_order(tmp_path, fake_generator):
    """By anything that gives what `draw` gives of them; the shards are the same bytes."""

    def backwards(generator, request, batches, full):
        wanted.append(full)
        yield from reversed(list(image_store.draw_here(generator, request, batches, full)))

    asked, wanted = request(counts=(5, 300, 3)), []
    here = ImageStore(tmp_path / "a", FullSizeFolder(tmp_path / "g", 1)).get(fake_generator, asked)
    for full_size in (FullSizeFolder(tmp_path / "h", 1), None):
        elsewhere = ImageStore(tmp_path / f"b{len(wanted)}", full_size, backwards)
        there = elsewhere.get(fake_generator, asked)
        assert there.made == here.made == 308 and (there.x == here.x).all()
    assert wanted == [True, False]
    for kind, a, b in (("npz", "a", "b0"), ("npz", "a", "b1"), ("png", "g", "h")):
        ours, theirs = (
            {f.name: f.read_bytes() for f in (tmp_path / name).rglob(f"*.{kind}")}
            for name in (a, b)
        )
        assert len(ours) >= 3 and ours == theirs


@pytest.mark.parametrize("change", [{"round": 1}, {"seed": 1}, {"shift": 1e-6}])
def test_another_address_is_another_image(tmp_path, fake_generator, change):
    first = ImageStore(tmp_path).get(fake_generator, request())
    other = ImageStore(tmp_path).get(fake_generator, request(**change))
    assert other.made == 12 and request(**change).key(fake_generator) != request().key(
        fake_generator
    )
    if "shift" not in change:
        assert (other.x != first.x).any()


MOVED = Alignment.identity(1).tensors | {"offset": torch.tensor([0.1]).double()}


@pytest.mark.parametrize(
    "change",
    [{"counts": (5, 4, 4)}, {"prompts": ("a one", "a two", "a 3")}, {"image_shape": (8, 8, 3)},
     {"refinement": Refinement("its own", None)}, {"alignment": Alignment(**MOVED)}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_all_that_pixels_depend_on_is_in_the_key(fake_generator, change):
    changed = dataclasses.replace(request(), **change)
    assert changed.key(fake_generator) != request().key(fake_generator)


def test_another_generator_has_other_keys(fake_generator, monkeypatch):
    before = request().key(fake_generator)
    monkeypatch.setattr(fake_generator, "identity", {"weights": "others"})
    assert request().key(fake_generator) != before


@pytest.mark.parametrize("part", [".npz", ".json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "other shard's"])
def test_a_missing_or_exchanged_file_is_made_again(tmp_path, fake_generator, part, damage):
    store = ImageStore(tmp_path)
    first = store.get(fake_generator, request(counts=(4, 4, 4)))
    file, other = sorted(tmp_path.rglob(f"*{part}"))[1:]
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"" if damage == "empty" else other.read_bytes())
    again = store.get(fake_generator, request(counts=(4, 4, 4)))
    assert again.made == 4 and (again.x == first.x).all()
    assert store.get(fake_generator, request(counts=(4, 4, 4))).made == 0


def test_a_subclass_of_a_generator_is_called_by_its_own_name():
    """Before, some messages called it by the name of the generator that it extends."""
    assert type("Mine", (Tiny,), {}).called() == "the generator Mine"
    assert Tiny.called() == "the generator tiny"


def test_an_identity_that_json_cannot_hold_is_refused(fake_generator, monkeypatch):
    monkeypatch.setattr(fake_generator, "identity", {"weights": object()})
    with pytest.raises(UserError, match="the generator FakeGenerator: `identity` must be a dict"):
        request().key(fake_generator)


def test_an_exchanged_shard_with_its_manifest_is_made_again(tmp_path, fake_generator):
    first = ImageStore(tmp_path).get(fake_generator, request(counts=(4, 4, 4)))
    for part in ("npz", "json"):
        _, file, other = sorted(tmp_path.rglob(f"*.{part}"))
        shutil.copy(other, file)
    again = ImageStore(tmp_path).get(fake_generator, request(counts=(4, 4, 4)))
    assert again.made == 4 and (again.x == first.x).all()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(a store's folder, its images) that the property test damages and finds repaired."""
    root = tmp_path_factory.mktemp("store")
    return root, ImageStore(root).get(FakeGenerator(), request(counts=(2, 1, 1)))


@given(st.integers(0, 5), st.floats(0, 1, exclude_max=True), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_any_flipped_byte_and_any_cut_is_found_and_repaired(whole, number, where, flip):
    root, first = whole
    file = sorted(p for p in root.rglob("*") if p.is_file())[number]
    content = bytearray(file.read_bytes())
    at = int(where * len(content))  # by share: a manifest's length varies with what it took
    if flip:
        content[at] ^= flip
    file.write_bytes(content if flip else content[:at])
    assert ImageStore(root).find(first.key, request(counts=(2, 1, 1))) is None
    again = ImageStore(root).get(FakeGenerator(), request(counts=(2, 1, 1)))
    assert again.made == (2 if "-0000-0000" in file.name else 1)
    assert (again.x == first.x).all() and (again.y == first.y).all()
    assert ImageStore(root).find(first.key, request(counts=(2, 1, 1))).made == 0


def test_what_is_stored_is_found_without_the_generator(tmp_path, fake_generator):
    store = ImageStore(tmp_path)
    key = request().key(fake_generator)
    assert store.find(key, request()) is None
    first = store.get(fake_generator, request())
    found = store.find(first.key, request())
    assert first.key == key and (found.x == first.x).all() and (found.y == first.y).all()
    assert store.find(key, request(counts=(5, 4, 4))) is None  # of another length


def test_the_manifest_says_what_a_shard_is(tmp_path, fake_generator):
    images = ImageStore(tmp_path).get(fake_generator, request(shift=0.5, seed=7, round=2))
    files = sorted(tmp_path.rglob("*.json"))
    assert len(files) == 3 and all(f.read_text().count("\n") == 1 for f in files)
    record = read_manifest(files[1])
    shard = files[1].with_suffix(".npz")
    assert record.pop("seconds") >= 0 and record.pop("written").endswith("+00:00")
    assert record.pop("distance") == pytest.approx(0.5 * 30**0.5, rel=1e-6)
    assert record == {
        "key": images.key, "class": 1, "first": 0, "count": 4, "class_name": "two",
        "prompt": "a two", "seed": 7, "round": 2, "retried": 0, "failed": 0,
        "shard_sha256": hashlib.sha256(shard.read_bytes()).hexdigest(),
    }  # fmt: skip
    assert np.load(shard)["labels"].tolist() == [1, 1, 1, 1]


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


def blank_where(generator, is_blank):
    """Let a generator's images be blank where is_blank(seed, how often it was asked before)."""
    sample, asked = generator.sample, []

    def sometimes_blank(c, seeds, graph="none"):
        images = sample(c, seeds, graph)
        for i, seed in enumerate(seeds):
            if is_blank(seed, len(asked)):
                images[i] = float("nan") if i % 2 else 0.5
        asked.append(seeds)
        return images

    generator.sample = sometimes_blank


def test_blank_images_are_drawn_again_from_another_seed(tmp_path, fake_generator):
    good = ImageStore(tmp_path / "a").get(fake_generator, request())
    first_batch = fake_generator.calls[0]
    blank_where(fake_generator, lambda seed, _: seed in first_batch[1:3])
    images = ImageStore(tmp_path / "b").get(fake_generator, request())
    same = (images.x == good.x).reshape(12, -1).all(1)
    assert same.tolist() == [True, False, False] + [True] * 9
    assert all(len(np.unique(x)) > 1 for x in images.x)
    assert (images.retried, images.failed, good.retried, good.failed) == (2, 0, 0, 0)
    again = ImageStore(tmp_path / "b").get(fake_generator, request())
    assert (again.made, again.retried, again.failed) == (0, 2, 0)
    made = [read_manifest(f) for f in sorted((tmp_path / "b").rglob("*.json"))]
    assert [(m["retried"], m["failed"]) for m in made] == [(2, 0), (0, 0), (0, 0)]


COUNTS = (40, 20, 5)


@pytest.fixture
def failing(fake_generator):
    """Of class 0 two images in 40, of class 1 one in 20 stay blank under every seed: 5 %."""
    rows = request(counts=COUNTS).rows()
    draw = fake_generator.draw

    def failing_draw(request, rows, attempt):
        images = draw(request, rows, attempt)
        images[[row in ((0, 7), (0, 39), (1, 0)) for row in rows]] = float("nan")
        return images

    fake_generator.draw = failing_draw
    fake_generator.bad = [rows.index(row) for row in ((0, 7), (0, 39), (1, 0))]
    return fake_generator


def test_what_stays_blank_is_left_out_and_remembered(tmp_path, failing):
    good = ImageStore(tmp_path / "good").get(FakeGenerator(), request(counts=COUNTS))
    images = ImageStore(tmp_path / "bad").get(failing, request(counts=COUNTS))
    assert (images.made, images.retried, images.failed) == (65, 3, 3)
    assert (images.x == np.delete(good.x, failing.bad, axis=0)).all()
    assert (images.y == np.delete(good.y, failing.bad)).all()
    failing.calls.clear()
    again = ImageStore(tmp_path / "bad").get(failing, request(counts=COUNTS))
    assert (again.made, again.retried, again.failed) == (0, 3, 3) and not failing.calls
    assert (again.x == images.x).all() and (again.y == images.y).all()
    failed = [read_manifest(f)["failed"] for f in sorted((tmp_path / "bad").rglob("*.json"))]
    assert failed == [2, 1, 0]


def test_more_than_one_in_twenty_of_a_class_stops_with_a_clear_line(tmp_path, failing):
    says = r"4 blank images in a row .* for 1 of 19 images of 'a two' .round 0., more than 5 %"
    with pytest.raises(UserError, match=says):
        ImageStore(tmp_path).get(failing, request(counts=(40, 19, 5)))


def test_a_broken_generator_stops_at_its_first_batch(tmp_path, fake_generator):
    asked = []
    fake_generator.sample = lambda c, seeds, graph="none": (
        asked.append(seeds) or torch.zeros(len(c), 3, 16, 16)
    )
    with pytest.raises(UserError, match="4 blank images in a row .* for 4 of 5 images of 'a one'"):
        ImageStore(tmp_path).get(fake_generator, request())
    assert len(asked) == 4 and not list(tmp_path.rglob("*.npz"))


@pytest.mark.parametrize(("oversample", "kept"), [(1.0, [38, 39, 40]), (1.25, [40, 40, 40])])
def test_galot_trains_on_none_of_them_and_counts_them(tmp_path, failing, oversample, kept):
    config = small_config(mode="gal", n_init=120, n_synthetic=1.0, oversample=oversample)
    names = ("one", "two", "three")
    galot = Galot(config, failing, ImageStore(tmp_path), NoJournal(), names, SHAPE)
    batch = galot.make_images(None, 0)
    assert np.bincount(batch.y).tolist() == kept and len(batch.x) == sum(kept)
    assert (batch.made, batch.retried, batch.failed) == (120 * oversample, 3, 3)
    assert all(len(np.unique(x)) > 1 for x in batch.x)


# -- full-size pictures --------------------------------------------------------------------------


def full_size(tmp_path, first=2):
    return ImageStore(tmp_path / "store", FullSizeFolder(tmp_path / "full", first))


def test_the_first_images_at_full_resolution(tmp_path, fake_generator):
    images = full_size(tmp_path).get(fake_generator, request(round=3))
    names = [f"{k:03d}_{name}_{i:04d}.png" for k, name in enumerate(("one", "two", "three"))
             for i in range(2)]  # fmt: skip
    files = sorted((tmp_path / "full").rglob("*.*"))
    assert [f.relative_to(tmp_path / "full").parts for f in files] == [
        ("round003", name) for name in sorted(names)
    ]
    positions = [0, 1, 5, 6, 9, 10]
    for file, position in zip(sorted(files), positions, strict=True):
        assert Image.open(file).size == (16, 16)  # stored at 8
        reduced = load_image(file, SHAPE).astype(int)  # 8-bit steps are rounded twice
        assert np.abs(reduced - images.x[position]).max() <= 1


def test_what_is_stored_already_gets_its_gallery_from_those_batches_alone(tmp_path, fake_generator):
    first = full_size(tmp_path).get(fake_generator, request())
    pictures = {f: f.read_bytes() for f in (tmp_path / "full").rglob("*.png")}
    shards = {f: f.stat().st_mtime_ns for f in (tmp_path / "store").rglob("*.*")}
    lost = next(f for f in pictures if "001_two_0001" in f.name)
    lost.unlink()
    fake_generator.calls.clear()
    again = full_size(tmp_path).get(fake_generator, request())
    assert again.made == 0 and (again.x == first.x).all()
    assert len(fake_generator.calls) == 1  # position 6: the second batch of 4
    assert {f: f.read_bytes() for f in (tmp_path / "full").rglob("*.png")} == pictures
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "store").rglob("*.*")} == shards


def test_a_blank_image_has_no_picture_and_is_not_asked_for_again(tmp_path, failing):
    full_size(tmp_path, 8).get(failing, request(counts=COUNTS))
    assert len(list((tmp_path / "full").rglob("*.png"))) == 8 + 8 + 5 - 2
    failing.calls.clear()
    full_size(tmp_path, 8).get(failing, request(counts=COUNTS))
    assert not failing.calls
