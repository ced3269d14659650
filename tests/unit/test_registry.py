"""Names, suggestions, clashes, and plug-in files that go wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deepal_galot import registry
from deepal_galot.errors import UserError


def plugin(tmp_path, text, name="mine.py"):
    path = tmp_path / name
    path.write_text(text)
    return path


STRATEGY = (
    "from .strategy import Strategy\nclass Mine(Strategy):\n    def query(self, n): return []\n"
)


def test_alias_and_case():
    assert registry.strategies.get("randomsampling").__name__ == "RandomSampling"
    assert registry.strategies.get("GALOT (basic)").__name__ == "GALOTBasic"


@pytest.mark.parametrize("typo", ["MarginSampler", "galott", "RandomSamplng"])
def test_typos_get_a_suggestion(typo):
    with pytest.raises(UserError, match="did you mean"):
        registry.strategies.get(typo)
    with pytest.raises(UserError, match="known: .*tiny"):
        registry.generators.get("zzz")


def test_plugin_is_found_and_hashed(tmp_path):
    path = plugin(tmp_path, STRATEGY)
    assert registry.load_plugin(path) == ["Mine"]
    assert registry.strategies.get("mine").__module__ == "query_strategies.mine"
    assert registry.strategies.sources("Mine") == [path.resolve()]
    assert registry.strategies.sources("GALOT") == []
    assert registry.generators.sources("folder:somewhere") == []


def test_the_sources_of_a_plugin_are_its_bases_and_what_it_imports_beside_it(tmp_path, monkeypatch):
    """Before, an edited base class or helper left the results of the old one in place."""
    monkeypatch.syspath_prepend(tmp_path)
    files = {
        "base.py": STRATEGY.replace("Mine", "MyBase"),
        "derived.py": "from query_strategies.base import MyBase\n"
        "import my_helper, json\nfrom my_package.part import X\n"
        "class Derived(MyBase):\n    pass\n",
        "my_helper.py": "import my_other\n",
        "my_other.py": "import my_helper\n",
        "my_package/__init__.py": "",
        "my_package/part.py": "from . import deep\nX = 1\n",
        "my_package/deep.py": "",
        "unrelated.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    registry.load_plugin(tmp_path / "base.py")
    registry.load_plugin(tmp_path / "derived.py")
    found = {p.relative_to(tmp_path.resolve()).as_posix() for p in
             registry.strategies.sources("Derived")}  # fmt: skip
    assert found == set(files) - {"unrelated.py"}
    assert registry.strategies.sources("MyBase") == [(tmp_path / "base.py").resolve()]


def test_the_sources_of_a_file_in_an_open_folder(tmp_path, monkeypatch):
    """Its helpers lie there, too; what the package ships is not among them."""
    folder = tmp_path / "query_strategies"
    folder.mkdir()
    monkeypatch.setattr(registry, "PACKAGE_ROOT", tmp_path)
    for name, text in {
        "mine.py": "from .strategy import Strategy\nfrom .near import K\n"
        "from query_strategies.far import L\nimport deepal_galot.pool\n",
        "near.py": "from .nearer import M\n", "nearer.py": "from ......... import too_deep\n",
        "far.py": "", "strategy.py": "",
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    (tmp_path / "deepal_galot").mkdir()
    (tmp_path / "deepal_galot" / "pool.py").write_text("")
    own = {path.name for path in registry._imported_own(folder / "mine.py")}
    assert own == {"near.py", "nearer.py", "far.py"}
    outside = tmp_path / "elsewhere" / "plugin.py"
    outside.parent.mkdir()
    outside.write_text("from .near import K\nfrom .strategy import Strategy\n")
    own = {path.name for path in registry._imported_own(outside)}
    assert own == {"near.py", "nearer.py"}


def test_where_a_helper_lies_is_said(tmp_path):
    (tmp_path / "my_lost_helper.py").write_text("")
    says = rf"my_lost_helper.py is found with PYTHONPATH={tmp_path.resolve()}$"
    with pytest.raises(UserError, match=says):
        registry.load_plugin(plugin(tmp_path, "import my_lost_helper\n" + STRATEGY))


@pytest.mark.parametrize("kind", registry.ALL.values(), ids=list(registry.ALL))
def test_what_lies_in_an_open_folder_and_is_not_shipped_is_its_users(kind, monkeypatch):
    """Before, an edited file there left the results of the old one in place."""
    folder = registry.PACKAGE_ROOT.joinpath(*kind.package.split("."))
    if (registry.PACKAGE_ROOT / ".git").exists():
        tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=folder, capture_output=True,
                                 text=True, check=True).stdout.split()  # fmt: skip
        shipped = {name.removesuffix(".py") for name in tracked if "/" not in name} - {"__init__"}
        assert shipped == set(registry.SHIPPED[kind.package].split())
    name = next(n for n in kind.names() if n not in kind._plugins)
    module = sys.modules[kind.get(name).__module__]
    others = registry.SHIPPED[kind.package].replace(module.__name__.rpartition(".")[2], "")
    monkeypatch.setitem(registry.SHIPPED, kind.package, others)
    monkeypatch.setattr(kind, "_classes", None)
    assert kind.sources(name) == [Path(module.__file__).resolve()]


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
        registry.load_plugin(plugin(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_only_what_passed_through_a_plugin_is_its_fault(tmp_path):
    """Not an error of ours that has a line number of its own, or names one."""
    registry.load_plugin(plugin(tmp_path, STRATEGY.replace("[]", "n.nothing"), "fine.py"))
    assert registry.plugin_fault(ValueError("our own (line 7)")) is None
    with pytest.raises(json.JSONDecodeError) as raised:
        json.loads("{")
    assert registry.plugin_fault(raised.value) is None
    with pytest.raises(AttributeError) as raised:
        registry.strategies.get("Mine").query(None, 1)
    assert registry.plugin_fault(raised.value).endswith("'nothing' (line 3)")


def test_a_full_disk_is_no_plugins_fault(tmp_path):
    text = STRATEGY.replace("[]", "open('/dev/full', 'w', buffering=1).write('x\\n')")
    registry.load_plugin(plugin(tmp_path, text, "writes.py"))
    with pytest.raises(OSError, match="No space left") as raised:
        registry.strategies.get("Mine").query(None, 1)
    assert registry.plugin_fault(raised.value) is None


def test_a_class_without_a_docstring_has_no_line_of_its_bases(tmp_path):
    registry.load_plugin(plugin(tmp_path, STRATEGY, "silent.py"))
    assert ("Mine", "") in registry.strategies.describe()


def test_plugin_file_must_exist_and_not_shadow(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        registry.load_plugin(tmp_path / "none.py")
    with pytest.raises(UserError, match=r"is loaded already, .*query_strategies/galot\.py"):
        registry.load_plugin(plugin(tmp_path, STRATEGY, "galot.py"))


def test_a_foreign_generators_folder_is_refused(tmp_path):
    (tmp_path / "generators").mkdir()
    (tmp_path / "generators" / "__init__.py").write_text("")
    code = "from deepal_galot import registry; registry.generators.names()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert "UserError" in done.stderr and "run from another folder" in done.stderr


def test_a_plugin_can_be_given_a_name(tmp_path):
    """So that a class whose name is taken runs beside the one that has it."""
    path = plugin(tmp_path, STRATEGY.replace("Mine", "MarginSampling"), "margin_sampling.py")
    for refused in (path, plugin(tmp_path, path.read_text(), "other.py")):
        with pytest.raises(UserError, match="--plugin NAME="):
            registry.load_plugin(refused)
    assert registry.load_plugin(f"Theirs={path}") == ["Theirs"]
    assert registry.strategies.get("theirs").__name__ == "MarginSampling"
    assert registry.strategies.get("MarginSampling") is not registry.strategies.get("Theirs")
    assert registry.strategies.sources("Theirs") == [path.resolve()]
    with pytest.raises(UserError, match="defines 2 strategies"):
        both = STRATEGY + STRATEGY.replace("Mine", "Another").split("Strategy\n", 1)[-1]
        registry.load_plugin(f"Two={plugin(tmp_path, both, 'two.py')}")
    with pytest.raises(UserError, match="already taken"):
        registry.load_plugin(f"GALOT={path}")


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
            registry.load_plugin(source)
    file.write_text(NEEDY.replace("self.args_task['loader_te_args']", "list(range(n))"))
    assert registry.load_plugin(file) == ["WAAL"]  # somebody's own of that name


def test_a_name_for_a_plugin_is_a_word(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(NEEDY.replace("self.args_task['loader_te_args']", "list(range(n))"))
    with pytest.raises(UserError, match="the name 'a-b' must be letters, digits and _"):
        registry.load_plugin(f"a-b={file}")
