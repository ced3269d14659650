"""Plug-in files: how they are loaded, named and found at fault."""

import json

import pytest

from deepal_galot import registry
from deepal_galot.errors import UserError
from deepal_galot.plugins import load_plugin, plugin_fault
from helpers import ROOT, STRATEGY, plugin


def test_where_a_helper_lies_is_said(tmp_path):
    (tmp_path / "my_lost_helper.py").write_text("")
    says = rf"my_lost_helper.py is found with PYTHONPATH={tmp_path.resolve()}$"
    with pytest.raises(UserError, match=says):
        load_plugin(plugin(tmp_path, "import my_lost_helper\n" + STRATEGY))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nothing_of_that_name", r"ModuleNotFoundError.*\(line 1\)"),
        ("x = 1\ny = 1 / 0\n", r"ZeroDivisionError.*\(line 2\)"),
        ("def f(:\n", "SyntaxError"),
        ("x = 1\n", "defines no strategy"),
        (STRATEGY.replace("Mine", "GALOT"), "already taken by .*galot.py"),
    ],
)
def test_bad_plugins_get_one_line(tmp_path, text, says):
    with pytest.raises(UserError, match=says) as caught:
        load_plugin(plugin(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_only_what_passed_through_a_plugin_is_its_fault(tmp_path):
    """Not an error of ours that has a line number of its own, or names one."""
    load_plugin(plugin(tmp_path, STRATEGY.replace("[]", "n.nothing"), "fine.py"))
    assert plugin_fault(ValueError("our own (line 7)")) is None
    with pytest.raises(json.JSONDecodeError) as raised:
        json.loads("{")
    assert plugin_fault(raised.value) is None
    with pytest.raises(AttributeError) as raised:
        registry.strategies.get("Mine").query(None, 1)
    assert plugin_fault(raised.value).endswith("'nothing' (line 3)")


def test_a_full_disk_is_no_plugins_fault(tmp_path):
    text = STRATEGY.replace("[]", "open('/dev/full', 'w', buffering=1).write('x\\n')")
    load_plugin(plugin(tmp_path, text, "writes.py"))
    with pytest.raises(OSError, match="No space left") as raised:
        registry.strategies.get("Mine").query(None, 1)
    assert plugin_fault(raised.value) is None


def test_plugin_file_must_exist_and_not_shadow(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_plugin(tmp_path / "none.py")
    with pytest.raises(UserError, match=r"is loaded already, .*query_strategies/galot\.py"):
        load_plugin(plugin(tmp_path, STRATEGY, "galot.py"))
    with pytest.raises(UserError, match=r"is loaded already, .*query_strategies/galot\.py"):
        load_plugin(ROOT / "query_strategies" / "galot.py")


def test_a_plugin_can_be_given_a_name(tmp_path):
    """So that a class whose name is taken runs beside the one that has it."""
    path = plugin(tmp_path, STRATEGY.replace("Mine", "MarginSampling"), "margin_sampling.py")
    for refused in (path, plugin(tmp_path, path.read_text(), "other.py")):
        with pytest.raises(UserError, match="--plugin NAME="):
            load_plugin(refused)
    assert load_plugin(f"Theirs={path}") == ["Theirs"]
    assert registry.strategies.get("theirs").__name__ == "MarginSampling"
    assert registry.strategies.get("MarginSampling") is not registry.strategies.get("Theirs")
    assert registry.strategies.sources("Theirs") == [path.resolve()]
    with pytest.raises(UserError, match="defines 2 strategies"):
        both = STRATEGY + STRATEGY.replace("Mine", "Another").split("Strategy\n", 1)[-1]
        load_plugin(f"Two={plugin(tmp_path, both, 'two.py')}")
    with pytest.raises(UserError, match="already taken"):
        load_plugin(f"GALOT={path}")


NEEDY = """
from .strategy import Strategy

class WAAL(Strategy):
    def query(self, n):
        return self.args_task['loader_te_args']
"""


def test_what_needs_more_than_a_query_is_refused_before_it_runs(tmp_path):
    file = tmp_path / "waal.py"
    file.write_text(NEEDY)
    for source in (file, f"Mine={file}"):
        with pytest.raises(
            UserError, match="DeepALPlus's WAAL cannot run here: it reads the parts"
        ):
            load_plugin(source)
    file.write_text(NEEDY.replace("self.args_task['loader_te_args']", "list(range(n))"))
    assert load_plugin(file) == ["WAAL"]  # somebody's own of that name


def test_a_name_for_a_plugin_is_a_word(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(NEEDY.replace("self.args_task['loader_te_args']", "list(range(n))"))
    with pytest.raises(UserError, match="the name 'a-b' must be letters, digits and _"):
        load_plugin(f"a-b={file}")
