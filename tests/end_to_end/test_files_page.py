"""The page about files names all that a run leaves on disk, and nothing else."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepal_galot.datasets.user_data import dataset_at
from deepal_galot.images import read_image
from deepal_galot.results import find_runs
from helpers import QUICK, ROOT, run_benchmark

PAGE = (ROOT / ".readme" / "files.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
OWN = '''
import numpy as np
from deepal_galot.pool import SyntheticQuery
from query_strategies.galot import GALOT

class Own(GALOT):
    """buys labels for images of its own, measures and remembers"""

    def query(self, n):
        return SyntheticQuery(self.dataset.X_train[:n].copy())

    def measure(self):
        return {"something": 0.5}

    def state_dict(self):
        return {"seen": np.arange(3)}

    def load_state_dict(self, state): ...
'''


def tables(section, when=""):
    """The names in the first cells of each of a section's tables; of the rows that say so."""
    (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    found = re.findall(r"(?:^\|.*\n)+", text, re.M)
    return [set(re.findall(rf"^\| `([^`]+)` \|.*{when}", table, re.M)) for table in found]


def listed(section, when=""):
    """The same of a section with one table."""
    (names,) = tables(section, when)
    return names


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run with nearly all that a run can leave, and a plain one."""
    root = tmp_path_factory.mktemp("files")
    (root / "own.py").write_text(OWN)
    args = [*QUICK, "--plugin", str(root / "own.py"), "--output", str(root / "results")]
    own = "Own:align=pool,oversample=2,keep=pool"
    run_benchmark(*args, "--strategy", own, "RandomSampling", "--save-full-size", 1)
    runs = find_runs(root / "results")
    assert [run.config.strategy for run in runs] == ["Own", "RandomSampling"]
    return runs


def in_general(name):
    """A name with a letter for its round."""
    return re.sub(r"(?<=[xp]t/round)\d{3}|(?<=picks|abels|mages)\d+$", "<r>", name)


def test_the_files_of_a_run(runs):
    own, plain = (
        {p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if p.is_file()}
        for run in runs
    )
    assert "code/Own/own.py" in own
    names = {in_general(n) for n in own} - {"code/Own/own.py"} | {"code/<class>/<path>"}
    assert names == listed("A run's folder")
    assert plain == listed("A run's folder", " always ") | {"DONE", "state.npz"}


def test_the_columns_of_the_rows(runs):
    own, plain = ([set(row) for row in run.rows()] for run in runs)
    assert "own_something" in own[0]
    names = set().union(*own) - {"own_something"} | {"own_<name>"}
    assert names == listed("rounds.jsonl")
    for columns in plain:
        assert columns == listed("rounds.jsonl", " always ") | {"balanced_accuracy"}


def test_the_arrays_and_tensors(runs):
    own, _ = runs
    names = {in_general(n) for n in own._state()} - {"strategy.seen"} | {"strategy.<name>"}
    assert names == listed("state.npz")
    for section in ("text", "alignment", "kept"):
        tensors = own.load(section, 0)
        assert set(tensors) == listed(section)
        for name, tensor in tensors.items():
            (shape, dtype) = re.search(rf"^\| `{name}` \| \[(.*)\] (\w+) \|", PAGE, re.M).groups()
            assert tensor.dim() == len(re.findall(r"[^, ]+", shape)), name
            assert str(tensor.dtype) == f"torch.{dtype}", name


def test_the_keys_of_what_is_json(runs):
    run = runs[0]
    for name in ("config.json", "classifier.json"):
        assert set(json.loads((run.path / name).read_text())) == listed(name)
    (part,) = json.loads((run.path / "env.json").read_text())["parts"]
    assert set(part) == listed("env.json")
    assert run.classifier()[1] == json.loads((run.path / "classifier.json").read_text())


def test_the_images_of_a_round_are_found_by_their_key(runs, monkeypatch):
    run = runs[0]
    monkeypatch.chdir(run.output.parent)
    names = {"run": run, "np": np, "Path": Path}
    exec(SNIPPETS[0], names)
    row = run.rows()[-1]
    assert len(names["images"]) == row["images_made"] == len(names["labels"])
    kept = run.load("kept", row["round"])["kept"].numpy()
    assert names["images"][kept].shape == (row["images"], 8, 8, 1)
    assert np.bincount(names["labels"][kept], minlength=10).min() >= row["images"] // 10
    files, arrays, keys = tables("Generated images")
    assert set(names["shards"][0].files) == arrays
    manifest = next(Path("results/images", row["images_key"][:2]).glob("*.json"))
    assert set(json.loads(manifest.read_text())) == keys
    assert {_general(f.relative_to("results/images").as_posix()) for f in
            Path("results/images").rglob("*.*")} == files  # fmt: skip


def _general(file):
    """An image's or shard's file as the page writes it."""
    file = re.sub(r"^..?/\w{40}-\d{4}-\d{4}", "<key[:2]>/<key>-<class>-<shard>", file)
    picture = "full/<data set>/<strategy>/<fingerprint>/seed<k>/round<r>/<class>_<name>_<index>.png"
    return re.sub(r"^full/Digits/\w+/\w{12}/seed0/round\d{3}/\d{3}_\w+_\d{4}\.png", picture, file)


def test_pool_indices_of_a_folder_of_images(tmp_path, monkeypatch):
    """Hidden files, other files, an animation and 16 bits among them."""
    rng = np.random.default_rng(0)
    for name in ("b/2.png", "b/10.png", "b/A.PNG", "a/x.png", "Z/1.png", "a/.hidden.png"):
        for part in ("train", "test"):
            file = tmp_path / "photos" / part / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(file)
    (tmp_path / "photos" / "train" / "a" / "notes.txt").write_text("")
    frames = [Image.new("L", (8, 8), level) for level in (40, 200)]
    animation = io.BytesIO()
    frames[0].save(animation, "gif", save_all=True, append_images=frames[1:])
    (tmp_path / "photos" / "train" / "a" / "y.gif").write_bytes(animation.getvalue())
    deep = np.full((8, 8), 65_535, np.uint16)
    deep[0, 0] = 257 * 7 + 256
    Image.fromarray(deep).save(tmp_path / "photos" / "train" / "a" / "z.png")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(SNIPPETS[1], names)
    found = [f.relative_to("photos/train").as_posix() for f in names["files"]]
    assert found == ["Z/1.png", "a/x.png", "a/y.gif", "a/z.png", "b/10.png", "b/2.png", "b/A.PNG"]
    x = dataset_at("photos")().load(None).x_train
    for pixels, file in zip(x, names["files"], strict=True):
        assert (pixels == read_image(file)).all()
    assert (x[2] == x[2, 0, 0]).all() and abs(int(x[2, 0, 0, 0]) - 40) < 3
    assert x[3, 0, 0, 0] == 7 and x[3, 1, 1, 0] == 255
