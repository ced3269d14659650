"""Files that were cut, flipped, swapped or taken from elsewhere: noticed, and nothing lost."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from harness import Fault, Scenario, counted

from deepal_galot import results
from deepal_galot.cli import main
from deepal_galot.datasets.digits import Digits
from deepal_galot.errors import UserError
from deepal_galot.results import RunFolder, find_runs
from generators.image_store import read_manifest
from helpers import QUICK, image_hashes, rows_of

pytestmark = pytest.mark.faults
DAMAGES = 2  # of each file and kind
OF_A_RUN = ("config.json", "seals.json", "state.npz", "rounds.jsonl", "classifier.safetensors",
            "text/round000.safetensors", "text/round001.safetensors")  # fmt: skip


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """GALOT killed in the last fit of two: all its files are there and are needed to go on."""
    scenario = Scenario(tmp_path_factory.mktemp("half"), [*QUICK, "--strategy", "GALOT"])
    output = scenario.scratch / "half"
    outcome = scenario.play(output, Fault("kill -9", "classifier", 2, "half written"))
    assert outcome.code == -9
    return scenario, output


@pytest.fixture(scope="module")
def other(half, tmp_path_factory):
    """The same run with another seed."""
    scenario, _ = half
    return Scenario(tmp_path_factory.mktemp("other"), [*scenario.args, "--seeds", "1"])


def cut(data, rng):
    return data[: rng.randrange(len(data))]


def flipped(data, rng):
    at, changed = rng.randrange(len(data)), bytearray(data)
    changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def tree(folder):
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for f in folder.rglob("*") if f.is_file() and f.name not in ("LOCK", "env.json")
    }  # fmt: skip


def ends_well(scenario, output, damaged):
    """The same rows and images; or one line that names the file or its run, and nothing lost."""
    before, row_file = tree(output), next(output.rglob("rounds.jsonl"))
    rows = row_file.read_bytes()
    outcome = scenario.play(output)
    assert "Traceback" not in outcome.said, outcome.said
    if outcome.code == 0:
        assert rows_of(output) == scenario.rows and image_hashes(output) == scenario.images
        return "mended"
    (line,) = outcome.errors
    assert outcome.code == 2 and str(damaged.parent) in line, line
    assert before.keys() <= tree(output).keys() and row_file.read_bytes().startswith(rows)
    assert damaged.read_bytes() == before[str(damaged.relative_to(output))]
    return "refused"


@pytest.mark.parametrize("name", OF_A_RUN)
def test_a_damaged_file_of_a_run(half, tmp_path, name):
    scenario, whole = half
    rng = random.Random(name)
    with counted() as faults:
        for number, damage in enumerate([cut, flipped] * DAMAGES):
            output = tmp_path / str(number)
            shutil.copytree(whole, output)
            (folder,) = output.glob("Digits/GALOT/*/seed0")
            file = folder / name
            file.write_bytes(damage(file.read_bytes(), rng))
            ends_well(scenario, output, file)
            faults.append((f"{damage.__name__} file", Path(name).name))


def shards_of_the_last_round(output):
    """Those that are still needed."""
    manifests = sorted((output / "images").rglob("*.json"))
    return [f.with_suffix(".npz") for f in manifests if read_manifest(f)["round"] == 1]


def test_a_damaged_shard_or_manifest(half, tmp_path):
    """Made again."""
    scenario, whole = half
    rng = random.Random("shards")
    with counted() as faults:
        for number, damage in enumerate([cut, flipped] * 2):
            output = tmp_path / str(number)
            shutil.copytree(whole, output)
            shards = shards_of_the_last_round(output)
            for file in (*rng.sample(shards, 3), *rng.sample(shards, 3)):
                file = file if rng.random() < 0.5 else file.with_suffix(".json")
                file.write_bytes(damage(file.read_bytes(), rng))
                faults.append((f"{damage.__name__} file", "shard"))
            scenario.ends_alike(output)


def test_swapped_shards(half, tmp_path):
    """A shard over another's, with and without its manifest."""
    scenario, whole = half
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    with counted() as faults:
        shards = shards_of_the_last_round(tmp_path)
        for a, b in zip(shards[::2], shards[1::2], strict=True):
            shutil.copy(a, b)
            if b is not shards[1]:
                shutil.copy(a.with_suffix(".json"), b.with_suffix(".json"))
            faults.append(("swapped file", "shard"))
        scenario.ends_alike(tmp_path)


@pytest.mark.parametrize("name", OF_A_RUN)
def test_a_file_of_another_seed(half, other, tmp_path, name):
    scenario, whole = half
    (theirs,) = other.whole.glob("Digits/GALOT/*/seed1")
    output = tmp_path / "swapped"
    shutil.copytree(whole, output)
    (ours,) = output.glob("Digits/GALOT/*/seed0")
    with counted() as faults:
        shutil.copy(theirs / name, ours / name)
        unread = name.startswith("classifier")  # its round is behind, and it is replaced
        ended = ends_well(scenario, output, ours / name)
        assert ended == ("mended" if unread else "refused")
        faults.append(("swapped file", Path(name).name))


@pytest.mark.parametrize("name", ["rounds.jsonl", "text/round001.safetensors"])
def test_files_of_other_rounds(half, tmp_path, name):
    """Two rows, or the texts of two rounds, exchanged."""
    scenario, whole = half
    output = tmp_path / "swapped"
    shutil.copytree(scenario.whole if name == "rounds.jsonl" else whole, output)
    (folder,) = output.glob("Digits/GALOT/*/seed0")
    if name == "rounds.jsonl":
        lines = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(reversed(lines)))
    else:
        shutil.copy(folder / "text/round000.safetensors", folder / name)
    with counted() as faults:
        assert ends_well(scenario, output, folder / name) == "refused"
        faults.append(("swapped file", f"{Path(name).name} of other rounds"))


# -- what has changed is another run ----------------------------------------------------------


def npz(file, digits, n):
    """The first n images of Digits as a person's own data."""
    np.savez(file, x_train=digits.x_train[:n], y_train=digits.y_train[:n],
             x_test=digits.x_test[:100], y_test=digits.y_test[:100])  # fmt: skip


def test_changed_data_is_another_run(tmp_path):
    digits = Digits().load(None)
    args = [*QUICK, "--strategy", "RandomSampling", "--dataset", str(tmp_path / "mine.npz"),
            "--classifier", "small_cnn", "--output", str(tmp_path / "out")]  # fmt: skip
    with counted() as faults:
        npz(tmp_path / "mine.npz", digits, 200)
        assert main(args) == 0
        first = rows_of(tmp_path / "out", seconds=True)
        npz(tmp_path / "mine.npz", digits, 199)
        assert main(args) == 0
        both = rows_of(tmp_path / "out", seconds=True)
        assert len(both) == 2 and first.items() <= both.items()
        faults.append(("changed content", "data"))


def test_changed_weights_are_another_run(tmp_path):
    """Of a generator whose folder stays what it is called."""
    from generators.tiny import Tiny

    model = tmp_path / "model"
    shutil.copytree(Tiny.source, model)
    args = [*QUICK, "--strategy", "GALOT", "--generator", str(model), "--protocol", "demo",
            "--output", str(tmp_path / "out")]  # fmt: skip
    with counted() as faults:
        assert main(args) == 0
        first = rows_of(tmp_path / "out", seconds=True)
        file = model / "unet" / "diffusion_pytorch_model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        assert main(args) == 0
        both = rows_of(tmp_path / "out", seconds=True)
        assert len(both) == 2 and first.items() <= both.items()
        faults.append(("changed content", "weights"))


def test_another_schema_is_another_run(tmp_path, monkeypatch):
    from deepal_galot import config

    args = [*QUICK, "--strategy", "RandomSampling", "--output", str(tmp_path)]
    with counted() as faults:
        assert main(args) == 0
        first = rows_of(tmp_path, seconds=True)
        for module in (config, results):
            monkeypatch.setattr(module, "SCHEMA", config.SCHEMA + 1)
        (folder,) = (tmp_path / key for key in first)
        with pytest.raises(UserError, match="written by schema .*, this version reads"):
            RunFolder.open(folder)
        with pytest.raises(UserError, match="written by schema .*, this version reads"):
            find_runs(tmp_path)
        assert main(args) == 0
        both = rows_of(tmp_path, seconds=True)
        assert len(both) == 2 and first.items() <= both.items()
        faults.append(("changed content", "schema"))
