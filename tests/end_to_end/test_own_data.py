"""Whole runs on the user's own data, named by a path."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from deepal_galot.campaign import environment
from deepal_galot.cli import main
from deepal_galot.results import RunFolder
from helpers import QUICK, rows_of, run_benchmark

CPU = torch.device("cpu")
DEMO = [*QUICK, "--protocol", "demo"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory, digits):
    """Some of Digits as files: class folders in alphabetical order, two sizes."""
    root = tmp_path_factory.mktemp("own") / "my photos"
    for part, n in (("train", 60), ("test", 30)):
        x, y = getattr(digits, f"x_{part}")[:n], getattr(digits, f"y_{part}")[:n]
        for i, (pixels, label) in enumerate(zip(x, y, strict=True)):
            file = root / part / digits.class_names[label] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(pixels[..., 0])
            (image.resize((16, 16)) if i % 7 == 0 else image).save(file)
    return root


def test_an_image_folder_with_galot(tmp_path, photos):
    """From the command line to labels for new images, in fresh processes."""
    out = ["--output", tmp_path]
    own = ["--dataset", "my photos", "--image-size", "8", "--generator", "tiny"]
    done = run_benchmark(*DEMO, *own, "--strategy", "GALOT:epsilon=0", *out, cwd=photos.parent)
    assert "my_photos" in done.stderr and "GALOT" in done.stdout
    (rows,) = rows_of(tmp_path, "GALOT").values()
    assert [(r["labels"], r["images"]) for r in rows] == [(10, 20), (15, 30)]
    (folder,) = tmp_path.glob("my_photos/GALOT/*/seed0")
    _, card = RunFolder.open(folder).classifier()
    assert card["class_names"] == sorted(card["class_names"]) and card["image_shape"] == [8, 8, 1]
    labels = run_benchmark("--predict", photos / "test" / "four", "--from", folder).stdout
    assert labels.startswith("file,class,probability") and labels.count(".png") >= 1


def test_an_npz_of_digits_is_digits(tmp_path, digits, capsys):
    """The same arrays by another way in give the same accuracies."""
    arrays = {k: getattr(digits, k) for k in ("x_train", "y_train", "x_test", "y_test")}
    file = tmp_path / "own.npz"
    np.savez(file, class_names=np.array(digits.class_names), **arrays)
    out = ["--output", str(tmp_path / "out"), "--strategy", "MarginSampling"]
    for dataset in ("Digits", str(file)):
        assert main([*DEMO, "--dataset", dataset, *out]) == 0
    (own,), (embedded,) = (
        [r for path, r in rows_of(tmp_path / "out").items() if path.startswith(f"{name}/")]
        for name in ("own", "Digits")
    )
    assert own == embedded and len(own) == 2
    capsys.readouterr()
    for name in (str(file), "own", "OWN"):  # the report's filter takes the path and the name
        assert main(["--report", "--dataset", name, *out[:2]]) == 0
        table = capsys.readouterr().out
        assert "own" in table and "Digits" not in table


def test_the_same_name_with_other_images_is_another_run(tmp_path, photos):
    args = [*DEMO, "--n-rounds", "0", "--dataset", str(photos), "--strategy", "RandomSampling"]
    for size in ("8", "10", "8"):
        assert main([*args, "--image-size", size, "--output", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("my_photos/RandomSampling/*"))) == 2
    parts = [json.loads(f.read_text())["parts"] for f in tmp_path.rglob("env.json")]
    assert {part["data"]["path"] for (part,) in parts} == {str(photos.absolute())}


def test_a_data_set_of_ones_own_leaves_its_file_with_its_runs(tmp_path):
    """A run is named by the data, so a comment in the file makes no other run."""
    file = tmp_path / "mine.py"
    text = "from deepal_galot.datasets.digits import Digits\nclass Mine(Digits): name = 'Mine'\n"
    args = [*DEMO, "--n-rounds", "0", "--plugin", str(file), "--dataset", "Mine"]
    for comment in ("", "# more\n"):
        file.write_text(text + comment)
        assert main([*args, "--strategy", "RandomSampling", "--output", str(tmp_path / "r")]) == 0
    (kept,) = (tmp_path / "r").rglob("code/Mine/mine.py")
    assert kept.read_text() == text


def test_a_plug_ins_path_of_its_own_kind_is_not_said(digits):
    dataset = type("Mine", (), {"path": property(lambda self: "here")})
    request = SimpleNamespace(
        dataset=dataset, device=CPU, deterministic=False, compile=False, command=""
    )
    counts = np.bincount(digits.y_train)
    assert environment(request, digits)["data"] == {
        "pool": 1347, "test": 450, "path": None, "shape": [8, 8, 1],
        "smallest_class": counts.min(), "largest_class": counts.max(),
    }  # fmt: skip


def test_sizes_that_differ_end_with_one_line(tmp_path, photos, capsys):
    args = [*DEMO, "--dataset", str(photos), "--strategy", "RandomSampling"]
    assert main([*args, "--output", str(tmp_path)]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert err[-1].startswith("error: ") and "give --image-size N" in err[-1]
    assert not list(tmp_path.iterdir())


def test_test_images_in_the_pool_are_counted(tmp_path, photos, capsys):
    """Two copies of one test image and one of another."""
    own = tmp_path / "leaky"
    shutil.copytree(photos, own)
    first, second = sorted((own / "test").rglob("*.png"))[:2]
    for name, file in (("a", first), ("b", first), ("c", second)):
        shutil.copy(file, own / "train" / "one" / f"{name}.png")
    args = [*DEMO, "--image-size", "8", "--strategy", "RandomSampling", "--dry-run"]
    assert main([*args, "--dataset", str(own), "--output", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    note = "note: 3 of the 63 images of leaky to label are in its test part, too; accuracies"
    assert note in out
    gal = [*DEMO, "--image-size", "8", "--strategy", "GALOT", "--mode", "gal"]
    gal += ["--generator", "tiny"]
    for flags in ([*args, "--dataset", photos], [*gal, "--dry-run", "--dataset", own]):
        assert main([*map(str, flags), "--output", str(tmp_path / "r")]) == 0
        assert "in its test part" not in capsys.readouterr().out
