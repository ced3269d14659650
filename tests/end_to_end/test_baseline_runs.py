"""What single baselines bring into a run: changed networks, marks, settings, and resuming."""

import pytest

from deepal_galot import registry
from deepal_galot.cli import build_parser, main
from deepal_galot.request import request_of
from deepal_galot.results import find_runs
from helpers import QUICK, only_run, rows_of


def play(output, *args):
    """(the runs' folders by label, what was printed is the caller's)."""
    assert main([*QUICK, "--output", str(output), *map(str, args)]) == 0
    return find_runs(output)


def error_of(capsys, *args):
    assert main([*QUICK, *map(str, args)]) == 2
    return capsys.readouterr().err


@pytest.mark.usefixtures("no_report")
def test_all_are_the_fourteen_of_table_1():
    request = request_of(build_parser().parse_args(["--strategy", "all"]))
    assert [registry.class_name(registry.strategies.get(n)) for n in request.strategies] == [
        "GAAL", "RandomSampling", "EntropySampling", "MarginSampling", "LeastConfidence",
        "BALDDropout", "BadgeSampling", "MeanSTD", "VarRatio", "KMeansSampling", "KCenterGreedy",
        "LossPredictionLoss", "GALOTBasic", "GALOT",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["LossPredictionLoss", "BALDDropout"])
@pytest.mark.usefixtures("no_report")
def test_stopped_and_continued_it_ends_with_the_same_rows(tmp_path, name):
    """The objective's modules come back with the classifier, for the query after a restart."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    play(whole, "--strategy", name, "--n-rounds", "2")
    play(parts, "--strategy", name, "--n-rounds", "1")
    play(parts, "--strategy", name, "--n-rounds", "2")
    assert rows_of(parts) == rows_of(whole)
    a, b = (find_runs(p)[0].picks() for p in (whole, parts))
    assert [x.tolist() for x in a] == [x.tolist() for x in b]


@pytest.mark.parametrize("name", ["LossPredictionLoss", "BALDDropout"])
@pytest.mark.usefixtures("no_report")
def test_its_classifier_predicts_elsewhere(tmp_path, digits, capsys, name):
    from PIL import Image

    (folder,) = play(tmp_path / "out", "--strategy", name)
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.fromarray(digits.x_test[i, ..., 0]).save(tmp_path / "photos" / f"{i}.png")
    capsys.readouterr()
    assert main(["--predict", str(tmp_path / "photos"), "--from", str(folder.path)]) == 0
    assert capsys.readouterr().out.count("\n") == 4


def test_tables_mark_changed_networks_and_tell_settings_apart(tmp_path, capsys):
    play(tmp_path, "--strategy", "BALD", "BALD:mc_passes=3,head_dropout=0.25", "RandomSampling")
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if "±" not in line]
    assert any(line.startswith("BALDDropout † ") for line in lines)
    assert any(line.startswith("BALDDropout:mc_passes=3,head_dropout=0.25 † ") for line in lines)
    assert "† BALDDropout: head dropout 0.5 in training and scoring" in printed
    assert "head dropout 0.25 in training and scoring" in printed
    assert not any(line.startswith("RandomSampling †") for line in lines)


@pytest.mark.parametrize(
    ("args", "label"),
    [
        (["--strategy", "GALOT:mode=al"], "MarginSampling"),
        (["--strategy", "GALOT:mode=al", "--base-sampler", "BALD"], "BALDDropout"),
        (["--strategy", "MarginSampling", "--mode", "full"], "FullySupervised"),
        (["--strategy", "GALOT:epsilon=0", "--base-sampler", "BALD"],
         "GALOT:base_sampler=BALDDropout,epsilon=0"),
        (["--strategy", "BALD", "--protocol", "deepalplus", "--classifier", "small_cnn"],
         "BALDDropout"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("no_report")
def test_labels_show_only_what_differs_from_the_default(tmp_path, args, label):
    (folder,) = play(tmp_path, *args)
    quick = ("ascent_steps", "ascent_samples", "n_synthetic", "steps")
    settings = ",".join(f"{k}={v}" for k, v in folder.settings.items() if k not in quick)
    assert ":".join(filter(None, (folder.config.strategy, settings))) == label


@pytest.mark.usefixtures("no_report")
def test_the_base_sampler_of_mode_gal_is_not_built(tmp_path):
    """It picks nothing there; a loss module of its own would be trained all the same."""
    play(tmp_path, "--strategy", "GALOT:mode=gal,epsilon=0", "--base-sampler", "LossPrediction")
    folder, rows = only_run(tmp_path)
    tensors, _ = folder.classifier()
    assert not any(name.startswith("objective.") for name in tensors)


@pytest.mark.parametrize(
    "setting", ["MarginSampling:mc_passes=50", "MarginSampling:epsilon=0", "GALOT:mc_passes=5"]
)
def test_a_setting_that_is_not_read_is_refused(capsys, setting):
    assert "does not read" in error_of(capsys, "--strategy", setting)


def test_a_setting_that_the_protocol_makes_void_is_refused(capsys):
    args = ["--strategy", "BALD:head_dropout=0.3", "--protocol", "deepalplus"]
    assert "does not read head_dropout" in error_of(capsys, *args)
