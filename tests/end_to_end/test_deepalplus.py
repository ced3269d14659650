"""DeepALPlus's own demo with GALOT in it, on a stand-in host and, if there is one, the real one."""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from deepalplus_tools import HOSTS, make_checkout, opened, quick

from deepal_galot.deepalplus import trial
from deepal_galot.deepalplus.command import main, run
from deepal_galot.errors import UserError
from deepal_galot.plugins import NEEDS_MORE
from generators.tiny import Tiny
from helpers import ROOT

OURS = ["--steps", "2", "--epsilon", "3", "--ascent-steps", "1", "--ascent-samples", "1"]
THEIRS = ["-d", "MNIST", "-s", "40", "-b", "20", "-q", "40", "-t", "1"]


@pytest.fixture(scope="module", params=HOSTS)
def checkout(request, tmp_path_factory) -> Path:
    return make_checkout(request.param, tmp_path_factory.mktemp("checkout") / request.param)


class Fits:
    """What the demo's network was given to train on, and the random numbers it began with."""

    def __init__(self):
        self.data, self.states, self.pools = [], [], []

    def prepare(self, host):
        quick(host)
        train, get_dataset = sys.modules["nets"].Net.train, host.utils.get_dataset

        def recorded_train(net, data):
            self.data.append(data)
            self.states.append(torch.get_rng_state())
            train(net, data)

        def recorded_dataset(name, task):
            self.pools.append(get_dataset(name, task))
            return self.pools[-1]

        sys.modules["nets"].Net.train = recorded_train
        host.utils.get_dataset = recorded_dataset


def play(checkout, tmp_path, *args, ours=(), prepare=quick):
    ours = [*OURS, *ours, "--output", str(tmp_path)] if "GALOT" in args else list(ours)
    run(checkout, [*args[:2], *THEIRS, *args[2:]], ours, prepare)


def rows_in(output: Path) -> dict[str, list[dict]]:
    files = sorted(output.glob("deepalplus/*/*/seed*/rows.jsonl"))
    return {f.parent.name: [json.loads(line) for line in f.read_text().splitlines()] for f in files}


def python_files(root: Path) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in root.rglob("*.py")}


def test_their_demo_trains_on_generated_images(checkout, tmp_path, capsys):
    """Pool indices, labels and budget are as without them; all is as it was afterwards."""
    here, stdout, modules, files = Path.cwd(), sys.stdout, set(sys.modules), python_files(checkout)
    fits = Fits()
    play(checkout, tmp_path, "-a", "GALOT", prepare=fits.prepare)
    (pool,) = fits.pools
    assert pool.labeled_idxs.sum() == 80 and pool.n_pool == len(pool.X_train) == 300
    warm_up, *rounds = fits.data
    assert len(warm_up) == 40  # round 0's classifier, to optimise against
    for data, budget in zip(rounds, (40, 60, 80), strict=True):
        assert len(data) == 2 * budget and data.X.dtype == torch.uint8
        real = torch.cat([pool.X_train.flatten(1), pool.Y_train[:, None]], 1)
        given = torch.cat([data.X.flatten(1), data.Y[:, None]], 1)[:budget]
        assert {tuple(r.tolist()) for r in given} <= {tuple(r.tolist()) for r in real}
        counts = torch.bincount(data.Y[budget:], minlength=10)
        assert counts.max() - counts.min() <= 1 and counts.sum() == budget
        assert data.X[budget:].float().std((1, 2)).min() > 5
    (rows,) = rows_in(tmp_path).values()
    assert [(r["round"], r["labels"], r["images"]) for r in rows] == [
        (0, 40, 40), (1, 60, 60), (2, 80, 80)]  # fmt: skip
    assert [r["epsilon"] for r in rows] == pytest.approx([1, 2, 3])
    assert all(0 < r["distance"] <= r["epsilon"] * (1 + 1e-5) for r in rows)
    assert all(r["ascent_failed"] == 0 < r["ascent_images"] for r in rows)
    assert all(r["seconds_stored"] == 0 < r["generate_seconds"] for r in rows)
    said = capsys.readouterr().out
    for row in rows:
        assert f"testing accuracy {row['accuracy']}" in said
    assert (Path.cwd(), sys.stdout) == (here, stdout)
    assert not {"utils", "nets", "arguments", "faiss"} & (set(sys.modules) - modules)
    assert python_files(checkout) == files  # nothing of theirs is rewritten
    assert list((checkout / "results").glob("MNIST_GALOT*"))


def test_another_strategy_is_theirs_unchanged(checkout, tmp_path):
    """Through the plug-in and by their demo.py alone: the same picks and accuracies."""
    argv = ["-a", "MarginSampling", *THEIRS, "-d", "FashionMNIST"]
    through, alone = Fits(), Fits()
    run(checkout, argv, (), through.prepare)
    (result,) = (checkout / "results").glob("FashionMNIST_MarginSampling*_res.txt")
    ours = result.read_text()
    with opened(checkout) as host:
        alone.prepare(host)
        sys.argv = ["demo.py", *argv]
        runpy.run_path("demo.py", run_name="demo")
    assert result.read_text() == ours and "Size of training set is 80" in ours
    assert (through.pools[0].labeled_idxs == alone.pools[0].labeled_idxs).all()
    assert len(through.data) == 3


def test_generating_disturbs_no_random_number_of_theirs(checkout, tmp_path):
    """The same initial pool, picks of a random sampler, and weights before each fit as without
    GALOT. (Another sampler's later picks differ, as its network was trained on more.)"""
    plain, galot = Fits(), Fits()
    play(checkout, tmp_path, "-a", "RandomSampling", prepare=plain.prepare)
    play(checkout, tmp_path, "-a", "GALOT", ours=["--base-sampler", "RandomSampling"],
         prepare=galot.prepare)  # fmt: skip
    assert (plain.pools[0].labeled_idxs == galot.pools[0].labeled_idxs).all()
    warm_up, *states = galot.states
    for a, b in zip(plain.states, states, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(warm_up, states[0])


def test_the_same_command_again_makes_nothing_anew(checkout, tmp_path, monkeypatch):
    play(checkout, tmp_path, "-a", "GALOT")
    before = rows_in(tmp_path)
    monkeypatch.setattr(Tiny, "sample", lambda *a, **k: pytest.fail("an image was made again"))
    play(checkout, tmp_path, "-a", "GALOT")
    for name, rows in rows_in(tmp_path).items():
        for old, new in zip(before[name], rows, strict=True):
            assert {k: v for k, v in old.items() if "seconds" not in k} == {
                k: v for k, v in new.items() if "seconds" not in k}  # fmt: skip


def test_texts_of_another_schema_are_not_read(checkout, tmp_path, monkeypatch):
    """Before, what an older version had left there was a traceback."""
    args = ("-a", "GALOT", "-q", "20")
    play(checkout, tmp_path, *args, ours=["--epsilon", "0"])
    monkeypatch.setattr(trial, "SCHEMA", trial.SCHEMA + 1)
    play(checkout, tmp_path, *args, ours=["--epsilon", "0"])
    assert len(list(tmp_path.rglob("seed*/rows.jsonl"))) == 2


def test_each_trial_has_images_of_its_own(checkout, tmp_path, capsys):
    play(checkout, tmp_path, "-a", "GALOT", "-t", "2", "-q", "20", ours=["--epsilon", "0"])
    rows = rows_in(tmp_path)
    assert sorted(rows) == ["seed4666", "seed4667"]
    keys = {row["images_key"] for of_seed in rows.values() for row in of_seed}
    assert len(keys) == 4
    assert "trial 2, MarginSampling picks, images of seed 4667" in capsys.readouterr().out


def test_images_of_all_rounds_and_several_prompts(checkout, tmp_path):
    fits = Fits()
    ours = ["--epsilon", "0", "--synthetic", "accumulate", "--template", "label | photo",
            "--base-sampler", "MarginSamplingDropout", "--n-synthetic", "0.5"]  # fmt: skip
    play(checkout, tmp_path, "-a", "GALOT", ours=ours, prepare=fits.prepare)
    assert [len(data) for data in fits.data] == [40 + 20, 60 + 20 + 30, 80 + 20 + 30 + 40]


DRIVER = """
import sys
from deepal_galot.deepalplus import register
register("--epsilon", "0", "--steps", "2", "--output", sys.argv[1])
import numpy as np, torch
from types import SimpleNamespace
from parameters import args_pool
from utils import get_dataset, get_net, get_strategy
task = args_pool["MNIST"]
task["n_epoch"] = 1
for loader in ("loader_tr_args", "loader_te_args"):
    task[loader]["num_workers"] = 0
args = SimpleNamespace(dataset_name="MNIST", initseed=20, batch=10, quota=10, seed=0)
dataset, net = get_dataset("MNIST", task), get_net("MNIST", task, torch.device("cpu"))
strategy = get_strategy("GALOT", dataset, net, args, task)
dataset.initialize_labels(20)
strategy.train()
strategy.update(strategy.query(10))
strategy.train()
print("labels", strategy.get_labeled_count())
try:
    strategy.train()
except Exception as error:
    print(error)
print("theirs", sys.modules["query_strategies"].__file__)
"""


def test_driven_from_python(checkout, tmp_path):
    (tmp_path / "drive.py").write_text(DRIVER)
    environment = os.environ | {"PYTHONPATH": f"{checkout}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "drive.py"), str(tmp_path / "out")], cwd=checkout,
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "labels 30" in done.stdout and "this is another: raise -q" in done.stdout
    assert f"theirs {checkout}" in done.stdout
    assert [r["images"] for r in rows_in(tmp_path / "out")["seed0"]] == [20, 30]


def test_the_command_in_their_folder(checkout, tmp_path):
    """In a fresh process, with their query_strategies first on the path."""
    command = [sys.executable, "-m", "deepal_galot.deepalplus"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    bad = subprocess.run([*command, "-a", "GALOT", "-d", "waterbirds"], cwd=checkout,
                         env=environment, capture_output=True, text=True)  # fmt: skip
    assert bad.returncode == 2 and "Traceback" not in bad.stderr
    assert "the names of its 2 classes are not known here" in bad.stderr.splitlines()[-1]
    shown = subprocess.run([*command, "--help"], env=environment, capture_output=True, text=True)
    assert shown.returncode == 0 and "--base-sampler" in shown.stdout


def refused(capsys, checkout, *argv) -> str:
    """The one line that the command ends with."""
    assert main(["--root", str(checkout), *argv]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["-a", "MarginSamplin"], "unknown strategy -a MarginSamplin: did you mean"),
        (["-a", "galot"], "unknown strategy -a galot: did you mean GALOT?"),
        (["-a", "GALOT", "-d", "CIFAR11"], "unknown data set -d CIFAR11: did you mean CIFAR10"),
        (["-a", "GALOT", "-d", "openml"], "-d openml: its data are tables"),
        (["-a", "GALOT", "-d", "TinyImageNet"], "wnids.txt is not there"),
        (["-a", "GALOT", "-d", "CIFAR10", "--", "--generator", "tiny"], "does not know"),
        (["-a", "GALOT", "-d", "MNIST", "--", "--generator", "folder:"], "'folder:': is empty"),
        (["-a", "GALOT", "-d", "MNIST", "-b", "0"], "-b 0: must be at least 1"),
        (["-a", "GALOT", "-d", "MNIST", "-b", "20", "-q", "10"], "-q 10: must be at least 20"),
        (["-a", "GALOT", "-d", "MNIST", "-s", "290", "-q", "40", "-b", "20"], "lower -s or -q"),
        (["-a", "GALOT", "--epsilon", "1"], "--epsilon is GALOT's, not DeepALPlus's"),
        (["-a", "MarginSampling", "-d", "MNIST", "--", "--epsilon", "1"], "MarginSampling reads"),
        (["-a", "GALOT", "-d", "MNIST", "--", "--epsilon", "-1"], "--epsilon -1.0: must be"),
        (["-a", "GALOT", "-d", "MNIST", "--", "--epsilon", "x"], "invalid float value"),
        (["-a", "GALOT", "-d", "MNIST", "--", "--epochs", "3"], "unrecognized arguments"),
        (["-a", "GALOT", "-d", "MNIST", "--", "--template", "photo of"], "must contain {label}"),
        (["-a", "GALOT", "-d", "MNIST", "--", "--base-sampler", "MargnSampling"], "did you mean M"),
        (["-a", "GALOT", "-d", "MNIST", "--", "--oversample", "2", "--keep", "pool"],
         "--keep pool: asks a classifier that DeepALPlus's loop has no place for"),
        (["-a", "GALOT", "-d", "MNIST", "--", "--class-names", "no"], "cannot be read as text"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(checkout, capsys, argv, says):
    assert says in refused(capsys, checkout, *argv)


@pytest.mark.parametrize("name", NEEDS_MORE)
def test_samplers_with_networks_of_their_own_are_refused(checkout, capsys, name):
    line = refused(capsys, checkout, "-a", "GALOT", "-d", "MNIST", "--", "--base-sampler", name)
    assert NEEDS_MORE[name] in line


def test_class_names_from_a_file(checkout, capsys, tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("landbird\n")
    argv = ["-a", "GALOT", "-d", "waterbirds", "--", "--class-names", str(file)]
    assert "1 names for 2 classes" in refused(capsys, checkout, *argv)
    file.write_text("\n".join(f"digit {k}" for k in range(10)))
    argv = ["-a", "GALOT", *THEIRS, "--", "--class-names", str(file)]
    assert "does not know the classes" in refused(capsys, checkout, *argv)  # the tiny generator


def test_a_wrong_folder_and_a_changed_deepalplus(checkout, capsys, tmp_path):
    assert "no DeepALPlus checkout" in refused(capsys, tmp_path, "-a", "GALOT")
    assert main(["-a", "GALOT", "--root"]) == 2
    data, utils = checkout / "data.py", checkout / "utils.py"
    texts = {file: file.read_bytes() for file in (data, utils)}
    try:
        data.write_bytes(texts[data].replace(b"def get_new_data", b"def get_fresh_data"))
        assert "data: Data.get_new_data(X, Y)" in refused(capsys, checkout, *THEIRS)
        data.write_bytes(texts[data])
        utils.write_bytes(texts[utils].replace(b"args_input, args_task)", b"args_task)"))
        line = refused(capsys, checkout, *THEIRS)
        assert "utils: get_strategy(name, dataset, net, args_input, args_task)" in line
        utils.write_text("import nowhere_to_be_found")
        line = refused(capsys, checkout, *THEIRS)
        assert "utils.py fails to import: ModuleNotFoundError" in line
    finally:
        for file, text in texts.items():
            file.write_bytes(text)


def test_what_only_one_data_set_or_sampler_needs(checkout, capsys, tmp_path, monkeypatch):
    """Neither stands in the way of the others."""
    monkeypatch.setitem(sys.modules, "cv2", None)
    line = refused(capsys, checkout, "-a", "MarginSampling", "-d", "TinyImageNet")
    assert "pip install opencv-python-headless" in line
    if importlib.util.find_spec("faiss"):
        return
    with pytest.raises(UserError, match="KMeansSamplingGPU needs faiss"):
        play(checkout, tmp_path, "-a", "GALOT",
             ours=["--epsilon", "0", "--base-sampler", "KMeansSamplingGPU"])  # fmt: skip
    assert len(rows_in(tmp_path)["seed4666"]) == 1  # until it was asked


def test_picks_equal_ours(checkout):
    """Their samplers and ours on the same numbers, without ties and zero probabilities."""
    from helpers import FixedLearner, indexed_pool, make_strategy

    rng = np.random.default_rng(0)
    n, labeled = 200, np.arange(0, 200, 23)
    logits, points = rng.normal(size=(n, 3)), rng.normal(size=(n, 5))
    learner = FixedLearner(logits, points)
    pool = indexed_pool(n, labeled)
    names = ("EntropySampling", "MarginSampling", "LeastConfidence", "KCenterGreedy")
    ours = {name: set(make_strategy(name, pool, learner).query(15).tolist()) for name in names}
    with opened(checkout) as host:
        for name in names:
            theirs = host.samplers[name](pool, learner, None, None).query(15)
            assert set(np.asarray(theirs).tolist()) == ours[name], name
    assert len({frozenset(p) for p in ours.values()}) > 1
