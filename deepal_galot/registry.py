"""Registries: name -> class, for the four folders that users may add files to.

A strategy, generator, data set or classifier is a subclass of its kind's base class, in any file of
that kind's folder or in a plug-in file. Its name is the class attribute `name`, or the class name.
`aliases` are further names. The first line of its docstring is its help.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from .errors import UserError, did_you_mean

PACKAGE_ROOT = Path(__file__).resolve().parent.parent
OURS = ("deepal_galot", "query_strategies", "generators", "run_benchmark")
# Files shipped in the open folders. Any other file there is the user's own, like a plug-in.
SHIPPED = {
    "query_strategies": (
        "badge_sampling bald_dropout entropy_sampling entropy_sampling_dropout gaal galot "
        "galot_basic galot_matched kcenter_greedy kcenter_greedy_pca kmeans_sampling "
        "least_confidence least_confidence_dropout loss_prediction_loss margin_sampling "
        "margin_sampling_dropout mean_std monte_carlo random_sampling strategy var_ratio"
    ),
    "generators": (
        "attention_kernel base diffusion flops folder group_norm image_store memory networks "
        "pipeline_folder prompts stable_diffusion text_optimization tiny weights"
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


def as_they_lie(files: Sequence[Path]) -> dict[str, bytes]:
    """Path -> content of some files; paths are relative to the nearest folder with all of them,
    which for a plug-in and files beside or below it is the plug-in's.

    >>> list(as_they_lie([PACKAGE_ROOT / "generators" / "tiny.py"]))
    ['tiny.py']
    """
    root = os.path.commonpath([file.parent for file in files])
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in files}


class Registry:
    """All classes of one kind, found in one folder on first use.

    Attributes:
        plugin_files: class name -> file, for the user's own classes.
    """

    def __init__(self, kind: str, package: str, base: str) -> None:
        """
        Args:
            kind: the kind's name in error messages, e.g. "strategy".
            package: the open folder, as a package name.
            base: "module:Class" of the base class.
        """
        self.kind, self.package, self._base_path = kind, package, base
        self._classes: dict[str, type] | None = None
        self.plugin_files: dict[str, Path] = {}

    @property
    def base(self) -> type:
        """The base class; imported late, because its file is in the folder itself."""
        module, _, name = self._base_path.partition(":")
        return getattr(importlib.import_module(module), name)

    def names(self) -> list[str]:
        """Canonical names, sorted."""
        return sorted(self._discovered())

    def get(self, name: str, nor: str = "") -> type:
        """The class with this name or alias; case does not matter.

        Args:
            nor: for the error line, what else is not there.

        Raises:
            UserError: no such name; suggests the nearest, or says why a class of that name in a
                plug-in cannot be used.
        """
        by_fold = {n.casefold(): cls for n, cls in self._names_and_aliases()}
        if name.casefold() in by_fold:
            return by_fold[name.casefold()]
        for cls in _own_classes():
            if cls.__name__.casefold() == name.casefold():
                raise UserError(
                    f"{cls.__name__} in {inspect.getfile(cls)} {self._why_unknown(cls)}"
                )
        known = [n for n, _ in self._names_and_aliases()]
        hint = did_you_mean(name, known, "see run_benchmark.py --list" if len(known) > 12 else "")
        raise UserError(
            f"unknown {self.kind} {name!r}: {hint} (a class of your own needs --plugin FILE){nor}"
        )

    def _why_unknown(self, cls: type) -> str:
        """Why a class of the user's own is not known by its name here."""
        if not issubclass(cls, self.base):
            base = f"{self.base.__module__}.{self.base.__name__}"
            return f"is no {self.kind}: it is not a subclass of {base}"
        if inspect.isabstract(cls):
            return f"cannot be used: it lacks {', '.join(sorted(cls.__abstractmethods__))}"
        if cls.__name__.startswith("_"):
            return "cannot be used: its name begins with _, as those of mere parts do"
        return f"is called {class_name(cls)} here"

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
        """User files that define this class: its own first, then those of its base classes and of
        everything they import. Empty for shipped classes."""
        bases = getattr(self._discovered().get(name), "__mro__", ())
        own = {path for registry in ALL.values() for path in registry.plugin_files.values()}
        files: dict[Path, None] = {}
        for cls in bases:
            file = Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or "").resolve()
            if file in own:
                files |= dict.fromkeys([file, *imported_own(file)])
        return list(files)

    def add_from(self, module: ModuleType, plugin: Path | None = None) -> list[str]:
        """Register every subclass of the base that this module defines; returns their names.

        Args:
            plugin: the module's file, if it is the user's own.

        Raises:
            UserError: a name or alias is taken by a class of another file.
        """
        classes, added = self._discovered(), []
        for cls in vars(module).values():
            if not self.belongs(cls, module):
                continue
            _check_names(cls)
            self._refuse_clash(cls, classes)
            classes[class_name(cls)] = cls
            added.append(class_name(cls))
            if plugin is not None:
                self.plugin_files[class_name(cls)] = plugin
        return added

    def forget_own(self) -> None:
        """Remove the user's own classes; register those of files in the folder as they are now."""
        for name in self.plugin_files:
            self._discovered().pop(name, None)
        self.plugin_files.clear()
        self._add_folder(shipped=False)

    def belongs(self, cls: object, module: ModuleType) -> bool:
        """Whether `cls` is a concrete, public class of this kind that the module itself defines."""
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
            self._add_folder(shipped=True)
            self._add_folder(shipped=False)
        return self._classes

    def _add_folder(self, shipped: bool) -> None:
        """Register the classes of the folder's files, those of the package or all others."""
        package = importlib.import_module(self.package)
        _check_is_ours(package, self.package)
        for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda i: i.name):
            if not info.ispkg and (info.name in SHIPPED[self.package].split()) == shipped:
                module = importlib.import_module(f"{self.package}.{info.name}")
                self.add_from(module, None if shipped else Path(module.__file__).resolve())


def _own_classes() -> Iterator[type]:
    """Every class that the user's own files define, registered or not."""
    own = {path for registry in ALL.values() for path in registry.plugin_files.values()}
    for module in list(sys.modules.values()) if own else ():
        file = getattr(module, "__file__", None)
        if file and Path(file).resolve() in own:
            for cls in vars(module).values():
                if inspect.isclass(cls) and cls.__module__ == module.__name__:
                    yield cls


def imported_own(file: Path) -> list[Path]:
    """The user's own files that a user's Python file imports, directly or not: those beside it or
    below, and those in the open folders."""
    found, todo = [file], [file]
    while todo:
        for path in _imports(todo.pop(), file):
            for module in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
                if module.is_file() and module not in found and not _shipped(module):
                    found.append(module)
                    todo.append(module)
    return found[1:]


def _imports(module: Path, plugin: Path) -> Iterator[Path]:
    """Paths, without suffix, of the modules that a plug-in, or a module of its own, imports."""
    try:
        tree = ast.parse(module.read_bytes())
    except (SyntaxError, ValueError):  # imports unknown; its bytes are hashed anyway
        return
    # The folder that `from .` means: a plug-in is loaded as a module of query_strategies.
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
    """Whether a file belongs to the package."""
    for package, names in SHIPPED.items():
        if file.parent == _folder(package):
            return file.stem in ("__init__", *names.split())
    parts = file.relative_to(PACKAGE_ROOT).parts if file.is_relative_to(PACKAGE_ROOT) else ("",)
    return parts[0].removesuffix(".py") in OURS


def merged(cls: type, attribute: str) -> dict:
    """A class attribute that is a dict: this class's entries over those of its bases.

    Raises:
        UserError: it is not a dict in one of them.
    """
    entries: dict = {}
    for base in reversed(cls.__mro__):
        own = vars(base).get(attribute, {})
        if not isinstance(own, Mapping):
            raise UserError(f"{class_name(base)}: {attribute} must be a dict, not {own!r}")
        entries |= own
    return entries


def class_name(cls: type) -> str:
    """The registered name of a class: its own `name` attribute, else the class name."""
    return cls.__dict__.get("name") or cls.__name__


def _check_names(cls: type) -> None:
    """Raise a UserError unless the name can be a folder of the results and the aliases are a
    tuple."""
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
    """Raise a UserError if another package of this name is found on the path instead of ours."""
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
