"""GALOTMatched as a command: what it keeps, counts, says and leaves."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from deepal_galot.cli import main
from deepal_galot.report.comparison import compare
from deepal_galot.report.gallery import gallery_of
from deepal_galot.results import RunFolder, find_runs
from deepal_galot.synthetic_from import source_hash
from helpers import QUICK, only_run, rows_of

pytestmark = pytest.mark.xdist_group("matched")  # its fixture is worth sharing


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Plain, matched, and matched without one of its two halves."""
    output = tmp_path_factory.mktemp("results")
    arms = ["GALOT:epsilon=0", "GALOTMatched", "GALOTMatched:align=none",
            "GALOTMatched:keep=random,oversample=1"]  # fmt: skip
    assert main([*QUICK, "--strategy", *arms, "--output", str(output)]) == 0
    return output


LABELS = ("GALOT:epsilon=0", "GALOTMatched", "GALOTMatched:align=none",
          "GALOTMatched:oversample=1,keep=random")  # fmt: skip


def by_label(output):
    """In the order of LABELS; curves come in that of their folders."""
    (comparison,) = compare(find_runs(output))
    curves = {c.label: c for c in comparison.curves}
    return {label: curves[label] for label in LABELS}


def test_each_half_of_the_recipe_is_a_run_of_its_own_under_its_own_name(results):
    plain, matched, unaligned, random = (c.rows[0] for c in by_label(results).values())
    settings = [c.folders[0].settings for c in by_label(results).values()]
    assert "align" not in settings[1] and settings[2]["align"] == "none"
    assert settings[3]["keep"] == "random" and settings[3]["oversample"] == "1"
    assert {len(r["images_key"]) for r in matched} == {40}
    for rows in (plain, matched, unaligned, random):
        assert [r["images"] for r in rows] == [20, 30]
    aligned_by = 300
    assert [r["images_made"] for r in plain] == [20, 10]
    assert [r["images_made"] for r in unaligned] == [80, 40]
    assert [r["images_made"] for r in matched] == [80 + aligned_by, 40]
    assert [r["images_made"] for r in random] == [20 + aligned_by, 10]


def test_rows_say_how_near_the_images_are_and_what_the_choice_cost(results):
    plain, matched, unaligned, _ = (c.rows[0] for c in by_label(results).values())
    for row in matched:
        assert row["mismatch"] < row["mismatch_plain"]
        assert 0 < row["pool_distance"] < 1
    assert "mismatch" not in plain[0] and 0 < plain[0]["pool_distance"] < 1
    assert plain[0]["extra_train_seconds"] == 0 < unaligned[0]["extra_train_seconds"]
    table = (results / "report" / "Digits_pool.md").read_text()
    assert table.count("| GALOT") == 4 and "as made and aligned" in table


def test_what_was_trained_on_is_among_what_was_made(results):
    """And is what the report shows."""
    curves = by_label(results)
    galleries = [gallery_of(curve) for curve in curves.values()]
    (bank_x, bank_y), (x, y) = (g.training_images() for g in (galleries[0], galleries[2]))
    assert len(x) == 30 and np.bincount(y).tolist() == [3] * 10
    shards = [np.load(f) for f in (results / "images").rglob("*.npz")]
    stored = {image.tobytes() for shard in shards for image in shard["images"]}
    assert {image.tobytes() for image in x} | {image.tobytes() for image in bank_x} <= stored
    aligned, _ = galleries[1].training_images()
    plain = {image.tobytes() for image in bank_x}
    assert {image.tobytes() for image in aligned} <= stored - plain


def test_a_finished_run_gives_its_kept_images_to_another_classifier(results, tmp_path):
    source = by_label(results)["GALOTMatched"].folders[0].path
    flags = ["--synthetic-from", str(source), "--strategy", "GALOTMatched", "--epochs", "1",
             "--min-steps", "0"]  # fmt: skip
    assert main([*flags, "--seeds", "0", "--classifier", "vgg16", "--output", str(tmp_path)]) == 0
    _, rows = only_run(tmp_path)
    assert [r["images"] for r in rows] == [20, 30] and [r["images_made"] for r in rows] == [0, 0]


def test_the_choice_is_part_of_what_a_borrower_reads(results, tmp_path):
    """Before: images that were chosen or aligned otherwise had the same hash."""
    source = by_label(results)["GALOTMatched"].folders[0]
    shutil.copytree(results, tmp_path / "again")
    other = RunFolder.open(tmp_path / "again" / source.path.relative_to(results.resolve()))
    hashes = {source_hash(source, 2), source_hash(other, 2)}
    assert len(hashes) == 1
    for name, key in (("alignment", "matrix"), ("kept", "kept")):
        tensors = other.load(name, 0)
        other.save(name, 0, tensors | {key: tensors[key] + 1})
        hashes.add(source_hash(other, 2))
    assert len(hashes) == 3


def test_borrowed_images_are_not_said_to_be_plain_in_mode_gal(results, tmp_path):
    source = by_label(results)["GALOTMatched"].folders[0].path
    flags = ["--synthetic-from", str(source), "--strategy", "GALOTMatched", "--mode", "gal"]
    flags += ["--epochs", "1", "--min-steps", "0", "--seeds", "0", "--output", str(tmp_path)]
    assert main(flags) == 0
    assert "no unlabeled pool" not in only_run(tmp_path)[0].remark


def test_more_rounds_go_on_with_the_same_choice(results, tmp_path):
    shutil.copytree(results, tmp_path / "more")
    before = rows_of(results, "GALOTMatched")
    flags = [*QUICK, "--strategy", "GALOTMatched", "--n-rounds", "2"]
    assert main([*flags, "--output", str(tmp_path / "more")]) == 0
    (grown,) = [r for r in rows_of(tmp_path / "more", "GALOTMatched").values() if len(r) == 3]
    assert grown[:2] in before.values() and grown[2]["images_made"] == 40


def test_mode_gal_has_no_pool_and_says_so(tmp_path, capsys):
    flags = ["--strategy", "GALOTMatched", "--mode", "gal", "--output", str(tmp_path)]
    assert main([*QUICK, *flags]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "no unlabeled pool in mode gal, so images as they are made" in out
    folder, rows = only_run(tmp_path)
    assert [r["images_made"] for r in rows] == [20, 10] and "pool_distance" not in rows[0]
    assert not (folder.path / "alignment").exists()


def test_the_ascent_climbs_on_aligned_images(tmp_path):
    flags = ["--strategy", "GALOT", "--align", "pool", "--output", str(tmp_path)]
    assert main([*QUICK, *flags]) == 0
    (folder,) = tmp_path.glob("Digits/GALOT/*/seed0")
    run = RunFolder.open(folder)
    matrix = run.load("alignment", 0)["matrix"]
    assert not torch.equal(matrix, torch.eye(2, 3).double())
    row = json.loads(Path(folder, "rounds.jsonl").read_text().splitlines()[0])
    assert row["epsilon"] > 0 and row["mismatch"] < row["mismatch_plain"]
