"""Whole runs by the command line: what they print, leave behind, and share."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from deepal_galot import galot, seeding
from deepal_galot.acquisition import entropy
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.cli import main
from deepal_galot.datasets.digits import Digits
from deepal_galot.images import fit_to, to_uint8
from deepal_galot.learner import Learner
from deepal_galot.pool import Pool
from deepal_galot.results import RunFolder
from generators.prompts import fill, templates
from generators.tiny import Tiny
from helpers import QUICK, image_hashes, only_run, rows_of, run_benchmark


def quick(output, *args):
    assert main([*QUICK, "--output", str(output), *map(str, args)]) == 0


@pytest.fixture
def brief(monkeypatch, no_report):
    """Without what is for people to look at, most of a short run's time."""
    monkeypatch.setattr(galot, "PROBES", 1)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """What a process prints, and where it leaves its results."""
    output = tmp_path_factory.mktemp("fresh")
    done = run_benchmark(*QUICK, "--output", output, "--strategy", "MarginSampling", "GALOT")
    return done, output


@pytest.mark.xdist_group("fresh")
def test_a_fresh_process_prints_a_table_and_leaves_pictures(fresh):
    done, output = fresh
    assert "MarginSampling" in done.stdout and "average" in done.stdout
    data = "data: 1,347 images to label (131 to 137 a class), 450 to test on, 8×8 grey"
    assert f"\n{data}\n" in done.stdout
    assert "what the text optimisation of GALOT adds is not known" in done.stdout
    assert "next: --strategy GALOT:mode=full in the command that ran Digits, " in done.stdout
    assert "all GALOT with ascent_samples=1,ascent_steps=2" in done.stdout
    assert "round 1/1: 15 labels + 30 generated" in done.stderr
    files = list((output / "report").iterdir())
    names = {p.name for p in files}
    pictures = {"curves", "costs", "differences", "labels", "GALOT_images"}
    tables = {"accuracy", "differences", "labels", "pool", "text"}
    of_digits = {"rows.csv", *(f"{p}.png" for p in pictures)}
    of_digits |= {f"{p}.svg" for p in pictures - {"GALOT_images"}}
    of_digits |= {f"{t}.{kind}" for t in tables for kind in ("csv", "md", "tex")}
    assert names == {"LOCK", "files.json", "index.html", *(f"Digits_{name}" for name in of_digits)}
    for picture in [f for f in files if f.suffix == ".png"]:
        assert np.asarray(Image.open(picture)).std() > 5
    assert f"{len(of_digits)} files: {output / 'report' / 'Digits'}_*" in done.stdout
    assert str(output / "report" / "index.html") in done.stdout


@pytest.mark.xdist_group("fresh")
def test_without_a_terminal_there_is_no_bar(fresh):
    """A line for what is to do and for each round."""
    done, _ = fresh
    assert "\r" not in done.stderr
    first, *rounds = done.stderr.splitlines()
    assert first.startswith("to do: 2 runs") and len(rounds) == 4
    assert all(line.startswith(("Digits GALOT", "Digits MarginSampling")) for line in rounds)


@pytest.mark.usefixtures("no_report")
def test_strategies_share_initial_pool_and_weights(tmp_path):
    quick(tmp_path, "--strategy", "MarginSampling", "RandomSampling", "GALOT:epsilon=0")
    picks = {}
    for file in tmp_path.glob("*/*/*/seed0/config.json"):
        folder = RunFolder.open(file.parent)
        picks[folder.config.strategy] = folder.picks()
    assert len(picks) == 3
    first = [p[0].tolist() for p in picks.values()]
    assert first[0] == first[1] == first[2]
    assert picks["MarginSampling"][1].tolist() != picks["RandomSampling"][1].tolist()
    names = ("MarginSampling", "RandomSampling")
    accuracy = [only_run(tmp_path, s)[1][0]["accuracy"] for s in names]
    assert accuracy[0] == accuracy[1]


@pytest.mark.xdist_group("fresh")
def test_two_fresh_processes_give_the_same_rows_and_images(fresh, tmp_path):
    _, output = fresh
    run_benchmark(*QUICK, "--output", tmp_path, "--strategy", "GALOT")
    assert rows_of(output, "GALOT") == rows_of(tmp_path) != {}
    assert image_hashes(output) == image_hashes(tmp_path) != {}


def test_no_network_is_touched(tmp_path):
    """In a process that may use the network, with every way out recorded."""
    code = """
import socket, sys
asked = []
def refuse(*args, **kwargs):
    asked.append(args)
    raise OSError("no network in this test")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from deepal_galot.cli import main
code = main(sys.argv[1:])
sys.exit(f"asked for {asked}" if asked else code)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    command = [sys.executable, "-c", code, *QUICK, "--strategy", "GALOT", "--output", tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("no_report")
def test_mode_gal_reads_no_label(tmp_path):
    quick(tmp_path, "--strategy", "GALOT", "--mode", "gal")
    rows = only_run(tmp_path, "GALOT")[1]
    assert [(r["labels"], r["images"], r["budget"]) for r in rows] == [(0, 20, 10), (0, 30, 15)]
    assert rows[0]["epsilon"] == 0 and rows[1]["epsilon"] > 0
    assert not list(tmp_path.rglob("state.npz"))


def test_mode_al_is_the_base_sampler(tmp_path):
    quick(tmp_path, "--strategy", "GALOT", "EntropySampling", "--mode", "al",
          "--base-sampler", "EntropySampling")  # fmt: skip
    assert list(rows_of(tmp_path)) == list(rows_of(tmp_path, "EntropySampling"))
    assert len(rows_of(tmp_path)) == 1


def test_mode_full_is_one_fit_on_every_label(tmp_path, capsys):
    quick(tmp_path, "--strategy", "GALOT", "--mode", "full", "--epochs", "1")
    (row,) = only_run(tmp_path, "FullySupervised")[1]
    assert row["labels"] == 1347 and row["images"] == 0
    assert "every label, one fit; no strategy and no budget plays a part" in capsys.readouterr().out


@pytest.mark.usefixtures("no_report")
def test_accumulate_and_oversample(tmp_path):
    quick(tmp_path, "--strategy", "GALOT:epsilon=0,synthetic=accumulate", "--oversample", "1.5")
    rows = only_run(tmp_path, "GALOT")[1]
    assert [r["images"] for r in rows] == [20, 50]
    assert [r["images_made"] for r in rows] == [30, 50]  # 2 → 3 and 3 → 5 (halves up) a class


@pytest.mark.usefixtures("no_report")
def test_full_size_pictures_also_of_a_finished_run(tmp_path):
    quick(tmp_path, "--strategy", "GALOT", "--epsilon", "0")
    rows, shards = rows_of(tmp_path, seconds=True), image_hashes(tmp_path)
    assert not list(tmp_path.rglob("full"))
    for first in (1, 2):
        quick(tmp_path, "--strategy", "GALOT", "--epsilon", "0", "--save-full-size", first)
        ((run, _),) = rows.items()
        files = sorted((tmp_path / "images" / "full" / run).rglob("*.png"))
        assert len(files) == 10 * (first + 1)  # round 1 makes the third of each class
    assert files[1].parts[-2:] == ("round000", "000_zero_0001.png")
    assert {Image.open(f).size for f in files} == {(32, 32)}
    assert rows_of(tmp_path, seconds=True) == rows and image_hashes(tmp_path) == shards


@pytest.mark.usefixtures("brief")
def test_pictures_of_texts_of_their_own_are_there_from_the_start_or_asked_in_vain(tmp_path, capsys):
    """Drawing them again takes the classifier of their round."""
    flags = ["--strategy", "GALOT", "--text-per", "image", "--ascent-steps", "1", "--n-rounds", "0"]
    quick(tmp_path / "with", *flags, "--save-full-size", "1")
    quick(tmp_path / "with", *flags, "--save-full-size", "1")  # all are there
    assert len(list((tmp_path / "with/images/full").rglob("*.png"))) == 10
    quick(tmp_path / "without", *flags)
    before = rows_of(tmp_path / "without", seconds=True)
    for folder in ("with", "without"):
        args = [*QUICK, *flags, "--save-full-size", "2", "--output", str(tmp_path / folder)]
        assert main(args) == 2
        error = capsys.readouterr().err
        assert "--save-full-size 2: of round 0 of Digits GALOT" in error
        assert "Leave it out, or play" in error
    assert rows_of(tmp_path / "without", seconds=True) == before


@pytest.mark.usefixtures("brief")
def test_round_0_of_mode_gal_has_no_classifier_so_its_pictures_can_be_drawn_again(tmp_path):
    flags = ["--strategy", "GALOT:mode=gal", "--text-per", "image", "--n-rounds", "0"]
    quick(tmp_path, *flags)
    quick(tmp_path, *flags, "--save-full-size", "1")
    assert len(list((tmp_path / "images/full").rglob("*.png"))) == 10


@pytest.mark.usefixtures("brief")
def test_epsilon_zero_is_the_unoptimised_image_bit_for_bit(tmp_path):
    """What the run trained on, and what the model draws of the prompts at the same noise."""
    quick(tmp_path, "--strategy", "GALOT:epsilon=0", "--n-rounds", "0")
    (folder,) = tmp_path.glob("Digits/GALOT/*/seed0")
    run = RunFolder.open(folder)
    generator = Tiny(run.config, torch.device("cpu"))
    (text,) = templates(run.config.template)
    c0 = generator.encode([fill(text, name) for name in Digits.class_names])
    address = [(k, i) for k in range(10) for i in range(2)]
    seeds = [seeding.derive(0, "image", 0, k, i, 0) for k, i in address]
    images = generator.sample(c0[[k for k, _ in address]], seeds)
    by_hand = to_uint8(fit_to(images, (8, 8, 1)))
    shards = [np.load(f) for f in sorted((tmp_path / "images").rglob("*.npz"))]
    assert len(shards) == 10
    stored = {int(s["labels"][0]): s["images"] for s in shards}
    assert np.array_equal(np.concatenate([stored[k] for k in range(10)]), by_hand)


@pytest.mark.usefixtures("no_report")
def test_a_random_direction_moves_the_text_within_epsilon(tmp_path):
    quick(tmp_path, "--strategy", "GALOT:direction=random", "--n-rounds", "0")
    (folder,) = tmp_path.glob("Digits/GALOT/*/seed0")
    run = RunFolder.open(folder)
    state = run.load("text", 0)
    plain, moved = state["probe_images"]
    distance = (state["c"] - state["c0"]).flatten(1).norm(dim=1)
    assert (distance > 0).all() and (distance <= run.config.epsilon_at(0) * (1 + 1e-5)).all()
    assert plain.numel() and not torch.equal(plain, moved)


@pytest.mark.parametrize(("target", "base"), [
    ("entropy", "LossPrediction"), ("max-loss", "BALD"), ("min-loss", "LossPrediction"),
    ("least-confidence", "BALD"),
])  # fmt: skip
@pytest.mark.usefixtures("brief")
def test_any_text_target_with_any_base_sampler(tmp_path, target, base):
    quick(tmp_path, "--strategy", "GALOT", "--text-target", target, "--base-sampler", base)
    row = only_run(tmp_path, "GALOT")[1][1]
    assert row["labels"] == 15 and row["images"] == 30
    assert row["ascent_images"] == 2 * 1 * 10


@pytest.mark.parametrize(("direction", "per_image"), [("sign", 2), ("random", 0)])
@pytest.mark.usefixtures("no_report")
def test_a_text_for_each_image(tmp_path, direction, per_image):
    """Each of the 30 made for 20 and of the 40 shown is optimised; c stays c0, and the distance is
    the images'."""
    flags = ["--text-per", "image", "--direction", direction, "--oversample", "1.5"]
    quick(tmp_path, "--strategy", "GALOT", *flags, "--n-rounds", "0")
    (row,) = only_run(tmp_path, "GALOT")[1]
    assert (row["images"], row["images_made"]) == (20, 30)
    assert row["ascent_images"] == (30 + 40) * per_image and 0 < row["distance"] <= 5 * (1 + 1e-5)
    assert row["arrived_distance"] == pytest.approx(row["distance"], rel=1e-4)  # in float32
    (file,) = tmp_path.glob("*/GALOT/*/seed0/config.json")
    state = RunFolder.open(file.parent).load("text", 0)
    assert torch.equal(state["c"], state["c0"])
    assert not torch.equal(*state["probe_images"])
    assert state["ascent_distance"].shape == (2, 10)


@pytest.mark.usefixtures("brief")
def test_the_distance_that_arrives_in_sixteen_bits_is_recorded(tmp_path):
    quick(tmp_path, "--strategy", "GALOT", "--dtype", "bfloat16", "--n-rounds", "0",
          "--steps", "1", "--n-synthetic", "1")  # fmt: skip
    row = only_run(tmp_path, "GALOT")[1][0]
    assert row["arrived_distance"] == pytest.approx(row["distance"], rel=1e-3)


@pytest.mark.usefixtures("no_report")
def test_several_templates_are_mixed_evenly(tmp_path):
    """Three prompts a class: image i has prompt i mod 3, each with a c of its own."""
    quick(tmp_path, "--strategy", "GALOT", "--template", "label | photo | {label} in print",
          "--n-synthetic", "3", "--n-rounds", "0")  # fmt: skip
    (file,) = tmp_path.glob("*/GALOT/*/seed0/config.json")
    state = RunFolder.open(file.parent).load("text", 0)
    moved = (state["c"] - state["c0"]).flatten(1).norm(dim=1)
    torch.testing.assert_close(state["arrived_distance"], moved, rtol=1e-4, atol=0)
    assert len(moved) == 30 and (moved > 0).all()
    assert len({c.numpy().tobytes() for c in state["c0"]}) == 30
    assert only_run(tmp_path, "GALOT")[1][0]["ascent_images"] == 2 * 1 * 30


@pytest.mark.usefixtures("brief")
def test_keep_by_acquisition_keeps_the_highest_of_each_class(tmp_path, digits):
    """Against the stored images and a classifier fitted anew."""
    args = ["--strategy", "GALOT:epsilon=0", "--oversample", "3", "--n-rounds", "0"]
    quick(tmp_path, *args, "--keep", "acquisition", "--text-target", "entropy")
    (file,) = tmp_path.glob("*/GALOT/*/seed0/config.json")
    folder = RunFolder.open(file.parent)
    learner = Learner(folder.config, SmallCNN, digits.image_shape, 10, torch.device("cpu"))
    pool = Pool(digits)
    pool.initialize_labels(10, 0)
    learner.fit(pool.training_set(), 0)
    shards = [np.load(f)["images"] for f in sorted((tmp_path / "images").rglob("*.npz"))]
    made, y = np.concatenate(shards), np.repeat(np.arange(10), 6)
    score = entropy(learner.predict_logits(pool.get_new_data(made, y)).double()).numpy()
    kept = folder.load("kept", 0)["kept"].numpy()
    assert (np.bincount(y[kept]) == 2).all()
    for k in range(10):
        of_class = np.flatnonzero(y == k)
        best = of_class[np.argsort(-score[of_class])[:2]]
        assert set(kept[y[kept] == k]) == set(best)


def test_keep_needs_something_to_choose_from(tmp_path, capsys):
    assert main(["--strategy", "GALOT", "--keep", "acquisition", "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "--oversample 1: leaves keep=acquisition nothing to choose from" in said


def test_deepalplus_flags(tmp_path):
    args = ["-a", "RandomSampling", "-d", "Digits", "-s", "12", "-b", "8", "-q", "20", "-t", "2"]
    args += ["--seed", "5", "--epochs", "1", "--min-steps", "0", "--output", str(tmp_path)]
    assert main(args) == 0
    rows = rows_of(tmp_path)
    assert [k.split("/")[-1] for k in rows] == ["seed5", "seed6"]
    assert all([r["labels"] for r in run] == [12, 20, 28, 32] for run in rows.values())


def test_a_finished_run_is_not_run_again_and_more_rounds_go_on(tmp_path):
    quick(tmp_path, "--strategy", "RandomSampling")
    before = rows_of(tmp_path, seconds=True)
    quick(tmp_path, "--strategy", "RandomSampling")
    assert rows_of(tmp_path, seconds=True) == before
    quick(tmp_path, "--strategy", "RandomSampling", "--n-rounds", "3")
    ((key, rows),) = rows_of(tmp_path, seconds=True).items()
    assert rows[:2] == before[key] and len(rows) == 4


@pytest.mark.usefixtures("brief")
def test_another_epsilon_does_not_run_the_baseline_again(tmp_path):
    for epsilon in ("1", "2"):
        quick(tmp_path, "--strategy", "MarginSampling", "GALOT", "--epsilon", epsilon,
              "--n-rounds", "0")  # fmt: skip
    assert len(rows_of(tmp_path, "MarginSampling")) == 1 and len(rows_of(tmp_path, "GALOT")) == 2


def images_of(output):
    return b"".join(image_hashes(output).values())


@pytest.mark.parametrize(
    "flags",
    [
        ["--scheduler", "DDIMScheduler"], ["--guidance", "1"], ["--resolution", "64"],
        ["--steps", "2"], ["--template", "a bold printed digit {label}"], ["--norm", "linf"],
        ["--direction", "gradient"], ["--eta", "0.5"], ["--ascent-steps", "1"],
        ["--ascent-samples", "2"], ["--epsilon", "9"], ["--text-target", "entropy"],
        ["--text-per", "image"], ["--ascent-denoising", "2"], ["--template", "label | photo"],
    ],
    ids=lambda flags: flags[0],
)  # fmt: skip
@pytest.mark.usefixtures("brief")
def test_every_flag_of_the_generating_half_changes_the_images(tmp_path, plain_images, flags):
    quick(tmp_path, "--strategy", "GALOT", "--n-rounds", "0", *flags)
    assert images_of(tmp_path) != plain_images


@pytest.fixture(scope="module")
def plain_images(tmp_path_factory):
    output = tmp_path_factory.mktemp("plain")
    quick(output, "--strategy", "GALOT", "--n-rounds", "0")
    return images_of(output)


@pytest.mark.parametrize(("schedule", "shares"), [("linear", [0.5, 1]), ("constant", [1, 1])])
@pytest.mark.usefixtures("brief")
def test_rows_say_the_epsilon_that_their_images_had(tmp_path, schedule, shares):
    quick(tmp_path, "--strategy", "GALOT", "--epsilon", "4", "--epsilon-schedule", schedule)
    rows = only_run(tmp_path, "GALOT")[1]
    assert [r["epsilon"] for r in rows] == [4 * share for share in shares]
    assert all(0 < r["distance"] <= r["epsilon"] * (1 + 1e-5) for r in rows)


@pytest.mark.parametrize(
    "flags",
    [
        ["--classifier", "resnet18"], ["--optimizer", "sgd"], ["--lr", "0.1"], ["--flip", "1"],
        ["--weight-decay", "0.1"], ["--epochs", "4"],
        ["--min-steps", "9"], ["--batch-size", "4"], ["--shift", "2"], ["--rotate", "90"],
        ["--zoom", "0.5"], ["--n-init", "12"], ["--protocol", "paper", "--epochs", "1"],
    ],
    ids=lambda flags: flags[-2],
)  # fmt: skip
@pytest.mark.usefixtures("brief")
def test_every_flag_of_training_changes_the_classifier(tmp_path, plain_weights, flags):
    quick(tmp_path, "--strategy", "RandomSampling", "--n-rounds", "0", *flags)
    assert weights_of(tmp_path) != plain_weights


@pytest.mark.usefixtures("brief")
def test_momentum_changes_the_classifier_of_sgd(tmp_path):
    sgd = ["--strategy", "RandomSampling", "--n-rounds", "0", "--optimizer", "sgd"]
    for momentum in ("0.1", "0.9"):
        quick(tmp_path / momentum, *sgd, "--momentum", momentum)
    assert weights_of(tmp_path / "0.1") != weights_of(tmp_path / "0.9")


@pytest.fixture(scope="module")
def plain_weights(tmp_path_factory):
    output = tmp_path_factory.mktemp("plain")
    quick(output, "--strategy", "RandomSampling", "--n-rounds", "0")
    return weights_of(output)


def weights_of(output):
    (file,) = output.rglob("classifier.safetensors")
    return file.read_bytes()


@pytest.mark.usefixtures("no_report")
def test_deterministic_is_asked_of_torch(tmp_path):
    try:
        quick(tmp_path, "--strategy", "GALOT", "--deterministic", "--device", "cpu")
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("no_report")
def test_mnist_from_the_data_folder(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 60), ("test", 20)):
        arrays[f"x_{part}"] = rng.integers(0, 255, (n, 28, 28), np.uint8)
        arrays[f"y_{part}"] = np.arange(n) % 10
    np.savez(tmp_path / "MNIST.npz", **arrays)
    quick(tmp_path / "out", "--dataset", "MNIST", "--protocol", "demo", "--data-dir", tmp_path,
          "--strategy", "GALOT")  # fmt: skip
    _, rows = only_run(tmp_path / "out", "GALOT")
    assert [r["images"] for r in rows] == [20, 30]
    (folder,) = (tmp_path / "out").glob("MNIST/GALOT/*/seed0")
    config = RunFolder.open(folder).config
    assert (config.generator, config.template) == ("tiny", "a small handwritten digit {label}")


HELPED = """
from query_strategies.random_sampling import RandomSampling
from my_parts.share import SHARE

class Helped(RandomSampling):
    "by a module beside it"
"""


def test_each_version_of_a_plugin_leaves_its_files_with_its_runs(tmp_path):
    """Before, two versions in one table were told apart by a hash, and the older one was lost."""
    helper, plugin = tmp_path / "my_parts" / "share.py", tmp_path / "mine.py"
    helper.parent.mkdir()
    plugin.write_text(HELPED)
    args = ["--plugin", plugin, "--strategy", "Helped", "RandomSampling"]
    for text in ("SHARE = 0.5\n", "SHARE = 0.7\n"):
        helper.write_text(text)
        env = os.environ | {"PYTHONPATH": str(tmp_path)}
        run_benchmark(*QUICK, "--output", tmp_path / "r", *args, env=env)
    assert not list((tmp_path / "r").glob("*/RandomSampling/*/*/code"))
    kept = list((tmp_path / "r").glob("*/Helped/*/seed0/code/Helped"))
    assert {(code / "my_parts" / "share.py").read_text() for code in kept} == {
        "SHARE = 0.5\n",
        "SHARE = 0.7\n",
    }
    assert [(code / "mine.py").read_text() for code in kept] == [HELPED] * 2


@pytest.mark.usefixtures("brief")
def test_settings_with_commas_and_all(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("deepal_galot.probe.PROBE_SECONDS", 0.01)
    quick(tmp_path, "--strategy", "all", "GALOT:template=a {label}, bold,epsilon=0", "--dry-run")
    out = capsys.readouterr().out
    assert "template=a {label}, bold" in out and "epsilon=0" in out
    assert out.count("RandomSampling seed 0") == 1


def test_report_from_the_folders_alone(tmp_path, capsys):
    quick(tmp_path, "--strategy", "MarginSampling", "RandomSampling")
    first = capsys.readouterr().out
    assert main(["--report", "--output", str(tmp_path)]) == 0
    assert sorted(capsys.readouterr().out.split()) == sorted(first.split())


@pytest.mark.usefixtures("brief")
def test_predict_labels_a_folder(tmp_path, digits, capsys):
    run = tmp_path / "results"
    quick(run, "--strategy", "MarginSampling", "--n-init", "100", "--epochs", "30",
          "--min-steps", "150")  # fmt: skip
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(40):
        Image.fromarray(digits.x_test[i, ..., 0]).save(folder / f"{i:02d}.png")
    (seed,) = run.glob("Digits/MarginSampling/*/seed0")
    capsys.readouterr()
    assert main(["--predict", str(folder), "--from", str(seed)]) == 0
    table = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    names = [digits.class_names[y] for y in digits.y_test[:40]]
    right = sum(row["class"] == name for row, name in zip(table, names, strict=True))
    assert [row["file"] for row in table] == [f"{i:02d}.png" for i in range(40)]
    assert right >= 30 and all(0 <= float(row["probability"]) <= 1 for row in table)


@pytest.mark.usefixtures("brief")
def test_a_classifier_from_class_names_alone(tmp_path, digits, capsys):
    names = tmp_path / "even.txt"
    names.write_text("# even digits\nzero\ntwo\n\nfour\n")
    test = tmp_path / "test"
    for i, y in enumerate(digits.y_test):
        if digits.class_names[y] in ("zero", "two", "four"):
            folder = test / digits.class_names[y]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.x_test[i, ..., 0]).save(folder / f"{i}.png")
    common = ["--class-names", names, "--image-size", "16", "--mode", "gal", "--generator", "tiny",
              "--protocol", "demo", "--template", "a handwritten digit {label}", "--steps", "10",
              "--n-synthetic", "10", "--epochs", "10"]  # fmt: skip
    output = tmp_path / "out"
    quick(output, *common)
    out = capsys.readouterr().out
    assert "no accuracy" in out
    assert [r["accuracy"] for r in only_run(output, "GALOT")[1]] == [None, None]
    (card,) = output.glob("even/GALOT/*/seed0/classifier.json")
    assert json.loads(card.read_text())["class_names"] == ["zero", "two", "four"]
    blind = set(rows_of(output))
    quick(output, *common, "--test-data", test)  # another run, on images of which some are there
    (seen,) = set(rows_of(output)) - blind
    row = rows_of(output)[seen][-1]
    assert row["accuracy"] > 0.7 and row["labels"] == 0


RECIPE = ["--optimizer", "adamw", "--schedule", "onecycle", "--label-smoothing", "0.1",
          "--ema", "0.9", "--rand-augment", "2", "--rand-magnitude", "5"]  # fmt: skip


@pytest.mark.usefixtures("no_report")
def test_a_recipe_by_flags(tmp_path):
    """Each flag changes the fit; all together train, twice to the same bits."""
    accuracy, n_rounds = {}, ["--n-rounds", "0", "--strategy", "RandomSampling"]
    pairs = [[], *(RECIPE[i : i + 2] for i in range(0, len(RECIPE) - 2, 2)), RECIPE, RECIPE]
    states = []
    for i, flags in enumerate(pairs):
        output = tmp_path / str(i)
        quick(output, *n_rounds, *flags, "--epochs", "20")
        (file,) = output.glob("*/*/*/seed0/config.json")
        states.append(RunFolder.open(file.parent).classifier()[0]["head.weight"])
        accuracy[i] = only_run(output, "RandomSampling")[1][0]["accuracy"]
    for i, state in enumerate(states[:-1]):
        assert not any(torch.equal(state, other) for other in states[:i]), pairs[i]
    assert torch.equal(states[-1], states[-2])
    assert min(accuracy.values()) > 0.2, accuracy


@pytest.mark.parametrize("own", ["synthetic_weight=0.3", "synthetic_norm=separate"])
@pytest.mark.usefixtures("no_report")
def test_generated_images_may_weigh_less_or_stand_apart(tmp_path, own):
    """A fit of another outcome under another name; the classifier is an ordinary one."""
    quick(tmp_path, "--strategy", "GALOT:epsilon=0", f"GALOT:epsilon=0,{own}", "--n-rounds", "0")
    files = sorted(tmp_path.glob("*/GALOT/*/seed0/config.json"))
    plain, other = (RunFolder.open(f.parent).classifier()[0] for f in files)
    assert list(plain) == list(other) and not torch.equal(
        plain["head.weight"], other["head.weight"]
    )
    keys = {rows[0]["images_key"] for rows in rows_of(tmp_path, "GALOT").values()}
    assert len(keys) == 1  # trained on the same images


@pytest.mark.usefixtures("brief")
def test_a_campaign_says_what_lies_beside_its_runs(tmp_path, capsys):
    """Each report of an array job, a seed a job, showed its own seed alone and said no word."""
    quick(tmp_path, "--strategy", "RandomSampling")
    assert not capsys.readouterr().out.strip()
    quick(tmp_path, "--strategy", "RandomSampling", "--seeds", "1")
    assert capsys.readouterr().out.strip().startswith(f"1 other run of Digits in {tmp_path}; ")
