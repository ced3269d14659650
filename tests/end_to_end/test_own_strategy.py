"""A strategy of one's own with hyper-parameters, from its file to the table."""

import json

import pytest

from deepal_galot.cli import main
from deepal_galot.plugins import load_plugin
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

    settings = {**Mine.settings, "width": 2}
'''


@pytest.fixture
def play(tmp_path, capsys, no_report):
    """Runs these strategies; gives what is printed."""
    file = tmp_path / "mine.py"
    file.write_text(MINE)

    load_plugin(file)

    def run(*strategies, code=0, more=()):
        args = ["--output", tmp_path / "r", "--strategy", *strategies, *more]
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


def test_a_base_sampler_has_its_settings(tmp_path, play):
    galot = ["GALOT:base_sampler=Mine,width=3,epsilon=0", "GALOT:base_sampler=Mine,epsilon=0"]
    assert "made with 3 1.0 last" in play(*galot)
    play("GALOT:width=2,epsilon=0", more=["--base-sampler", "Mine"])
    folders = [RunFolder.open(tmp_path / "r" / p) for p in rows_of(tmp_path / "r", "GALOT")]
    assert sorted(f.config.settings for f in folders) == [(), (("width", 2),), (("width", 3),)]
    record = json.loads((folders[0].path / "config.json").read_bytes())
    assert record["config"]["settings"] == [list(pair) for pair in folders[0].config.settings]
    play("GALOT:base_sampler=Mine,width=5,mode=al")  # which is the sampler's own run
    assert picks(tmp_path, "Mine", "Mine:width=5")


@pytest.mark.parametrize(("written", "says"), [
    ("Mine:width=2.5", "width needs a whole number, not '2.5'"),
    ("Mine:scale=nan", "scale needs a number, not 'nan'"),
    ("Mine:scale=x", "scale needs a number, not 'x'"),
    ("Mine:widht=2", "unknown setting: did you mean width?"),
    ("MarginSampling:width=2", "unknown setting: "),
    ("GALOT:width=2", "unknown setting: "),
    ("GALOT:base_sampler=Mine,width=2,mode=gal", "nothing reads width in mode gal; leave it out"),
    ("GALOT:base_sampler=Mine,width=2,mode=full", "nothing reads width in mode full; leave it"),
])  # fmt: skip
def test_what_cannot_be_set(play, written, says):
    line = play(written, code=2)
    assert line.startswith("error: --strategy") and says in line, line


@pytest.mark.parametrize(("declared", "says"), [
    ("5", "settings must be a dict of numbers or text by name, not 5"),
    ("{'wide': True}", "not {'wide': True}"), ("{'a b': 1}", "not {'a b': 1}"),
    ("{'w': None}", "not {'w': None}"),
    ("{'lr': 0.1}", "settings: lr is the benchmark's own; give it another name"),
])  # fmt: skip
def test_what_cannot_be_declared(tmp_path, capsys, declared, says):
    file = tmp_path / "mine.py"
    file.write_text(f"from query_strategies.random_sampling import RandomSampling\n"
                    f"class Mine(RandomSampling):\n    settings = {declared}\n")  # fmt: skip
    args = ["--plugin", str(file), "--strategy", "Mine", "--output", str(tmp_path / "r")]
    assert main([*QUICK, *args]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: the strategy Mine: settings") and says in last, last
