"""The paper's experiments as data: what they ask for, and when the paper's numbers may stand by."""

import json
from pathlib import Path

import numpy as np
import pytest

from deepal_galot.cli import build_parser
from deepal_galot.datasets.base import DatasetSpec
from deepal_galot.datasets.digits import Digits
from deepal_galot.errors import UserError
from deepal_galot.experiment_campaigns import ask, comparable, list_experiments
from deepal_galot.experiments import ALIASES, EXPERIMENTS, TABLE1, named
from deepal_galot.jobs import campaign_anew
from deepal_galot.plan import make_plan
from deepal_galot.protocols import PROTOCOLS
from deepal_galot.registry import strategies
from deepal_galot.report.exhibit import (
    Exhibit,
    ExhibitArm,
    find_exhibits,
    is_the_papers,
    paper_numbers,
)
from deepal_galot.request import request_of
from deepal_galot.strategy_entries import parse_entry


def args_of(*flags):
    return build_parser().parse_args([*flags])


def settings(name, *flags):
    """What each arm of an experiment sets."""
    entries = map(parse_entry, ask(name, args_of(*flags)).entries)
    return [{**entry.fields, **({"mode": entry.mode} if entry.mode else {})} for entry in entries]


def test_all_of_the_issues_tables_and_figures_are_there():
    asked = {"table1", "fig3", "table2", "table3", "table4", "fig4", "fig5", "fig6", "table5",
             "table6", "table7", "fig7", "fig8", "fig9", "fig10"}  # fmt: skip
    assert set(EXPERIMENTS) == asked | {"matched20", "matched50", "recipes"}
    assert set(ALIASES) == {"table9", "matched"}
    assert named(["all"]) == list(EXPERIMENTS) and named(["Table9", "fig4"]) == ["fig4"]
    with pytest.raises(UserError, match="'tabel1': did you mean table1"):
        named(["tabel1"])


def test_all_experiments_are_listed_with_one_loading_of_the_data(tmp_path, monkeypatch, digits):
    """Before, every plan loaded them: 18 times."""
    loaded = []
    monkeypatch.setattr(Digits, "load", lambda self, data_dir: loaded.append(self) or digits)
    lines = list(list_experiments(args_of("--output", str(tmp_path))))
    assert len(loaded) == 1 and sum("PFLOP" in line for line in lines) == len(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_planned_and_its_paper_rows_exist(name, tmp_path):
    experiment = EXPERIMENTS[name]
    for arm in (*experiment.arms, *experiment.reusing):
        if arm.paper is not None:
            table, row = arm.paper
            assert (table, "CIFAR10", row) in paper_numbers(), arm
    asked = ask(name, args_of("--output", str(tmp_path), "--scale", "small"))
    plan = make_plan(asked.request)
    judged = 1 if experiment.judged else 0
    assert len({plan.by_entry[e][0].folder(tmp_path) for e in asked.entries}) == len(asked.arms)
    assert len(plan.runs) == len(asked.arms) + judged
    assert all(run.config.cycles <= 2 for run in plan.runs)


@pytest.mark.parametrize("protocol", ["paper", "demo", "modern", "deepalplus"])
def test_recipes_are_the_papers_and_moderns_under_any_protocol(protocol):
    """Before, on Digits they were demo's Adam at SGD's rate, and under modern all the same."""
    flags = ["--seeds", "0", "--n-init", "9", "--protocol", protocol]
    asked = ask("recipes", args_of(*flags))
    plan = make_plan(asked.request)
    first, averaged, last = (plan.by_entry[entry][0].config for entry in asked.entries)
    for config, name in ((first, "paper"), (last, "modern")):
        flags = ["--strategy", "RandomSampling", "--seeds", "0", "--n-init", "9", "--n-rounds", "0"]
        (theirs,) = make_plan(request_of(args_of(*flags, "--protocol", name))).runs
        for key in ("optimizer", "momentum", "weight_decay", *PROTOCOLS["modern"].sets):
            assert getattr(config, key) == getattr(theirs.config, key), key
    assert (averaged.schedule, averaged.label_smoothing) == ("onecycle", 0)
    assert len(plan.runs) == 3 and {run.config.cycles for run in plan.runs} == {1}
    small = make_plan(ask("recipes", args_of("--scale", "small", "--protocol", protocol)).request)
    assert {run.config.cycles for run in small.runs} == {1}  # before, small was the larger one


def test_runs_that_differ_in_training_are_told_apart_while_they_run():
    """Before, all were called RandomSampling, as they still are in tables, of one recipe each."""
    own = ["RandomSampling:epochs=30", "RandomSampling:epochs=9,lr=0.1", "RandomSampling"]
    runs = make_plan(request_of(args_of("--epochs", "7", "--seeds", "0", "--strategy", *own))).runs
    assert [run.label for run in runs] == own and not any(run.settings for run in runs)


def test_table1_is_all_and_the_control():
    names = [parse_entry(e).strategy.__name__ for e in ask("table1", args_of()).entries]
    assert names == [*(strategies.get(n).__name__ for n in TABLE1), "GALOT"]
    assert settings("table1")[-1] == {"epsilon": 0.0}


def test_multiples_are_the_papers_numbers_on_its_data_and_as_far_on_others():
    on_paper = [s["epsilon"] for s in settings("table4", "--dataset", "CIFAR10")]
    assert on_paper == [0, 0.25, 0.5, 1, 10]
    assert [s["epsilon"] for s in settings("table4")] == [0, 2.5, 5, 10, 100]
    assert [s["epsilon"] for s in settings("table4", "--epsilon", "2")] == [0, 1, 2, 4, 40]
    cifar = settings("table5", "--dataset", "CIFAR10")
    assert [s["epochs"] for s in cifar] == [300, 600, 300] and cifar[1]["min_steps"] == 0
    digits = settings("table5")
    assert (digits[1]["epochs"], digits[1]["min_steps"]) == (60, 400)
    images = [s["n_synthetic"] for s in settings("fig6", "--dataset", "CIFAR10")]
    assert images == [0.5, 1, 2]


def test_cycles_and_templates_are_the_papers():
    for name in ("table3", "table4", "fig5", "fig6", "table6", "table7"):
        assert ask(name, args_of("--dataset", "CIFAR10")).args.config_n_rounds == 4, name
    for name in ("table1", "fig3", "table2", "table5"):  # the protocol's 10 cycles
        assert ask(name, args_of("--dataset", "CIFAR10")).args.config_n_rounds is None
    for name in ("fig5", "fig6", "fig7"):
        assert {s["template"] for s in settings(name)} == {"{label}"}
    assert len({s["template"] for s in settings("table3")}) == 6
    assert all(s["n_rounds"] == 0 for s in settings("fig7"))
    pseudo = settings("fig4", "--dataset", "CIFAR100")
    assert all((s["n_init"], s["n_query"], s["mode"]) == (500, 500, "gal") for s in pseudo)


def test_seeds_and_rounds_of_a_scale_give_way_to_flags():
    asked = ask("table1", args_of("--scale", "small")).args
    assert (asked.seeds, asked.config_n_rounds) == ([0], 1)
    asked = ask("table1", args_of("--scale", "small", "--seeds", "3", "4", "--n-rounds", "2")).args
    assert (asked.seeds, asked.config_n_rounds) == ([3, 4], 2)
    asked = ask("table4", args_of("--dataset", "CIFAR10", "--quota", "2500")).args
    assert (asked.config_n_rounds, asked.config_quota) == (None, 2500)


def test_an_experiment_with_a_budget_of_its_own_has_it_on_every_data_set():
    def budget(*flags):
        asked = ask("matched20", args_of(*flags)).args
        return asked.config_n_init, asked.config_n_query, asked.config_n_rounds

    assert budget() == budget("--dataset", "MNIST", "--protocol", "demo") == (20, 20, 9)
    assert budget("--scale", "small") == (20, 20, 1)
    assert budget("--scale", "small", "--n-rounds", "2", "--n-init", "30") == (30, 20, 2)
    assert ask("matched50", args_of("--dataset", "CIFAR10")).args.config_n_query == 50
    assert named(["matched"]) == ["matched20", "matched50"]
    bank = [s["oversample"] for s in settings("matched20") if "oversample" in s]
    assert len(bank) == 3 and {1.0 * s["n_synthetic"] for s in settings("matched20")
                               if "n_synthetic" in s} == {3.0 * bank[0]}  # fmt: skip


def test_the_judge_is_one_run_of_all_seeds():
    asked = ask("matched20", args_of("--seeds", "0", "1", "2"))
    runs = make_plan(asked.request).runs
    assert [r.config.seed for r in runs if r.config.mode == "full"] == [0]
    assert len(runs) == 3 * len(asked.arms) + 1
    in_processes = campaign_anew(asked.args).plan.runs  # before, a run for each seed: Ray stopped
    assert [r.folder(Path()) for r in in_processes] == [r.folder(Path()) for r in runs]


@pytest.mark.parametrize("flags, word", [
    (["--strategy", "GALOT"], "--strategy"), (["--mode", "gal"], "--mode"),
    (["--template", "x {label}"], "--template"), (["--class-names", "x.txt"], "--class-names"),
])  # fmt: skip
def test_what_an_experiment_sets_itself_cannot_be_set(flags, word):
    with pytest.raises(UserError, match=f"{word}.*--experiment table3"):
        ask("table3", args_of(*flags))


def test_the_papers_numbers_stand_by_what_it_ran_and_nothing_else(tmp_path):
    def of(name, *flags):
        return comparable(name, ask(name, args_of("--dataset", "CIFAR10", *flags)))

    for name in EXPERIMENTS:
        assert all(of(name)), name
    assert all(of("table1", "--seeds", "7", "--device", "cpu", "--jobs", "2"))
    assert not any(of("table1", "--epochs", "5"))
    assert not any(of("table1", "--protocol", "modern"))
    margin, galot = 3, 13
    for flags in (["--n-rounds", "3"], ["--scale", "small"]):  # ε grows with the cycles
        alike = of("table1", *flags)
        assert alike[margin] and not alike[galot]
        assert alike[-1]  # the control has no ε
    for flags in (["--epsilon", "1"], ["--generator", "tiny"], ["--steps", "20"]):
        alike = of("table1", *flags)
        assert alike[margin] and not alike[galot]
    words = tmp_path / "words.txt"
    words.write_text("car = automobile\n")
    assert not of("table1", "--class-names", str(words))[galot]


def test_the_list_says_what_each_is_and_costs(tmp_path):
    lines = list(list_experiments(args_of("--output", str(tmp_path), "--scale", "small")))
    for name, experiment in EXPERIMENTS.items():
        at = next(i for i, line in enumerate(lines) if line.startswith((f"{name}:", f"{name} (")))
        assert experiment.title in lines[at] and experiment.mirrors in lines[at + 1]
        assert "PFLOP" in lines[at + 2] and "fits" in lines[at + 2]
    missing = args_of("--dataset", "CIFAR100", "--data-dir", str(tmp_path), "--output", "x")
    text = "\n".join(list_experiments(missing))
    assert text.count("cost not known: ") == 1 and "fig10: " in text


def test_the_list_tells_a_flag_that_one_experiment_sets_from_data_that_are_missing(tmp_path):
    lines = list(list_experiments(args_of("--template", "x {label}", "--output", str(tmp_path))))
    unknown = [i for i, line in enumerate(lines) if "cost not known" in line]
    assert all("--template" in lines[i] for i in unknown) and 0 < len(unknown) < 8
    with pytest.raises(UserError, match="unknown data set 'Nope'"):
        list(list_experiments(args_of("--dataset", "Nope")))


def test_only_data_of_the_papers_size_are_the_papers(tmp_path):
    rng = np.random.default_rng(0)

    def spec(n, m):
        x = np.broadcast_to(rng.integers(0, 255, (1, 8, 8, 3), np.uint8), (n, 8, 8, 3))
        y, test = np.arange(n) % 10, np.arange(m) % 10
        return DatasetSpec(
            "CIFAR10", x, y, x[:m], test, tuple("abcdefghij"), (0.5,) * 3, (1.0,) * 3
        )

    assert is_the_papers(spec(50_000, 10_000)) and not is_the_papers(spec(2_000, 100))


# -- what is kept of them ------------------------------------------------------------------------


def test_an_exhibit_is_read_as_it_was_written(tmp_path):
    arms = (ExhibitArm("a", "D/S/123", ("table1", "GALOT")), ExhibitArm("ε = 0", "D/S/456"))
    exhibit = Exhibit("table1", "t", "curves", "D", arms, "a", "D/F/789", ("note",))
    file = exhibit.save(tmp_path)
    assert find_exhibits(tmp_path) == [exhibit] and exhibit.save(tmp_path) == file
    other = Exhibit("table1", "t", "curves", "D", arms[:1])
    assert other.save(tmp_path) != file and len(find_exhibits(tmp_path)) == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 99}', '{"schema": 1, "arms": 3}'])
def test_a_damaged_exhibit_is_an_error_of_one_line(text, tmp_path):
    file = tmp_path / "exhibits" / "D" / "x.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(UserError, match="x.json: no readable exhibit"):
        find_exhibits(tmp_path)


@pytest.mark.parametrize("changed", [
    {"name": 5}, {"name": "../x"}, {"notes": [5]}, {"dataset": "a/b"}, {"title": None},
    {"baseline": 3}, {"judge": []}, {"arms": [{"label": "a", "folder": 3, "paper": None}]},
    {"arms": [{"label": "a", "folder": "b", "paper": ["c"]}]}, {"arms": [3]}, {"new": 1},
])  # fmt: skip
def test_an_exhibit_of_wrong_types_is_refused(changed, tmp_path):
    file = Exhibit("table1", "t", "curves", "D", (ExhibitArm("a", "D/S/1"),)).save(tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(UserError, match="no readable exhibit"):
        find_exhibits(tmp_path)


def test_an_exhibit_of_another_version_is_refused(tmp_path):
    file = Exhibit("table1", "t", "curves", "D", ()).save(tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"kind": "hologram"}))
    with pytest.raises(UserError, match="no readable exhibit"):
        find_exhibits(tmp_path)
