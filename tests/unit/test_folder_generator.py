"""Images made by any other service, handed out as a generator's."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from deepal_galot import seeding
from deepal_galot.cli import main
from deepal_galot.datasets.digits import DIGIT_NAMES, Digits
from deepal_galot.errors import UserError
from deepal_galot.images import image_files, load_image
from deepal_galot.plan import make_plan
from deepal_galot.request import Request
from deepal_galot.results import RunFolder
from generators.base import ImageRequest
from generators.folder import FolderGenerator
from generators.image_store import ImageStore
from generators.tiny import Tiny
from helpers import QUICK, rows_of

CPU, SHAPE = torch.device("cpu"), (8, 8, 1)
NAMES = ("great cat", "dog")


def fill(root, counts, seed=0):
    """Random pictures of many sizes, grey and colour, PNG and JPEG; {folder: how many}."""
    rng = np.random.default_rng(seed)
    for folder, n in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            shape = (int(rng.integers(9, 40)), int(rng.integers(9, 40)), 3)[: 2 + i % 2]
            suffix = "jpg" if i % 3 == 0 else "png"
            pixels = rng.integers(0, 255, shape, np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i}.{suffix}")
    return root


def request(counts=(6, 3), seed=0, round=1):
    none = torch.zeros(2, 1, 0)
    return ImageRequest(none, none, counts, NAMES, NAMES, SHAPE, seed, round)


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "made", {"great_cat": 8, "dog": 3})


def images_of(root, tmp_path, **fields):
    generator = FolderGenerator.at(root)(None, CPU)
    return ImageStore(tmp_path / "store").get(generator, request(**fields))


def test_each_is_one_of_its_class_none_twice_in_the_streams_order(folder, tmp_path):
    images = images_of(folder, tmp_path)
    assert images.y.tolist() == [0] * 6 + [1] * 3 and images.failed == 0
    for k, name in enumerate(("great_cat", "dog")):
        files = sorted((folder / name).iterdir())
        order = seeding.numpy_rng(0, "folder", 1, k).permutation(len(files))
        expected = [load_image(files[i], SHAPE) for i in order[: (6, 3)[k]]]
        assert (images.x[images.y == k] == np.stack(expected)).all()


def test_the_images_of_a_class_are_counted_without_listing_the_others(folder, monkeypatch):
    """Of many classes the whole folder was listed once for each."""
    listed = []
    monkeypatch.setattr(
        "generators.folder.image_files", lambda f: listed.append(f.name) or image_files(f)
    )
    generator = FolderGenerator.at(folder)
    assert [generator.supply(name) for name in NAMES] == [8, 3]
    assert listed == ["great_cat", "dog"]


def test_seed_and_round_change_the_choice(folder, tmp_path):
    first = images_of(folder, tmp_path)
    for change in ({"seed": 1}, {"round": 2}):
        assert (images_of(folder, tmp_path, **change).x != first.x).any()


def test_the_hash_follows_names_and_bytes_not_the_place(folder, tmp_path):
    def content(root):
        return FolderGenerator.at(root).content_hash()

    first = content(folder)
    assert content(fill(tmp_path / "same", {"great_cat": 8, "dog": 3})) == first
    file = folder / "dog" / "1.png"
    file.rename(folder / "dog" / "7.png")
    renamed = content(folder)
    (folder / "dog" / "7.png").rename(file)
    assert renamed != first == content(folder)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(1, 1))  # the same length, and another time
    assert content(folder) not in (first, renamed)


def test_a_blank_file_is_left_out(tmp_path):
    root = fill(tmp_path / "made", {"great_cat": 40, "dog": 1})
    Image.new("RGB", (20, 20), "navy").save(root / "great_cat" / "5.png")
    images = images_of(root, tmp_path, counts=(40, 1))
    assert (len(images.x), images.retried, images.failed) == (40, 1, 1)


@pytest.mark.parametrize(
    "picture",
    [Image.new("RGB", (20, 20), "white"), Image.new("RGBA", (20, 20), (9, 99, 9, 0)),
     Image.new("L", (20, 20), 0)],
    ids=["white", "transparent", "black"],
)  # fmt: skip
def test_too_many_blank_files_are_named(tmp_path, picture):
    """Before, the generator's numbers overflowed, and another scheduler was to be tried."""
    root = fill(tmp_path / "made", {"great_cat": 8, "dog": 3})
    picture.save(root / "great_cat" / "5.png")
    picture.save(root / "great_cat" / "7.png")
    with pytest.raises(UserError) as caught:
        images_of(root, tmp_path, counts=(8, 1))
    text = str(caught.value)
    assert text.startswith(f"--generator folder:{root}: 2 of 8 images of 'great cat' (round 1) are")
    assert "png and 1 other file (all pixels alike" in text and "--scheduler" not in text
    assert str(root / "great_cat" / "5.png") in text or str(root / "great_cat" / "7.png") in text


@pytest.fixture(params=["truncated", "empty", "text", "link"])
def spoiled(request, folder):
    """(folder, a file of it that is no image, what is said of it)."""
    file = folder / "dog" / "1.png"
    data = file.read_bytes()
    file.unlink()
    if request.param == "link":
        file.symlink_to("gone.png")
        return folder, file, "is a link to gone.png, which is not there"
    text = {"truncated": data[: len(data) // 2], "empty": b"", "text": b"no image"}[request.param]
    file.write_bytes(text)
    says = {"truncated": "cannot be read as an image (", "empty": "is empty", "text": "is no image"}
    return folder, file, says[request.param]


def test_a_file_that_is_no_image_is_named_before_anything_runs(spoiled):
    """Before, it was found when it was drawn, after a fit."""
    folder, file, says = spoiled
    with pytest.raises(UserError) as caught:
        FolderGenerator.at(folder).content_hash()
    assert str(caught.value).startswith(f"--generator folder:{folder}: {file} {says}")
    assert "\n" not in str(caught.value) and str(caught.value).count(str(file)) == 1


def test_what_does_not_fit_the_classes(folder):
    with pytest.raises(UserError, match="no images of 1 of the 2 classes of pets; for 'dig'.*dog"):
        FolderGenerator.at(folder).check_classes(("great cat", "dig"), "pets")
    (folder / "dig").mkdir()
    with pytest.raises(UserError, match="for 'dig' put some into .*that folder is empty"):
        FolderGenerator.at(folder).check_classes(("great cat", "dig"), "pets")
    with pytest.raises(UserError, match="gone: no such folder"):
        FolderGenerator.at(folder / "gone").check_classes(NAMES, "pets")
    (folder / "great cat").mkdir()
    with pytest.raises(UserError, match="two folders for the class 'great cat'"):
        FolderGenerator.at(folder).check_classes(NAMES, "pets")


@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("digits"), dict.fromkeys(DIGIT_NAMES, 3))


def run(output, digits_folder, *args):
    command = [*QUICK, "--strategy", "GALOT", "--generator", f"folder:{digits_folder}",
               "--output", str(output), *args]  # fmt: skip
    return main([str(a) for a in command])


def test_another_generator_is_called_by_its_name_alone(tmp_path):
    """Before, also by steps, guidance, … that only the usual one of the data set has."""
    fill(tmp_path / "made", dict.fromkeys(DIGIT_NAMES, 30))
    shutil.copytree(Tiny.source, tmp_path / "model")
    copy = f"GALOT:generator={tmp_path / 'model'}"
    made = f"GALOT:epsilon=0,generator=folder:{tmp_path / 'made'}"
    asked = (made, "GALOT:epsilon=0", copy, f"{copy},steps=5")
    request = Request(asked, Digits, (0,), None, {}, tmp_path, tmp_path, CPU)
    assert [run.label for run in make_plan(request).runs] == list(asked)


def test_a_run_on_a_folders_images(tmp_path, digits_folder, capsys):
    assert run(tmp_path, digits_folder, "--epsilon", "0") == 0
    ((name, rows),) = rows_of(tmp_path).items()
    assert [r["images"] for r in rows] == [20, 30]
    assert [r["ascent_images"] for r in rows] == [0, 0]
    assert "template" not in RunFolder.open(tmp_path / name).config.fields_read()
    assert f"generator=folder:{digits_folder}" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*_images.png"))
    # No template is read, so another one is the same run.
    assert run(tmp_path, digits_folder, "--epsilon", "0", "--template", "a {label}") == 0
    assert len(rows_of(tmp_path)) == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "follow no text that could be optimised: add --epsilon 0"),
        (["--epsilon", "0", "--n-synthetic", "2.1"],
         "a round wants 4 images of 'zero', there are 3"),
        (["--epsilon", "0", "--save-full-size", "1"], "is for images that are made from a text"),
        (["--epsilon", "0", "--save-full-size", "-1"], "must be at least 0 images"),
    ],
)  # fmt: skip
def test_refused_before_anything_is_loaded(
    tmp_path, digits_folder, capsys, monkeypatch, args, says
):
    monkeypatch.setattr("deepal_galot.datasets.digits.Digits.load", None)
    assert run(tmp_path, digits_folder, *args) == 2
    assert says in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_damaged_file_stops_a_dry_run(tmp_path, capsys):
    root = fill(tmp_path / "made", dict.fromkeys(DIGIT_NAMES, 3))
    (root / "zero" / "1.png").write_bytes(b"")
    assert run(tmp_path / "out", root, "--epsilon", "0", "--dry-run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{root / 'zero' / '1.png'} is empty" in line
