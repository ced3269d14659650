"""What is said before anything runs: costs, a GPU that is missing, weights that are missing."""

import json
import os
import re
import shutil
import signal

import pytest
import torch

from deepal_galot import cost_table, probe
from deepal_galot.cli import main
from generators.tiny import Tiny
from generators.weights import MODELS, MissingWeights, find_weights
from helpers import QUICK, rows_of

HUGE = """
from generators.base import Size
from generators.tiny import Tiny as Small

class Huge(Small):
    "as small as it is, it says that it needs 60 TFLOP an image"
    name = "huge"

    @classmethod
    def size(cls, config):
        return Size(6e13, 7e13, 24 * 64)
"""


@pytest.fixture(autouse=True)
def short_probe(monkeypatch, request):
    if "slow" not in request.keywords:
        monkeypatch.setattr(probe, "PROBE_SECONDS", 0.01)


@pytest.fixture
def huge(tmp_path, monkeypatch):
    """The flags of a quick run with a generator that says that it is full-size."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    file = tmp_path / "huge.py"
    file.write_text(HUGE)
    return [*QUICK, "--plugin", str(file), "--generator", "huge", "--strategy", "GALOT",
            "--output", str(tmp_path / "out")]  # fmt: skip


@pytest.mark.parametrize(("flags", "unread"), [
    (["MarginSampling", "--text-target", "entropy", "--synthetic-weight", "0.3"],
     "--text-target, --synthetic-weight"),
    (["MarginSampling", "--generator", "/nowhere"], "--generator"),
    (["RandomSampling", "--momentum", "0.5", "--mc-passes", "3"], "--momentum, --mc-passes"),
    (["GALOT:epsilon=0", "--eta", "0.1"], "--eta"),
    (["GALOT", "MarginSampling", "--eta", "0.1", "--generator", "tiny"], ""),
    (["BALDDropout", "--mc-passes", "3", "--n-init", "12"], ""),
])  # fmt: skip
def test_flags_that_no_run_reads_are_named(flags, unread, tmp_path, capsys):
    command = ["--seeds", "0", "--output", str(tmp_path), "--dry-run", "--strategy", *flags]
    assert main(command) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"note: {unread}: read by none of these runs" if unread else "note" not in said


@pytest.mark.parametrize(("entry", "without"), [
    ("GALOT:epsilon=0,direction=random", "direction"),
    ("GALOT:mode=gal,keep=pool,oversample=2", "keep, oversample"),
    ("GALOT:mode=al,n_synthetic=2,epsilon=0", "epsilon, n_synthetic"),
    ("GALOT:direction=random,generator=tiny,n_rounds=1,epochs=2", ""),
])  # fmt: skip
def test_settings_that_change_nothing_are_named(entry, without, tmp_path, capsys):
    """Before, the control that was asked for was another one, without a word."""
    command = ["--seeds", "0", "--output", str(tmp_path), "--dry-run", "--strategy", entry]
    assert main(command) == 0
    said = [x for x in capsys.readouterr().out.splitlines() if "changes nothing there" in x]
    assert said == [f"note: {entry}: {without} changes nothing there"] * bool(without)


@pytest.mark.parametrize(("flags", "noted"), [
    (["--epochs", "2"], True), (["--epochs", "2", "--min-steps", "0"], False),
    (["--epochs", "80"], False), ([], False),
    (["--epochs", "40", "--n-rounds", "0"], True),  # 40 steps, of 20 images
    (["--epochs", "200", "--n-rounds", "0"], False),  # as many as --min-steps asks for, not fewer
])  # fmt: skip
def test_epochs_that_change_nothing_are_named(flags, noted, tmp_path, capsys):
    """Before, rows of --epochs 2 and 30 were alike on Digits, and nobody said why."""
    command = ["--seeds", "0", "--output", str(tmp_path), "--dry-run", "--strategy"]
    assert main([*command, "RandomSampling", *flags]) == 0
    said = [x for x in capsys.readouterr().out.splitlines() if x.startswith("note: --epochs")]
    assert [x.endswith("--min-steps 200 asks for more in every round; add --min-steps 0")
            for x in said] == [True] * noted  # fmt: skip


@pytest.mark.usefixtures("no_report")
def test_a_run_names_them_too(tmp_path, capsys):
    assert main([*QUICK, "--strategy", "RandomSampling", "--output", str(tmp_path)]) == 0
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("note: --") and "--ascent-steps" in first and "--n-init" not in first
    assert second.startswith("to do: 1 run")


def test_a_probe_knows_that_generators_are_compiled(tmp_path, monkeypatch):
    """What is compiled in the first call is no price of an image or of a chain."""
    asked, repeat = [], probe._repeat

    def remember(run, clock, compiles=False):
        asked.append(compiles)
        return repeat(run, clock)

    monkeypatch.setattr(probe, "_repeat", remember)
    monkeypatch.setattr(Tiny, "compile", lambda self: None)  # takes a minute, and is not asked here
    command = [*QUICK, "--strategy", "GALOT", "--output", str(tmp_path), "--dry-run"]
    for flags, generated in (([], False), (["--compile"], True)):
        asked.clear()
        assert main([*command, *flags]) == 0
        assert asked == [False, generated, generated]  # the pass, an image, a chain


@pytest.mark.parametrize(("flags", "said"), [
    ([], "\ninterrupted: the same command goes on where this one stopped\n"),
    (["--dry-run"], "\ninterrupted\n"), (["--report"], "\ninterrupted\n"),
])  # fmt: skip
def test_only_what_is_recorded_goes_on(flags, said, monkeypatch, capsys):
    def stop(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("deepal_galot.cli._dispatch", stop)
    assert main(flags) == 130
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_whoever_asks_it_to_end_is_heard(name, monkeypatch, capsys):
    """A terminal that is gone and Slurm's --signal=USR1@60 ended it without a word; under nohup,
    which ignores the first, it goes on."""
    number = getattr(signal, name)
    monkeypatch.setattr("deepal_galot.cli._dispatch", lambda args: os.kill(os.getpid(), number))
    before = signal.signal(number, signal.SIG_DFL)
    try:
        assert main([]) == 128 + number and signal.getsignal(number) is signal.SIG_DFL
        said = capsys.readouterr().err
        assert said == "\nended: the same command goes on where this one stopped\n"
        signal.signal(number, signal.SIG_IGN)
        assert main([]) is None and not capsys.readouterr().err
    finally:
        signal.signal(number, before)


def dry(capsys, tmp_path, *args) -> dict[str, dict[str, str]]:
    """The table of a dry run: first column -> head -> cell; and "notes"."""
    assert main([*QUICK, *args, "--output", str(tmp_path), "--dry-run"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    names = head.split()[1:]
    table = {}
    for line in lines:
        if "  " not in line:
            break
        first, *cells = (cell for cell in line.split("  ") if cell.strip())
        table[first] = dict(zip(names[-len(cells) :], (c.strip() for c in cells), strict=True))
    table["notes"] = " ".join(lines[len(table) :])
    return table


def test_dry_run_says_the_costs_and_runs_nothing(tmp_path, capsys):
    table = dry(capsys, tmp_path, "--strategy", "MarginSampling", "GALOT")
    margin, galot, total = (table[k] for k in ("MarginSampling seed 0", next(
        k for k in table if k.startswith("GALOT")), "total"))  # fmt: skip
    assert (margin["labels"], margin["images"], margin["fits"]) == ("15", "0", "0/2")
    assert (galot["labels"], galot["images"], galot["chains"]) == ("15", "50", "40")
    assert (total["labels"], total["images"], total["chains"]) == ("30", "50", "40")
    assert float(total["PFLOP"]) > float(galot["PFLOP"]) > float(margin["PFLOP"]) > 0
    assert all(row["time"].split()[1] in ("s", "min") for row in (margin, galot, total))
    assert not rows_of(tmp_path) and "160 images that show c0 and c" in table["notes"]
    assert margin["folder"].startswith("Digits/MarginSampling/")


def test_a_finished_run_costs_nothing(tmp_path, capsys):
    args = ("--strategy", "RandomSampling")
    assert main([*QUICK, *args, "--output", str(tmp_path)]) == 0
    err = capsys.readouterr().err
    assert "to do: 1 run, 15 labels, 0 images" in err
    row = dry(capsys, tmp_path, *args)["RandomSampling seed 0"]
    assert (row["fits"], row["labels"], row["PFLOP"], row["time"]) == ("2/2", "0", "0", "0 s")
    main([*QUICK, *args, "EntropySampling", "--output", str(tmp_path)])
    assert "to do: 2 runs, 1 of them finished, 15 labels" in capsys.readouterr().err
    main([*QUICK, *args, "--output", str(tmp_path)])
    assert "to do" not in capsys.readouterr().err


def test_dry_run_without_weights(tmp_path, capsys):
    """The FLOP are counted on the architecture; the time stays open, and nothing is fetched."""
    table = dry(capsys, tmp_path, "--strategy", "GALOT", "--generator", "sd-2.1-base")
    total = table["total"]
    assert (total["images"], total["time"]) == ("50", "?")
    assert "weights of sd-2.1-base are not here yet" in table["notes"]
    # Digits' defaults give way to the flags of QUICK: T = 3, guidance 7.5.
    flop = 210 * (6 * 0.80426 + 2.5145) + 40 * (6 * 0.80426 + 2.5145 + 3.416)
    assert float(total["PFLOP"]) == pytest.approx(flop / 1e3, rel=0.05)


def test_a_full_size_generator_asks_for_the_cpu(huge, tmp_path, capsys):
    assert main(huge) == 2
    line = capsys.readouterr().err.strip()
    for word in ("no GPU", "huge needs 60 TFLOP an image", "15 PFLOP", "hours", "--device cpu"):
        assert word in line
    assert not rows_of(tmp_path / "out")


def test_apples_gpu_is_named_where_auto_takes_the_cpu(huge, tmp_path, capsys, monkeypatch):
    quick = [*QUICK, "--strategy", "RandomSampling", "--n-rounds", "0", "--output", str(tmp_path)]

    def said(command):
        main(command)
        return [line for line in capsys.readouterr().err.splitlines() if "--device mps" in line]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert said([*quick, "--seeds", "0"]) == []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert said(huge)[0].endswith("to go on, add --device cpu or, untested, --device mps")
    note = "note: --device auto took the CPU; --device mps takes this machine's GPU, untested"
    assert said([*quick, "--seeds", "1"]) == [note]
    assert said([*quick, "--seeds", "2", "--device", "cpu"]) == []


def test_long_runs_say_their_time_at_the_start(tmp_path, capsys, monkeypatch):
    args = [*QUICK, "--strategy", "GALOT", "--ascent-denoising", "2", "--output", str(tmp_path)]
    asked, own = [], probe.score_gradient
    monkeypatch.setattr(
        probe, "score_gradient", lambda *a, **k: asked.append(k["steps"]) or own(*a, **k)
    )
    assert main([*args, "--n-rounds", "0"]) == 0
    assert " s one" not in capsys.readouterr().err and not asked
    monkeypatch.setattr(cost_table, "LONG", 0.0)
    assert main([*args, "--n-rounds", "1"]) == 0
    said = capsys.readouterr().err
    assert re.search(
        r"to do: 1 run, .* PFLOP, [\d.]+ .B, [\d.]+ (s|min) one after the other\n", said
    )
    assert set(asked) == {2}


def test_a_full_size_generator_goes_on_where_the_cpu_is_asked_for(huge, tmp_path, capsys):
    assert main([*huge, "--device", "cpu"]) == 0
    assert "60 TFLOP an image" in capsys.readouterr().err
    assert rows_of(tmp_path / "out")


def test_a_full_size_generator_is_not_timed_on_a_cpu(huge, capsys):
    assert main([*huge, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "too large for a CPU" in out and "at least" in out and "--device cpu" in out


def test_models_from_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(MODELS, str(tmp_path))
    with pytest.raises(MissingWeights, match=f"not in the folder {MODELS} \\({tmp_path}\\)"):
        find_weights("someone/digits-a")
    shutil.copytree(Tiny.source, tmp_path / "digits-a")
    assert find_weights("someone/digits-a") == tmp_path / "digits-a"
    shutil.copytree(Tiny.source, tmp_path / "someone--digits-b")
    assert find_weights("someone/digits-b") == tmp_path / "someone--digits-b"


@pytest.mark.slow
def test_predicted_against_measured_seconds(tmp_path, capsys):
    """Within a factor of 2, of a short real run with the embedded generator."""
    args = ["--strategy", "MarginSampling", "GALOT", "--seeds", "0", "--n-rounds", "2"]
    args += ["--output", str(tmp_path)]
    assert main([*args, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = next(line for line in lines if line.startswith("total")).split("  ")
    value, unit = next(c for c in cells if c.strip().endswith((" s", " min", " h"))).split()
    predicted = float(value) * {"s": 1, "min": 60, "h": 3600}[unit]
    assert main(args) == 0
    rows = [row for rows in rows_of(tmp_path, seconds=True).values() for row in rows]
    measured = sum(v for row in rows for k, v in row.items() if k.endswith("_seconds"))
    with capsys.disabled():
        print(json.dumps({"predicted": predicted, "measured": round(measured, 1)}))
    assert 0.5 < measured / predicted < 2


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_a_prompt_that_is_too_long_leaves_no_folder(tmp_path, capsys, flags):
    """Before, all strategies' folders were made first, and --dry-run did not see it."""
    template = "{label} " + "and so on " * 20
    args = [*QUICK, *flags, "--strategy", "MarginSampling", "GALOT", "--template", template]
    assert main([*args, "--output", str(tmp_path / "r")]) == 2
    assert "use a shorter --template" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "r").exists()


@pytest.mark.usefixtures("no_report")
def test_the_prompts_of_all_seeds_are_checked_once(tmp_path, monkeypatch):
    encoded, encode = [], Tiny.encode
    monkeypatch.setattr(
        Tiny, "encode", lambda self, texts: encoded.append(tuple(texts)) or encode(self, texts)
    )
    args = [*QUICK, "--strategy", "GALOT", "GALOT:epsilon=0", "--n-rounds", "0", "--dry-run"]
    assert main([*args, "--seeds", "0", "1", "2", "--output", str(tmp_path)]) == 0
    assert [len(texts) for texts in encoded].count(10) == 3  # one check; two arms are timed


@pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="for a folder that not even root writes"
)
def test_a_folder_that_cannot_be_written_is_said_before_a_model_is_loaded(monkeypatch, capsys):
    """Before, it was said when the model had been loaded."""
    monkeypatch.setattr(Tiny, "encode", lambda *args: pytest.fail("loaded"))
    assert main([*QUICK, "--strategy", "GALOT", "--output", "/proc/nope/x"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: --output /proc/nope/x: cannot be written (")
