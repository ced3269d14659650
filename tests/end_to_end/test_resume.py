"""kill -9 at any moment, same command, same rows and images as an uninterrupted run."""

import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from deepal_galot.cli import main
from generators.image_store import read_manifest
from helpers import QUICK, ROOT, image_hashes, rows_of, run_benchmark

pytestmark = pytest.mark.xdist_group("resume")  # its fixture is worth sharing

ARGS = [*QUICK, "--strategy", "GALOT", "--n-rounds", "2", "--ascent-steps", "3"]
VARIANTS = {
    "replace": [],
    "accumulate": ["--synthetic", "accumulate"],
    "gal": ["--mode", "gal"],
    "image": ["--text-per", "image", "--oversample", "2", "--keep", "acquisition",
              "--synthetic", "accumulate"],
    "matched": ["--strategy", "GALOTMatched"],
}  # fmt: skip


def started(output, extra):
    command = [sys.executable, str(ROOT / "run_benchmark.py"), *ARGS, *extra, "--output", output]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def files_below(output):
    return sum(path.is_file() for path in output.rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "kills"),
    [("gal", 2), ("replace", 10), ("accumulate", 3), ("image", 5), ("matched", 5)],
)
def test_killed_at_random_moments(tmp_path, variant, kills):
    """During generation mostly, and often enough in the ascent: it writes no files, so a kill a
    little after the file before it falls there."""
    extra = VARIANTS[variant]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_benchmark(*ARGS, *extra, "--output", whole)
    rng, alive, phases = random.Random(variant), [], set()
    # Random moments of the run's progress, told by how many files it has written.
    for moment in sorted(rng.sample(range(2, files_below(whole)), kills)):
        process = started(killed, extra)
        while files_below(killed) < moment and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05) if rng.random() < 0.7 else rng.uniform(0, 1))
        alive.append(process.poll() is None)
        process.send_signal(signal.SIGKILL)
        process.wait()
        rows = sum(f.read_bytes().count(b"\n") for f in killed.rglob("rounds.jsonl"))
        texts = len(list(killed.rglob("text/round*.safetensors")))
        doing = "its images or its fit" if texts > rows else "its picks or its ascent"
        state = f"in {doing}" if alive[-1] else "after its end"
        phases.add(state)
        print(f"{variant}: killed with {files_below(killed)} files, {rows} rows written, {state}")
    assert sum(alive) > kills / 2, "the run ended before it could be killed"
    if variant == "replace":  # ten kills, in images and ascent
        assert {"in its images or its fit", "in its picks or its ascent"} <= phases
    run_benchmark(*ARGS, *extra, "--output", killed)
    assert rows_of(killed) == rows_of(whole)
    assert image_hashes(killed) == image_hashes(whole) != {}
    assert all(read_manifest(f) for f in (killed / "images").rglob("*.json"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    assert main([*ARGS, "--output", str(output)]) == 0
    return output


@pytest.mark.parametrize("missing", ["DONE", "last row", "classifier", "text", "images"])
@pytest.mark.usefixtures("no_report")
def test_every_partial_state_of_the_last_round_is_completed(whole, tmp_path, missing, capsys):
    """What a kill can leave between two steps of the last round, made by hand."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    again = [*ARGS, "--output", str(tmp_path)]
    expected, pixels = rows_of(tmp_path), image_hashes(tmp_path)
    (folder,) = tmp_path.glob("Digits/GALOT/*/seed0")
    (folder / "DONE").unlink()
    if missing != "DONE":
        file = folder / "rounds.jsonl"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    if missing == "text":  # cannot come from a kill: the classifier is that of a later round
        (folder / "text" / "round002.safetensors").unlink()
        assert main(again) == 2 and "holds the classifier of round 2" in capsys.readouterr().err
        return
    if missing == "classifier":
        (folder / "classifier.safetensors").unlink()
    if missing == "images":
        for shard in sorted((tmp_path / "images").rglob("*.npz"))[::2]:
            shard.unlink()  # five of the ten of each of the three rounds
    assert main(again) == 0
    assert rows_of(tmp_path) == expected
    now = image_hashes(tmp_path)
    assert all(pixels[name] == data for name, data in now.items())
    assert len(now) == (20 if missing == "images" else 30)  # only the last round's are needed
    assert (folder / "DONE").exists()
