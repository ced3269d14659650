"""A strategy of one's own with hyper-parameters, from its file to the table."""

import json

import pytest

from deepal_galot.cli import main
from deepal_galot.results import RunFolder, label_of
from helpers import QUICK, rows_of

MINE = '''
from query_strategies.strategy import Strategy


class Mine(Strategy):
    """images of the highest index, from every width-th one"""

    settings = {"width": 1, "scale": 1.0, "order": "last"}

    def __init__(self, *args):
        super().__init__(*args)
        print("made with", *self.settings.values())

    def query(self, n):
        idxs, _ = self.dataset.get_unlabeled_data()
        return idxs[:: self.settings["width"]][-n:]


class Wider(Mine):
    """twice as wide"""

    settings = {"width": 2}
'''


OF_MINE = '''
from query_strategies.galot import GALOT


class OfMine(GALOT):
    """Mine's picks and plain images"""

    {how} = {{"base_sampler": "Mine", "epsilon": 0.0}}
'''
BOTH = '''
from query_strategies.galot import GALOT


class Both(GALOT):
    """a name twice"""

    settings = {"width": 1.5}
    fixed = {"base_sampler": "Mine"}
'''


@pytest.fixture
def play(tmp_path, capsys, no_report):
    """Runs these strategies; gives what is printed."""
    file = tmp_path / "mine.py"
    file.write_text(MINE + BOTH)

    def run(*strategies, code=0, more=()):
        args = ["--plugin", file, "--output", tmp_path / "r", "--strategy", *strategies, *more]
        assert main([*QUICK, *map(str, args)]) == code
        said = capsys.readouterr()
        return said.out if code == 0 else said.err.strip().splitlines()[-1]

    return run


def picks(tmp_path, strategy, label):
    """What the runs of that label bought in round 1."""
    found = [RunFolder.open(tmp_path / "r" / path) for path in rows_of(tmp_path / "r", strategy)]
    (folder,) = [f for f in found if label_of(strategy, f.settings) == label]
    return folder.picks()[1].tolist()


def test_each_value_is_a_run_and_a_label_of_its_own(tmp_path, play):
    said = play("Mine", "Mine:width=3,scale=0.5,order=first", "Wider", "Wider:width=2,scale=1")
    assert [line for line in said.splitlines() if line.startswith("made")] == [
        "made with 1 1.0 last", "made with 3 0.5 first", "made with 2 1.0 last",
    ]  # fmt: skip
    one = picks(tmp_path, "Mine", "Mine")
    three = picks(tmp_path, "Mine", "Mine:order=first,scale=0.5,width=3")
    two = picks(tmp_path, "Wider", "Wider")  # its defaults, written or not
    assert [b - a for a, b in zip(one, one[1:], strict=False)] == [1, 1, 1, 1]
    assert all(b - a >= 3 for a, b in zip(three, three[1:], strict=False))
    assert all(b - a >= 2 for a, b in zip(two, two[1:], strict=False))
    assert "made" not in play("Mine:width=3,order=first,scale=0.5")  # the same run, so finished


def test_a_base_sampler_has_its_settings(tmp_path, play, capsys):
    galot = ["GALOT:base_sampler=Mine,width=3,epsilon=0", "GALOT:base_sampler=Mine,epsilon=0"]
    assert "made with 3 1.0 last" in play(*galot)
    play("GALOT:width=2,epsilon=0", more=["--base-sampler", "Mine"])
    folders = [RunFolder.open(tmp_path / "r" / p) for p in rows_of(tmp_path / "r", "GALOT")]
    assert sorted(f.config.settings for f in folders) == [(), (("width", 2),), (("width", 3),)]
    record = json.loads((folders[0].path / "config.json").read_bytes())
    assert record["config"]["settings"] == [list(pair) for pair in folders[0].config.settings]
    play("GALOT:base_sampler=Mine,width=5,mode=al")  # which is the sampler's own run
    assert "changes nothing" not in capsys.readouterr().err
    assert picks(tmp_path, "Mine", "Mine:width=5")


@pytest.mark.parametrize(("written", "says"), [
    ("Mine:width=2.5", "width needs a whole number, not '2.5'"),
    ("Mine:scale=nan", "scale needs a number, not 'nan'"),
    ("Mine:scale=x", "scale needs a number, not 'x'"),
    ("Mine:widht=2", "unknown setting: did you mean width? (its own: width, scale, order)"),
    ("Mine:qqqqqq=2", "unknown setting: see --help (its own: width, scale, order)"),
    ("GALOT:base_sampler=Mine,qqqqqq=2", "see --help (its own: width, scale, order)"),
    ("MarginSampling:width=2", "unknown setting: "),
    ("Mine:order=\udcff", "order needs text on one line, not"),
    ("Both:width=2", "its base sampler Mine has a setting width, too; give one of them another"),
    ("GALOT:width=2", "unknown setting: "),
    ("GALOT:base_sampler=Mine,width=2,mode=gal", "nothing reads width in mode gal; leave it out"),
    ("GALOT:base_sampler=Mine,width=2,mode=full", "nothing reads width in mode full; leave it"),
])  # fmt: skip
def test_what_cannot_be_set(play, written, says):
    line = play(written, code=2)
    assert line.startswith("error: ") and says in line, line


@pytest.mark.parametrize("strategy", ["GALOT", "GALOTBasic", "RandomSampling"])
def test_a_base_samplers_settings_stand_behind_the_strategys_name(play, strategy):
    """Before, the answer to Mine:width=2 was: did you mean Mine?"""
    line = play(strategy, code=2, more=["--base-sampler", "Mine:width=2,order=first"])
    whose = strategy.replace("RandomSampling", "GALOT")  # which has no base sampler
    says = f"write --strategy {whose}:base_sampler=Mine,width=2,order=first"
    assert line == f"error: base sampler 'Mine:width=2,order=first': takes a name alone; {says}"


@pytest.mark.parametrize(("declared", "says"), [
    ("5", "settings must be a dict of numbers or text by name, not 5"),
    ("{'wide': True}", "not {'wide': True}"), ("{'a b': 1}", "not {'a b': 1}"),
    ("{'w': None}", "not {'w': None}"),
    ("{'lr': 0.1}", "settings: lr is the benchmark's own; give it another name"),
    ("{'seed': 1}", "settings: seed is the benchmark's own; give it another name"),
])  # fmt: skip
def test_what_cannot_be_declared(tmp_path, capsys, declared, says):
    file = tmp_path / "mine.py"
    file.write_text(f"from query_strategies.random_sampling import RandomSampling\n"
                    f"class Mine(RandomSampling):\n    settings = {declared}\n")  # fmt: skip
    args = ["--plugin", str(file), "--strategy", "Mine", "--output", str(tmp_path / "r")]
    assert main([*QUICK, *args]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: the strategy Mine: settings") and says in last, last


@pytest.mark.parametrize("how", ["preset", "fixed"])
def test_a_strategy_may_name_the_base_sampler_itself(tmp_path, play, how):
    """Before, its settings were unknown."""
    (tmp_path / "of_mine.py").write_text(OF_MINE.format(how=how))
    assert "made with 4 1.0 last" in play(
        "OfMine:width=4", more=["--plugin", tmp_path / "of_mine.py"]
    )


def test_beside_galot_a_strategy_keeps_its_settings_in_the_table(tmp_path, capsys):
    """Before, both were called Mine, for the setting is what all of GALOT's runs share; and the
    control that the report asked for was another one."""
    (tmp_path / "mine.py").write_text(MINE)
    args = ["--plugin", tmp_path / "mine.py", "--output", tmp_path / "r", "--strategy"]
    strategies = ["Mine", "Mine:width=12", "Mine:width=5", "GALOT:base_sampler=Mine,width=12"]
    assert main([*QUICK, *map(str, args), *strategies]) == 0
    out = capsys.readouterr().out
    rows = [line.split()[0] for line in out.splitlines() if line.startswith(("Mine", "GALOT "))]
    assert rows[:4] == ["Mine", "Mine:width=5", "Mine:width=12", "GALOT"]
    assert "points of average accuracy above Mine:width=12," in out
    assert 'run "GALOT:epsilon=0,base_sampler=Mine,' in out and ',width=12" too' in out


def test_what_is_edited_between_two_commands_of_a_process_runs_as_it_is(
    tmp_path, capsys, monkeypatch, no_report
):
    """As in a notebook: the file itself, its helper, and the file of its base class. Before, old
    code ran and was recorded as new."""
    monkeypatch.syspath_prepend(tmp_path)
    base, mine, helper = (tmp_path / f"{n}.py" for n in ("edited_base", "edited", "edited_helper"))
    args = ["--plugin", base, "--plugin", mine, "--strategy", "Edited", "--output", tmp_path / "r"]

    def played(a, b, c):
        base.write_text(f"from query_strategies.random_sampling import RandomSampling\n"
                        f"class Base(RandomSampling):\n    BASE = {a}\n")  # fmt: skip
        helper.write_text(f"HELPER = {b}\n")
        mine.write_text(
            "from query_strategies.edited_base import Base\nfrom edited_helper import HELPER\n"
            f"class Edited(Base):\n    def query(self, n):\n"
            f"        print('runs', self.BASE, HELPER, {c})\n        return super().query(n)\n"
        )
        assert main([*QUICK, *map(str, args)]) == 0
        return [x for x in capsys.readouterr().out.splitlines() if x.startswith("runs")]

    assert played(1, 2, 3) == ["runs 1 2 3"]
    assert played(1, 22, 3) == ["runs 1 22 3"]
    assert played(111, 22, 3) == ["runs 111 22 3"]
    assert played(111, 22, 3333) == ["runs 111 22 3333"]
    assert main([*QUICK, "--strategy", "Edited", "--output", str(tmp_path / "r")]) == 2
    assert "unknown strategy 'Edited'" in capsys.readouterr().err
