"""Name -> class, for the four folders that anybody may add a file to.

A strategy, generator, data set or classifier is a subclass of its kind's base class, written in
any file of that kind's folder or in a plug-in file. Its name is the class attribute `name`, or the
class name; `aliases` are further names; the first line of its docstring is its help.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from .errors import UserError, did_you_mean

# DeepALPlus's strategies that run in its own demo alone, and why.
NEEDS_MORE = {
    "CEALSampling": "its query takes the round as well and gives a training set beside its picks",
    "LossPredictionLoss": "it reads a loss module of a network of its own (nets_lossprediction.py)",
    "VAAL": "it trains a VAE and a discriminator of its own (nets.py) on pairs of images",
    "WAAL": "it reads the parts of a network of its own, which it trains on the unlabeled pool "
    "(nets_waal.py)",
}
PACKAGE_ROOT = Path(__file__).resolve().parent.parent
OURS = ("deepal_galot", "query_strategies", "generators", "run_benchmark")
# What the package ships in the open folders. Any other file there is its user's, as a plug-in is.
SHIPPED = {
    "query_strategies": (
        "badge_sampling bald_dropout entropy_sampling entropy_sampling_dropout gaal galot "
        "galot_basic galot_matched kcenter_greedy kcenter_greedy_pca kmeans_sampling "
        "least_confidence least_confidence_dropout loss_prediction_loss margin_sampling "
        "margin_sampling_dropout mean_std monte_carlo random_sampling strategy var_ratio"
    ),
    "generators": (
        "attention_kernel base diffusion flops folder group_norm image_store memory networks "
        "prompts stable_diffusion text_optimization tiny weights"
    ),
    "deepal_galot.datasets": (
        "arrays base class_names digits pneumonia_mnist published tiny_imagenet "
        "tiny_imagenet_words torchvision_sets user_data"
    ),
    "deepal_galot.classifiers": ("base densenet121 dla mobilenetv2 resnet18 small_cnn vgg16"),
}


def files_hash(files: Sequence[Path]) -> str:
    """Sixteen hex digits over the bytes of files."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


class Registry:
    """All classes of one kind, discovered in one folder on first use."""

    def __init__(self, kind: str, package: str, base: str) -> None:
        """
        Args:
            kind: what the error messages call it, e.g. "strategy".
            package: the open folder, as a package name.
            base: "module:Class" of the base class.
        """
        self.kind, self.package, self._base_path = kind, package, base
        self._classes: dict[str, type] | None = None
        self._plugins: dict[str, Path] = {}

    @property
    def base(self) -> type:
        """The base class; imported late because it lives in the folder itself."""
        module, _, name = self._base_path.partition(":")
        return getattr(importlib.import_module(module), name)

    def names(self) -> list[str]:
        """Canonical names, sorted."""
        return sorted(self._discovered())

    def get(self, name: str) -> type:
        """The class of that name or alias, whatever its case.

        Raises:
            UserError: no such name; suggests the nearest.
        """
        by_fold = {n.casefold(): cls for n, cls in self._names_and_aliases()}
        if name.casefold() in by_fold:
            return by_fold[name.casefold()]
        known = [n for n, _ in self._names_and_aliases()]
        raise UserError(f"unknown {self.kind} {name!r}: {did_you_mean(name, known)}")

    def __contains__(self, name: str) -> bool:
        return name.casefold() in {n.casefold() for n, _ in self._names_and_aliases()}

    def _names_and_aliases(self) -> list[tuple[str, type]]:
        return [(n, cls) for c, cls in self._discovered().items() for n in (c, *_aliases(cls))]

    def describe(self) -> list[tuple[str, str]]:
        """(name with its aliases, first docstring line) of each class, for --list."""
        rows = []
        for name, cls in sorted(self._discovered().items()):
            also = f" ({', '.join(_aliases(cls))})" if _aliases(cls) else ""
            rows.append((name + also, inspect.cleandoc(cls.__doc__ or "").split("\n")[0]))
        return rows

    def sources(self, name: str) -> list[Path]:
        """The files of the user's own that this name's class is made of, its own first: those of
        its base classes, and what of them is imported. Empty for what the package ships."""
        bases = getattr(self._discovered().get(name), "__mro__", ())
        own = {path for registry in ALL.values() for path in registry._plugins.values()}
        files: dict[Path, None] = {}
        for cls in bases:
            file = Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or "").resolve()
            if file in own:
                files |= dict.fromkeys([file, *_imported_own(file)])
        return list(files)

    def add_from(self, module: ModuleType, plugin: Path | None = None) -> list[str]:
        """Register every subclass of the base that is defined in this module.

        Args:
            plugin: its file, if it is the user's own.

        Raises:
            UserError: a name or alias is taken by a class of another file.
        """
        classes, added = self._discovered(), []
        for cls in vars(module).values():
            if not self._belongs(cls, module):
                continue
            _check_names(cls)
            self._refuse_clash(cls, classes)
            classes[class_name(cls)] = cls
            added.append(class_name(cls))
            if plugin is not None:
                self._plugins[class_name(cls)] = plugin
        return added

    def _belongs(self, cls: object, module: ModuleType) -> bool:
        return (
            inspect.isclass(cls)
            and issubclass(cls, self.base)
            and cls is not self.base
            and cls.__module__ == module.__name__
            and not inspect.isabstract(cls)
            and not cls.__name__.startswith("_")
        )

    def _refuse_clash(self, cls: type, classes: dict[str, type]) -> None:
        taken = {n.casefold(): c for c in classes.values() for n in (class_name(c), *_aliases(c))}
        for name in (class_name(cls), *_aliases(cls)):
            other = taken.get(name.casefold())
            if other is not None and other is not cls:
                raise UserError(
                    f"the {self.kind} name {name!r} of {inspect.getfile(cls)} is already taken by "
                    f"{inspect.getfile(other)}: rename one of the classes, or give the plug-in's "
                    f"a name of its own: --plugin NAME=FILE"
                )

    def _discovered(self) -> dict[str, type]:
        if self._classes is None:
            self._classes = {}
            package = importlib.import_module(self.package)
            _check_is_ours(package, self.package)
            for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda i: i.name):
                if not info.ispkg:
                    module = importlib.import_module(f"{self.package}.{info.name}")
                    shipped = info.name in SHIPPED[self.package].split()
                    self.add_from(module, None if shipped else Path(module.__file__).resolve())
        return self._classes


def _imported_own(file: Path) -> list[Path]:
    """What a user's Python file imports, directly or not, of files that are the user's as well:
    beside it or below, or in the open folders."""
    found, todo = [file], [file]
    while todo:
        for path in _imports(todo.pop(), file):
            for module in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
                if module.is_file() and module not in found and not _shipped(module):
                    found.append(module)
                    todo.append(module)
    return found[1:]


def _imports(module: Path, plugin: Path) -> Iterator[Path]:
    """Where the modules that a plug-in, or one of its own, imports would lie, without suffix."""
    try:
        tree = ast.parse(module.read_bytes())
    except (SyntaxError, ValueError):  # what it imports is not known; its bytes are
        return
    # Where `from .` leads to: a plug-in is loaded as one of the open folder's.
    inside = PACKAGE_ROOT / "query_strategies" if module == plugin else module.parent
    if plugin.parent in map(_folder, SHIPPED):
        inside = module.parent
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            level, dotted = 0, [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            level = node.level
            dotted = [".".join(filter(None, (node.module, a.name))) for a in node.names]
        else:
            continue
        for parts in (name.split(".") for name in dotted):
            top = PACKAGE_ROOT if parts[0] in OURS else plugin.parent
            if level:
                top = [inside, *inside.parents][min(level, len(inside.parents)) - 1]
            yield from (top.joinpath(*parts[: i + 1]) for i in range(len(parts)))


def _folder(package: str) -> Path:
    return PACKAGE_ROOT.joinpath(*package.split("."))


def _shipped(file: Path) -> bool:
    """Whether a file is the package's own."""
    for package, names in SHIPPED.items():
        if file.parent == _folder(package):
            return file.stem in ("__init__", *names.split())
    parts = file.relative_to(PACKAGE_ROOT).parts if file.is_relative_to(PACKAGE_ROOT) else ("",)
    return parts[0].removesuffix(".py") in OURS


def class_name(cls: type) -> str:
    """The registered name of a class: its own `name` attribute, else the class name."""
    return cls.__dict__.get("name") or cls.__name__


def _check_names(cls: type) -> None:
    """Names become folders of the results; aliases are a tuple, not a word."""
    name, aliases = class_name(cls), cls.__dict__.get("aliases", ())
    words = isinstance(aliases, tuple | list) and all(isinstance(a, str) for a in aliases)
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name) or not words:
        raise UserError(
            f"{inspect.getfile(cls)}: the name {name!r} must be letters, digits, . + - _ and its "
            f"aliases a tuple of text, not {aliases!r}"
        )


def _aliases(cls: type) -> tuple[str, ...]:
    return tuple(cls.__dict__.get("aliases", ()))


def _check_is_ours(package: ModuleType, name: str) -> None:
    """Another folder called `generators` on the path would silently replace ours."""
    found = Path(package.__path__[0]).resolve()
    expected = PACKAGE_ROOT.joinpath(*name.split("."))
    if found != expected:
        raise UserError(
            f"`import {name}` finds {found}, not deepal-galot's {expected}: run from another "
            f"folder, or inside a DeepALPlus checkout: python -m deepal_galot.deepalplus"
        )


strategies = Registry("strategy", "query_strategies", "query_strategies.strategy:Strategy")
generators = Registry("generator", "generators", "generators.base:Generator")
datasets = Registry("data set", "deepal_galot.datasets", "deepal_galot.datasets.base:Dataset")
classifiers = Registry(
    "classifier", "deepal_galot.classifiers", "deepal_galot.classifiers.base:Classifier"
)
ALL = {"strategies": strategies, "generators": generators, "data sets": datasets,
       "classifiers": classifiers}  # fmt: skip


def load_plugin(source: str | Path) -> list[str]:
    """Run a Python file and register what it defines; the file is executed, so trust it first.

    The module is loaded as `query_strategies.<stem>`, so that an unmodified DeepALPlus file with
    `from .strategy import Strategy` works. "NAME=FILE" registers the file's one class as NAME: that
    is how DeepALPlus's own MarginSampling runs beside the one here.

    Returns:
        The names it added.

    Raises:
        UserError: no such file, it fails to import, defines nothing, or clashes with a name.
    """
    path, own_name = _plugin_source(source)
    if not path.is_file():
        raise UserError(f"--plugin {source}: no such file")
    path = path.resolve()
    _refuse_what_needs_more(source, path)
    name = f"query_strategies.{own_name or path.stem}"
    for registry in ALL.values():
        registry.names()
    if name in sys.modules:
        other = getattr(sys.modules[name], "__file__", name)
        raise UserError(
            f"--plugin {source}: a file of that name is loaded already, {other}; "
            f"give what is in yours another name: --plugin NAME={path}"
        )
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--plugin {source}: not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        if own_name:
            _rename_only_class(module, own_name, path)
        added = [n for r in ALL.values() for n in r.add_from(module, plugin=path)]
    except UserError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        defined = re.findall(r"^class (\w+)", path.read_text("utf-8", "replace"), re.M)
        why = why_not(defined)
        beside = path.with_name(f"{getattr(error, 'name', None) or ''}.py")
        if isinstance(error, ModuleNotFoundError) and beside.is_file():
            why += f"; {beside} is found with PYTHONPATH={path.parent}"
        raise UserError(f"--plugin {source} fails to import: {_where(error, path)}{why}") from error
    if not added:
        raise UserError(f"--plugin {source} defines no {_why_nothing(module)}")
    return added


def _why_nothing(module: ModuleType) -> str:
    """What a file lacks that has no class to register, and what its classes lack."""
    text = "strategy, generator, data set or classifier"
    for cls in filter(inspect.isclass, vars(module).values()):
        if cls.__module__ != module.__name__:
            continue
        base = next((r.base for r in ALL.values() if issubclass(cls, r.base)), None)
        if base is None:
            bases = ", ".join(f"{r.base.__module__}.{r.base.__name__}" for r in ALL.values())
            text += f"; {cls.__name__} is a subclass of none of {bases}"
        elif inspect.isabstract(cls):
            lacks = ", ".join(sorted(cls.__abstractmethods__))
            text += f"; {cls.__name__}, a {base.__name__}, lacks {lacks}"
    return text


def _plugin_source(source: str | Path) -> tuple[Path, str]:
    """(file, NAME or ""), of FILE or NAME=FILE; a file of that very name is a file."""
    name, equals, file = str(source).partition("=")
    if not equals or Path(source).exists():
        return Path(source), ""
    if not name.isidentifier() and Path(file).is_file():
        raise UserError(f"--plugin {source}: the name {name!r} must be letters, digits and _")
    return (Path(file), name) if name.isidentifier() else (Path(source), "")


def _refuse_what_needs_more(source: str | Path, path: Path) -> None:
    """
    Raises:
        UserError: one of DeepALPlus's own files that cannot run here; told by what they read, so
            that somebody's own class of such a name is none of them.
    """
    text = path.read_text("utf-8", "replace")
    needy = [n for n in re.findall(r"^class (\w+)", text, re.M) if n in NEEDS_MORE]
    if needy and re.search(r"\['loader_t[er]_args'\]|def query\(self, n, \w+", text):
        why = "; ".join(f"DeepALPlus's {n} cannot run here: {NEEDS_MORE[n]}" for n in needy)
        raise UserError(f"--plugin {source}: {why}")


def _rename_only_class(module: ModuleType, name: str, path: Path) -> None:
    """
    Raises:
        UserError: the file has none or several.
    """
    classes = [c for c in vars(module).values() if any(r._belongs(c, module) for r in ALL.values())]
    if len(classes) != 1:
        raise UserError(
            f"--plugin {name}={path}: the file defines {len(classes)} strategies, generators, data "
            f"sets or classifiers; a name can be given to one"
        )
    classes[0].name, classes[0].aliases = name, ()


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # which are no code's fault


def plugin_fault(error: BaseException) -> str | None:
    """What to tell about an error that was raised below a plug-in's code; None if it was not."""
    if isinstance(error, OSError) and error.errno in FULL:
        return None
    for registry in ALL.values():
        for path in registry._plugins.values():
            if _lines_of(error, path):
                names = [name for name, file in registry._plugins.items() if file == path]
                why = why_not(registry.get(name).__name__ for name in names)
                return f"the plug-in {path} fails: {_where(error, path)}{why}"
    return None


@contextlib.contextmanager
def plugins_named() -> Iterator[None]:
    """For a process whose caller does not have its plug-ins' tracebacks.

    Raises:
        UserError: an error below a plug-in's code, said as plugin_fault says it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        fault = plugin_fault(error)
        if fault is None:
            raise
        raise UserError(fault) from None


def why_not(class_names: Iterable[str]) -> str:
    """The known reasons why what DeepALPlus calls so cannot run here, or nothing."""
    known = sorted(set(class_names) & set(NEEDS_MORE))
    return "".join(f"; DeepALPlus's {name} cannot run here: {NEEDS_MORE[name]}" for name in known)


def _where(error: BaseException, path: Path) -> str:
    """`Type: message (line n)`, the line being the plug-in's own."""
    line = [getattr(error, "lineno", None), *_lines_of(error, path)][-1]
    return f"{type(error).__name__}: {error}" + (f" (line {line})" if line else "")


def _lines_of(error: BaseException, path: Path) -> list[int]:
    """The lines of this file that the error passed through, the innermost last."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.lineno for frame in frames if Path(frame.filename) == path]
