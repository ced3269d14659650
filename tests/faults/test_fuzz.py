"""Thousands of wrong command lines and wrong files: never a traceback, never half a run."""

import functools
import json
import shutil
import socket
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from harness import ARGS, Scenario, counted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import deepal_galot.campaign
import deepal_galot.cli
import deepal_galot.engines
import deepal_galot.experiment_campaigns
import deepal_galot.report.write
from deepal_galot import probe, registry
from deepal_galot.cli import main
from deepal_galot.datasets.digits import Digits
from deepal_galot.datasets.user_data import dataset_at
from deepal_galot.errors import UserError
from deepal_galot.protocols import PROTOCOLS
from deepal_galot.report.annotation import read_marks
from deepal_galot.report.exhibit import find_exhibits
from deepal_galot.results import RunFolder
from generators.base import ImageRequest
from generators.image_store import ImageStore
from helpers import FakeGenerator

OFTEN = pytest.mark.faults  # the long form of each test; the short one runs with all others


def sizes(short, long):
    return pytest.mark.parametrize("n", [short, pytest.param(long, marks=OFTEN)])


def examples(n):
    return settings(
        max_examples=n, deadline=None, database=None, derandomize=n < 1000,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


# -- command lines ---------------------------------------------------------------------------------

NUMBERS = ["0", "-1", "1", "2", "0.5", "nan", "inf", "-inf", "1e400", "1e308", "-0.0", "1e-300",
           "9" * 20, "9" * 400, "-" + "9" * 30, "1_000", "٣", "½", "0x10", "1e3", "", " ",
           "1000000000000", "2147483648"]  # fmt: skip
WORDS = ["", " ", "é", "数字", "🙂", "a b", "a,b=c", ":", "=", "GALOT:", "GALOT:epsilon=", "x:y=z",
         "../../x", "/", ".", "..", "~", "a/b", "$(touch hacked)", "`id`", "; rm -rf x", "*", "'",
         '"', "<script>", "%s%n", "\n", "\t", "-", "--", "x" * 5000, "CON", "\u202e", "\ud800",
         "nul\x01l", "GALOTT", "all", "none", "auto", "{label}", "{label} {x}", "{",
         "%"]  # fmt: skip
SAFE = {"--plugin"}  # executes what it names, which is its purpose


class Stopped(UserError):
    """Everything was accepted: the runs would begin."""


def names():
    found = [n for r in registry.ALL.values() for n, _ in r._names_and_aliases()]
    return [*found, *PROTOCOLS, "table1", "fig3", "folder:x", "owner/name"]


def words(action, files):
    """What may be written behind a flag: half of it is of the right kind."""
    own = list(action.choices or ())
    anything = st.text(st.characters(blacklist_characters="\0"), max_size=8)
    right = {int: st.sampled_from([0, 1, 2, 7, 10**9, 10**12]) | st.integers(-10, 40),
             float: st.floats() | st.sampled_from([0.0, 0.5, 1.0, 1e9, 1e308])}  # fmt: skip
    likely = right.get(action.type, st.sampled_from([*names(), *own, *files])).map(str)
    return likely | st.one_of(
        st.sampled_from([*NUMBERS, *WORDS, *own]), st.sampled_from(names()),
        st.sampled_from(files), st.integers(-10, 40).map(str), st.floats().map(str), anything,
    )  # fmt: skip


def flag(action, files):
    """One flag with as many words as it takes, or some more or fewer."""
    if action.nargs == 0:
        return st.just([action.option_strings[-1]])
    few = st.lists(words(action, files), min_size=0 if action.nargs else 1,
                   max_size=3 if action.nargs else 1)  # fmt: skip
    wrote = st.sampled_from(action.option_strings)
    return st.tuples(wrote, few).map(lambda t: [t[0], *t[1]])


def command_lines(files):
    actions = deepal_galot.cli.build_parser()._actions
    actions = [a for a in actions if not SAFE & set(a.option_strings)]
    flags = st.sampled_from(actions).flatmap(lambda a: flag(a, files))
    start = st.sampled_from([[], [], ["--strategy", "GALOT"], ["--strategy", "BALD", "--dry-run"],
                             ["--mode", "gal"], ["--strategy", "GALOT", "--dry-run"]])  # fmt: skip
    return st.tuples(start, st.lists(flags, min_size=1, max_size=4)).map(
        lambda t: [word for part in [t[0], *t[1]] for word in part]
    )


@pytest.fixture
def harmless(monkeypatch, tmp_path):
    """Nothing is fitted, fetched or timed; the parser and Digits are made once."""

    def stop(*args, **kwargs):
        raise Stopped("the runs would begin")

    def no_network(*args, **kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    for module in (deepal_galot.engines, deepal_galot.experiment_campaigns):
        monkeypatch.setattr(module, "play_all", stop)
    monkeypatch.setattr(deepal_galot.campaign, "timed", lambda costs, probe: costs)
    monkeypatch.setattr(probe, "PROBE_SECONDS", 0.0)
    for owner, name in ((deepal_galot.cli, "build_parser"), (Digits, "load")):
        monkeypatch.setattr(owner, name, functools.cache(getattr(owner, name)))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def files_to_name(folder):
    """Paths of files and folders of all sorts, some with spaces and other scripts."""
    odd = folder.parent / "odd ones é"
    odd.mkdir()
    (odd / "empty file").touch()
    (odd / "lines.txt").write_text("one\ntwo\n")
    (odd / "data ü.npz").write_bytes(b"PK\x03\x04 no")
    np.savez(odd / "tiny.npz", x_train=np.zeros((4, 8, 8), np.uint8), y_train=np.arange(4) % 2,
             x_test=np.zeros((2, 8, 8), np.uint8), y_test=np.arange(2))  # fmt: skip
    (odd / "marks.json").write_text("{}")
    return [str(p) for p in (odd, *odd.iterdir(), odd / "not there", Path("/dev/null"))]


def said(args):
    """(exit code, stderr) of the command; anything that it raises fails the test."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(args)
    return code, err.getvalue()


@sizes(60, 3000)
def test_any_command_line(harmless, n):
    files = files_to_name(harmless)
    with counted() as faults:

        @examples(n)
        @given(command_lines(files))
        def check(args):
            faults.append(("bad input", "command line"))
            code, err = said(args)
            assert code in (0, 2), args
            if code == 2:
                (line,) = [x for x in err.splitlines() if x.startswith("error: ")]
                if "the runs would begin" not in line:
                    left = [p for p in harmless.rglob("*") if p.name == "config.json"]
                    assert not left and not list(harmless.iterdir()), args
            assert "Traceback" not in err
            for path in harmless.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

        check()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["-t", "9" * 12], "-t 999999999999: at most"),
        (["--n-rounds", "9" * 12], "--n-rounds 999999999999: must be at most"),
        (["--quota", "9" * 12, "--n-query", "1"], "must be at most"),
        (["--strategy", "GALOT", "--n-synthetic", "1e308"], "-synthetic 1e+308: must be at most"),
        (["--quota", "9" * 400], "9: must be at most 1e+09"),
        (["--quota", "999999"], "--n-rounds 50000: must be at most 10000"),
        (["--seeds", "9" * 400], "9: a seed is a whole number below 2^63"),
    ],
)
def test_numbers_that_would_never_end(harmless, args, says):
    """Before: memory and time without end, and no line."""
    code, err = said(args)
    assert code == 2 and says in err


# -- files -----------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
                                                                max_size=3), max_leaves=6,
)  # fmt: skip


@st.composite
def damages(draw, data: bytes):
    """The bytes of a file after something happened to it."""
    kind = draw(st.sampled_from(["flip", "flips", "cut", "splice", "junk", "json", "leaf"]))
    where = st.integers(0, max(0, len(data) - 1))
    if kind in ("flip", "flips"):
        changed = bytearray(data)
        for _ in range(1 if kind == "flip" else 20):
            if changed:
                changed[draw(where)] ^= 1 << draw(st.integers(0, 7))
        return bytes(changed)
    if kind == "cut":
        return data[: draw(where)]
    if kind == "splice":
        return data[: draw(where)] + data[draw(where) :]
    if kind == "junk":
        return draw(st.binary(max_size=40))
    text = json.dumps(draw(JSON))
    if kind == "json":
        return text.encode()
    try:
        value = json.loads(data.splitlines()[-1] if data.count(b"}\n") > 1 else data)
        if isinstance(value, dict) and value:
            holder, key = value, draw(st.sampled_from(sorted(value)))
            if isinstance(holder[key], dict) and holder[key] and draw(st.booleans()):
                holder, key = holder[key], draw(st.sampled_from(sorted(holder[key])))
            holder[key] = json.loads(text)
        return (json.dumps(value) + "\n").encode()
    except ValueError:
        return text.encode()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A results folder with a run of GALOT and one without images."""
    root = tmp_path_factory.mktemp("finished")
    return Scenario(root, [*ARGS, "--seeds", "0"]).whole


def fine_or_said(read):
    """What it gives, or None where it refuses in words."""
    try:
        return read()
    except UserError as error:
        assert str(error).strip()
        return None


READERS = {
    "config.json": lambda path: RunFolder.open(path).config,
    "rounds.jsonl": lambda path: RunFolder.open(path).rows(),
    "seals.json": lambda path: [RunFolder.open(path).rows(), RunFolder.open(path).picks()],
    "state.npz": lambda path: [p.tolist() for p in RunFolder.open(path).picks()],
    "classifier.safetensors": lambda path: sorted(RunFolder.open(path).classifier()[0]),
    "text/round001.safetensors": lambda path: sorted(RunFolder.open(path).load("text", 1)),
}


@pytest.mark.xdist_group("finished")
@sizes(10, 250)
@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("name", READERS)
def test_any_file_of_a_run(finished, tmp_path, name, sealed, n):
    """Sealed, it is read as it was or refused; in a folder without seals, read or refused."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (folder,) = tmp_path.glob("Digits/GALOT/*/seed0")
    if not sealed:
        (folder / "seals.json").unlink()
        if name == "seals.json":
            pytest.skip("that is the file")
    read, file = READERS[name], folder / name
    whole, right = file.read_bytes(), READERS[name](folder)
    with counted() as faults:

        @examples(n)
        @given(damages(whole))
        def check(data):
            faults.append(("damaged files, read", Path(name).name))
            file.write_bytes(data)
            found = fine_or_said(lambda: read(folder))
            if sealed and name not in ("seals.json", "rounds.jsonl"):
                assert found is None or found == right
            if sealed and name == "rounds.jsonl":  # a line that was cut short does not count
                assert found is None or found == right[: len(found)]

        check()


@pytest.mark.xdist_group("finished")
@sizes(10, 200)
@pytest.mark.parametrize("name", ["config.json", "rounds.jsonl"])
def test_reports_of_any_results(finished, tmp_path, monkeypatch, name, n):
    """Also where no seals are."""
    monkeypatch.setattr(deepal_galot.report.write, "render", lambda draw, kinds: {})
    shutil.copytree(finished, tmp_path / "r", dirs_exist_ok=True)
    (folder,) = (tmp_path / "r").glob("Digits/MarginSampling/*/seed0")
    (folder / "seals.json").unlink()
    whole = (folder / name).read_bytes()
    with counted() as faults:

        @examples(n)
        @given(damages(whole))
        def check(data):
            faults.append(("damaged files, reported", name))
            (folder / name).write_bytes(data)
            code, err = said(["--report", "--output", str(tmp_path / "r")])
            assert code == 0 or (code == 2 and err.startswith("error: ")), err

        check()


@sizes(20, 300)
@pytest.mark.parametrize("part", [".npz", ".json"])
def test_any_shard_and_manifest(tmp_path, part, n):
    """It is what was written, or it is made again."""
    c = FakeGenerator().encode(["one", "two"])
    request = ImageRequest(c, c, (3, 2), ("one", "two"), ("one", "two"), (8, 8, 1), 0, 0)
    store = ImageStore(tmp_path)
    first = store.get(FakeGenerator(), request)
    file = sorted(tmp_path.rglob(f"*{part}"))[0]
    whole = file.read_bytes()
    assert store.find(first.key, request) is not None
    with counted() as faults:

        @examples(n)
        @given(damages(whole))
        def check(data):
            faults.append(("damaged files, read", f"shard{part}"))
            file.write_bytes(data)
            assert (store.find(first.key, request) is None) == (data != whole)

        check()


def own_data(file):
    """What the command reads of a person's own .npz."""
    return dataset_at(file)().load(None).content_hash


def data_npz(file):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (6, 8, 8, 3), np.uint8), np.arange(6) % 2
    np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y, class_names=np.array(["a", "b"]))


MARKS = {"schema": 1, "annotator": "me", "marks": {"0123456789abcdef": True}}
OTHERS = {
    "data.npz": (data_npz, own_data),
    "marks.json": (lambda f: f.write_text(json.dumps(MARKS)), lambda f: read_marks([f])),
}


@sizes(20, 400)
@pytest.mark.parametrize("name", OTHERS)
def test_any_file_that_people_give(tmp_path, name, n):
    write, read = OTHERS[name]
    file = tmp_path / name
    write(file)
    whole = file.read_bytes()
    assert read(file)
    with counted() as faults:

        @examples(n)
        @given(damages(whole))
        def check(data):
            faults.append(("damaged files, read", name))
            file.write_bytes(data)
            fine_or_said(lambda: read(file))

        check()


@sizes(10, 200)
def test_any_exhibit(tmp_path, n):
    from deepal_galot.report.exhibit import Exhibit, ExhibitArm

    exhibit = Exhibit("table1", "t", "curves", "Digits", (ExhibitArm("a", "Digits/a/b", None),),
                      None, None, ())  # fmt: skip
    exhibit.save(tmp_path)
    (file,) = (tmp_path / "exhibits").rglob("*.json")
    whole = file.read_bytes()
    assert find_exhibits(tmp_path)
    with counted() as faults:

        @examples(n)
        @given(damages(whole))
        def check(data):
            faults.append(("damaged files, read", "exhibit"))
            file.write_bytes(data)
            fine_or_said(lambda: find_exhibits(tmp_path))

        check()
