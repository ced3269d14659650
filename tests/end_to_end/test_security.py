"""Nothing from outside is executed, no name becomes a path or HTML, and no network is needed."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from deepal_galot.cli import main
from deepal_galot.datasets.digits import Digits
from helpers import QUICK, ROOT, rows_of

PACKAGES = ("deepal_galot", "generators", "query_strategies")
EVIL = ["../../x", "<script>alert(1)</script>", "CON", "a" * 200, "$(touch hacked)", "é/🙂 \"'&"]


def sources():
    return [f for package in PACKAGES for f in (ROOT / package).rglob("*.py")]


@pytest.mark.parametrize(
    ("call", "needs"),
    [
        (r"\bnp\.load\(", r"allow_pickle=False"),
        (r"(?<!safetensors\.)\btorch\.load\(", r"weights_only=True"),
        (r"\.from_pretrained\(", r"local_files_only=True.*use_safetensors=True"),
    ],
)
def test_files_are_read_without_executing_them(call, needs):
    found = 0
    for file in sources():
        if "tiny_sd" in file.parts:  # its training, no part of a run
            continue
        text = file.read_text(encoding="utf-8")
        for match in re.finditer(call, text):
            found += 1
            assert re.search(needs, text[match.end() : match.end() + 200], re.DOTALL), file
    assert found or "torch" in call


def test_no_pickle_no_remote_code_no_eval():
    words = r"\bimport (pickle|dill|joblib|marshal|shelve)\b|trust_remote_code|\beval\(\w*[\"']|"
    words += r"(?<!\.)\bexec\(|allow_pickle=True|weights_only=False|use_safetensors=False"
    for file in sources():
        found = re.search(words, file.read_text(encoding="utf-8"))
        assert not found, (file, found)


def test_pickled_arrays_and_weights_are_refused(tmp_path, capsys):
    """Their unpickling would leave a file."""

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "hacked"), "w"))

    x, y = np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2
    evil = np.array([Evil()] * 4, dtype=object)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=evil, x_test=x, y_test=y)
    (tmp_path / "hacked").unlink(missing_ok=True)
    args = ["--strategy", "RandomSampling", "--dataset", str(tmp_path / "data.npz")]
    assert main([*QUICK, *args, "--output", str(tmp_path / "out")]) == 2
    assert "holds Python objects" in capsys.readouterr().err
    import torch

    from generators.tiny import Tiny

    model = tmp_path / "model"
    shutil.copytree(Tiny.source, model)
    for file in model.rglob("*.safetensors"):
        torch.save({"w": Evil()}, file.with_name("diffusion_pytorch_model.bin"))
        file.unlink()
    (tmp_path / "hacked").unlink(missing_ok=True)
    args = ["--strategy", "GALOT", "--generator", str(model), "--output", str(tmp_path / "out")]
    assert main([*QUICK, *args]) == 2
    assert not (tmp_path / "hacked").exists()


class Tags(HTMLParser):
    """Which elements a page has, and with what in their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def files_below(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


@pytest.fixture
def evil_npz(tmp_path):
    digits = Digits().load(None)
    keep, test = digits.y_train < len(EVIL), digits.y_test < len(EVIL)
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "<b>x & 'y'.npz"
    np.savez(
        file.with_name("d.npz"), x_train=digits.x_train[keep], y_train=digits.y_train[keep],
        x_test=digits.x_test[test], y_test=digits.y_test[test], class_names=np.array(EVIL),
    )  # fmt: skip
    return file.with_name("d.npz").rename(file)


@pytest.mark.filterwarnings("error:constrained_layout")  # of names that leave no room
def test_class_names_never_become_paths_or_html(tmp_path, evil_npz, monkeypatch, capsys):
    """In the images' file names, the tables, the pages of the report and of --annotate."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    before = files_below(tmp_path)
    plain = tmp_path / "words.txt"  # what the tiny generator draws for them
    names = ("zero", "one", "two", "three", "four", "five")
    plain.write_text("".join(f"{name}\n" for name in names))
    args = ["--dataset", str(evil_npz), "--class-names", str(plain), "--strategy", "GALOT",
            "MarginSampling", "--generator", "tiny", "--protocol", "demo", "--save-full-size", "1",
            "--output", str(tmp_path / "work" / "out")]  # fmt: skip
    assert main([*QUICK, *args]) == 0, capsys.readouterr().err
    assert main(["--annotate", "2", "--output", str(tmp_path / "work" / "out")]) == 0
    new = files_below(tmp_path) - before - {"words.txt"}
    assert new and all(name.startswith("work/out") for name in new)
    assert not any("script>" in name or "$(" in name for name in new)
    assert all(len(name.rpartition("/")[2].encode()) <= 255 for name in new)
    for page in ("index.html", "annotate.html"):
        text = (tmp_path / "work" / "out" / "report" / page).read_text(encoding="utf-8")
        assert "<script>alert" not in text and "<b>x" not in text
        for tag, attributes in Tags(text).found:
            assert not any(key.startswith("on") for key in attributes), (tag, attributes)
            assert not str(attributes.get("href", "")).startswith("javascript:")
    assert rows_of(tmp_path / "work" / "out")


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "CON", "two\nlines", "x" * 200])
def test_folders_with_odd_names_as_classes(tmp_path, name, monkeypatch, capsys):
    """A line, or a run that stays where it belongs."""
    digits, data = Digits().load(None), tmp_path / "data"
    for part, x, y in (("train", digits.x_train, digits.y_train),
                       ("test", digits.x_test, digits.y_test)):  # fmt: skip
        for label, folder in ((0, name.replace("/", "_")), (1, "one")):
            (data / part / folder).mkdir(parents=True)
            for i in np.flatnonzero(y == label)[:12]:
                Image.fromarray(x[i, ..., 0]).save(data / part / folder / f"{i}.png")
    before = files_below(tmp_path)
    args = [*QUICK, "--strategy", "RandomSampling", "--dataset", str(data), "--classifier",
            "small_cnn", "--output", str(tmp_path / "out")]  # fmt: skip
    code, err = main(args), capsys.readouterr().err
    assert code == 0, err
    new = files_below(tmp_path) - before
    assert new and all(n.startswith("out") for n in new)
    page = (tmp_path / "out" / "report" / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page


@pytest.mark.faults
@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare(1)")
def test_without_any_network_at_all(tmp_path):
    """In a network namespace of its own, which has not even a loopback device that is up; that
    nobody asks for one is tested in test_runs."""
    args = [*QUICK, "--strategy", "GALOT", "--output", str(tmp_path)]
    alone = ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("may not make a network namespace here")
    command = [*alone, sys.executable, str(ROOT / "run_benchmark.py"), *args]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path)
