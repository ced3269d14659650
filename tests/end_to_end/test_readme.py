"""The commands and examples of the README and its pages do what they say."""

import ast
import csv
import re
import shlex
import statistics
import time

import pytest

from deepal_galot.cli import build_parser, main
from deepal_galot.engines import check_engine
from deepal_galot.results import find_runs
from deepal_galot.speed.__main__ import build_parser as speed_parser
from generators.tiny import Tiny
from helpers import QUICK, ROOT, only_run, rows_of, run_benchmark

PAGES = {
    file: file.read_text(encoding="utf-8")
    for file in (ROOT / "README.md", *sorted((ROOT / ".readme").glob("*.md")))
}
README = PAGES[ROOT / "README.md"]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.split(" #")[0].split(" > ")[0].strip()
    for page in PAGES.values()
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("python run_benchmark.py")
]


def test_the_strategy_example_is_twelve_lines_and_runs(tmp_path):
    (example,) = [code for code in PYTHON if "(Strategy)" in code]
    assert len(example.strip().splitlines()) <= 12
    file = tmp_path / "my_strategy.py"
    file.write_text(example)
    (name,) = [n.name for n in ast.parse(example).body if isinstance(n, ast.ClassDef)]
    args = ["--plugin", file, "--strategy", name, "MarginSampling", "--seeds", "0"]
    args += ["--n-rounds", "1", "--epochs", "2", "--min-steps", "0", "--output", tmp_path / "out"]
    assert main([str(a) for a in args]) == 0
    _, rows = only_run(tmp_path / "out", name)
    assert [r["labels"] for r in rows] == [20, 40]


def test_the_examples_of_a_data_set_a_network_and_a_generator_run(tmp_path):
    (example,) = [code for code in PYTHON if "(Dataset)" in code]
    file = tmp_path / "my_parts.py"
    file.write_text(example.replace("/models/mine", str(Tiny.source)))
    args = ["--plugin", str(file), *QUICK, "--output", str(tmp_path / "out")]
    parts = ["--dataset", "Stripes", "--classifier", "OneLayer", "--strategy", "RandomSampling"]
    assert main([*args, *parts, "--epochs", "20"]) == 0
    _, rows = only_run(tmp_path / "out", "RandomSampling")
    assert rows[-1]["accuracy"] > 0.6
    run_benchmark(*args, "--generator", "MyModel", "--strategy", "GALOT:epsilon=0")
    assert rows_of(tmp_path / "out", "GALOT")


def test_the_script_runs_when_cut_short(tmp_path, monkeypatch, capsys):
    """Its last lines are the report's numbers, and a run has what is said of it."""
    (script,) = [code for code in PYTHON if "main([" in code]
    monkeypatch.chdir(tmp_path)
    exec(script.replace("main([", f"main([*{QUICK}, "), {})
    lines = capsys.readouterr().out.splitlines()[-2:]
    with (tmp_path / "results" / "report" / "Digits_accuracy.csv").open() as file:
        last = {row["strategy"]: float(row["15"]) for row in csv.DictReader(file)}
    runs = find_runs("results")
    for line in lines:
        name, mean, sem = re.fullmatch(r"Digits/(\w+)/\w+: (\S+) ± (\S+) %", line).groups()
        values = [r.rows()[-1]["accuracy"] for r in runs if r.config.strategy == name]
        assert float(mean) == pytest.approx(last.pop(name), abs=0.006)
        assert float(sem) == pytest.approx(100 * statistics.stdev(values) / 3**0.5, abs=0.006)
    assert not last
    assert [len(picks) for picks in runs[0].picks()] == [10, 5] and runs[0].finished
    assert runs[0].classifier()[1]["class_names"][0] == "zero"


def test_there_are_commands():
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", COMMANDS)
def test_every_printed_command_parses(command):
    build_parser().parse_args(shlex.split(command)[2:])


def test_every_printed_measurement_parses():
    """Those of a line, and those within a sentence."""
    form = r"[`\n]python -m deepal_galot\.speed ([^`\n#]+)"
    found = [flags for page in PAGES.values() for flags in re.findall(form, page)]
    assert len(found) >= 10
    for flags in found:
        speed_parser().parse_args(flags.split())


def test_every_command_inside_a_cluster_script_parses():
    pytest.importorskip("ray", reason='needs Ray: pip install -e ".[ray]"')
    blocks = " ".join(re.findall(r"```(?:sh|yaml)\n(.*?)```", README, re.DOTALL))
    commands = re.findall(r"(?:run_benchmark\.py|deepal-galot) (--engine ray.*?)[\"#\n]", blocks)
    assert len(commands) >= 5
    for command in commands:
        check_engine(build_parser().parse_args(shlex.split(command)))


def test_the_printed_commands_of_the_deepalplus_plugin_parse():
    from deepal_galot.deepalplus.command import split
    from deepal_galot.deepalplus.settings import parse_flags

    lines = re.findall(r"^python -m deepal_galot.deepalplus (.*?)(?: +#.*)?$", README, re.M)
    assert len(lines) == 2
    for line in lines:
        _, theirs, ours = split(shlex.split(line))
        assert "-a" in theirs
        parse_flags(ours)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--list" in c or "--dry-run" in c])
def test_commands_that_cost_nothing_run(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[2:]) == 0


@pytest.mark.parametrize("command", [c for c in COMMANDS if "Digits" in c or "GALOT:" in c])
def test_commands_on_digits_run_when_cut_short(command, tmp_path):
    short = [*QUICK, "--n-rounds", "0", "--output", str(tmp_path)]
    assert main([*shlex.split(command)[2:], *short]) == 0
    assert rows_of(tmp_path)


@pytest.mark.slow
def test_the_main_job_takes_less_than_four_minutes_on_two_cores(tmp_path):
    started = time.perf_counter()
    done = run_benchmark("--output", tmp_path)
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s\n{done.stdout}")
    assert len(rows_of(tmp_path)) == 6 and seconds < 240


def anchors_of(page):
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.M)
    return [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]


@pytest.mark.parametrize("page", PAGES, ids=lambda file: file.name)
def test_every_link_and_picture_exists(page):
    anchors = anchors_of(PAGES[page])
    assert len(anchors) == len(set(anchors))
    links = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", PAGES[page])
    assert links
    for target, anchor in links:
        if target.startswith("http"):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors_of(PAGES[file]), (target, anchor)
