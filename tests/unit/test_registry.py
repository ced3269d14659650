"""Names, suggestions, clashes, and of which files a class is made."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from deepal_galot import registry
from deepal_galot.errors import UserError
from deepal_galot.plugins import forget_plugins, load_plugin
from helpers import STRATEGY, plugin


def test_alias_and_case():
    assert registry.strategies.get("randomsampling").__name__ == "RandomSampling"
    assert registry.strategies.get("GALOT (basic)").__name__ == "GALOTBasic"


@pytest.mark.parametrize("typo", ["MarginSampler", "galott", "RandomSamplng"])
def test_typos_get_a_suggestion(typo):
    with pytest.raises(UserError, match="did you mean"):
        registry.strategies.get(typo)
    with pytest.raises(UserError, match="known: .*tiny"):
        registry.generators.get("zzz")


@pytest.mark.parametrize("kind", registry.ALL)
def test_an_unknown_name_may_be_of_a_class_of_ones_own(kind):
    for name in ("zzz", registry.ALL[kind].names()[0] + "s"):
        with pytest.raises(UserError, match=r" \(a class of your own needs --plugin FILE\)$"):
            registry.ALL[kind].get(name)


USELESS = """
class Plain: pass
class Unfinished(Generator):
    def encode(self, prompts): pass
class _Part(Strategy):
    def query(self, n): return []
class Other(Strategy):
    name = "Another"
    def query(self, n): return []
"""


@pytest.mark.parametrize(("kind", "name", "says"), [
    ("classifiers", "plain",
     r"Plain in .*useless.py is no classifier: it is not a subclass of deepal.*\.Classifier$"),
    ("data sets", "Mine", r"no data set: it is not a subclass of deepal_galot.*\.Dataset$"),
    ("generators", "Unfinished", "used: it lacks __init__, content_hash, identity, sample$"),
    ("strategies", "_Part", "cannot be used: its name begins with _"),
    ("strategies", "Other", "Other in .* is called Another here$"),
    ("strategies", "Oter", r"unknown strategy 'Oter': .* needs --plugin FILE\)$"),
])  # fmt: skip
def test_why_a_class_of_ones_own_is_not_known(tmp_path, kind, name, says):
    """Before, --plugin FILE was asked for although it was given."""
    load_plugin(plugin(tmp_path, f"from generators.base import Generator\n{STRATEGY}{USELESS}",
                       "useless.py"))  # fmt: skip
    with pytest.raises(UserError, match=says):
        registry.ALL[kind].get(name)


def test_plugin_is_found_and_hashed(tmp_path):
    path = plugin(tmp_path, STRATEGY)
    assert load_plugin(path) == ["Mine"]
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
        "my_package/part.py": "from . import deep\nfrom .inner.most import X\n",
        "my_package/deep.py": "",
        "my_package/inner/__init__.py": "",
        "my_package/inner/most.py": "from ..beyond import X\n",
        "my_package/beyond.py": "X = 1\n",
        "unrelated.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    load_plugin(tmp_path / "base.py")
    load_plugin(tmp_path / "derived.py")
    found = {p.relative_to(tmp_path.resolve()).as_posix() for p in
             registry.strategies.sources("Derived")}  # fmt: skip
    assert found == set(files) - {"unrelated.py"}
    assert registry.strategies.sources("MyBase") == [(tmp_path / "base.py").resolve()]


def test_a_plugins_hash_is_of_all_of_its_files(tmp_path):
    files = [plugin(tmp_path, "one", "a.py"), plugin(tmp_path, "two", "b.py")]
    before = registry.files_hash(files)
    files[1].write_text("three")
    assert registry.files_hash(files) != before


def test_files_are_named_as_they_lie_to_each_other(tmp_path):
    files = {"own/mine.py": "1", "own/parts/a.py": "2", "base/mine.py": "3"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    of_own = [tmp_path / name for name in files if name.startswith("own")]
    assert registry.as_they_lie(of_own) == {"mine.py": b"1", "parts/a.py": b"2"}
    every = registry.as_they_lie([tmp_path / name for name in files])  # a base class elsewhere
    assert every == {name: text.encode() for name, text in files.items()}


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
    own = {path.name for path in registry.imported_own(folder / "mine.py")}
    assert own == {"near.py", "nearer.py", "far.py"}
    outside = tmp_path / "elsewhere" / "plugin.py"
    outside.parent.mkdir()
    outside.write_text("from .near import K\nfrom .strategy import Strategy\n")
    own = {path.name for path in registry.imported_own(outside)}
    assert own == {"near.py", "nearer.py"}


@pytest.mark.parametrize("kind", registry.ALL.values(), ids=list(registry.ALL))
def test_what_lies_in_an_open_folder_and_is_not_shipped_is_its_users(kind, monkeypatch):
    """Before, an edited file there left the results of the old one in place."""
    folder = registry.PACKAGE_ROOT.joinpath(*kind.package.split("."))
    if (registry.PACKAGE_ROOT / ".git").exists():
        tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=folder, capture_output=True,
                                 text=True, check=True).stdout.split()  # fmt: skip
        shipped = {name.removesuffix(".py") for name in tracked if "/" not in name} - {"__init__"}
        assert shipped == set(registry.SHIPPED[kind.package].split())
    name = next(n for n in kind.names() if n not in kind.plugin_files)
    module = sys.modules[kind.get(name).__module__]
    others = registry.SHIPPED[kind.package].replace(module.__name__.rpartition(".")[2], "")
    monkeypatch.setitem(registry.SHIPPED, kind.package, others)
    monkeypatch.setattr(kind, "_classes", None)
    assert kind.sources(name) == [Path(module.__file__).resolve()]


def test_a_class_without_a_docstring_has_no_line_of_its_bases(tmp_path):
    load_plugin(plugin(tmp_path, STRATEGY, "silent.py"))
    assert ("Mine", "") in registry.strategies.describe()


def test_a_foreign_generators_folder_is_refused(tmp_path):
    (tmp_path / "generators").mkdir()
    (tmp_path / "generators" / "__init__.py").write_text("")
    code = "from deepal_galot import registry; registry.generators.names()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert "UserError" in done.stderr and "run from another folder" in done.stderr


def test_an_edited_file_of_an_open_folder_is_read_anew(tmp_path, monkeypatch):
    """By the next command of a process. Before, old code ran and was recorded as new."""
    package = importlib.import_module("query_strategies")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    file = plugin(tmp_path, STRATEGY, "dropped_in.py")
    monkeypatch.setattr(registry.strategies, "_classes", None)
    assert registry.strategies.get("Mine").query(None, 1) == []
    assert registry.strategies.sources("Mine") == [file.resolve()]
    file.write_text(STRATEGY.replace("[]", "[1, 2]"))
    forget_plugins()
    assert registry.strategies.get("Mine").query(None, 1) == [1, 2]
    file.unlink()
    forget_plugins()
    assert "Mine" not in registry.strategies and "GALOT" in registry.strategies
