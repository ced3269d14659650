"""Plug-in files: loading them, and one-line errors about them."""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from .errors import UserError
from .registry import ALL, imported_own

# DeepALPlus's strategies that run only in its own demo, and why.
NEEDS_MORE = {
    "CEALSampling": "its query takes the round as well and gives a training set beside its picks",
    "LossPredictionLoss": "it reads a loss module of a network of its own (nets_lossprediction.py)",
    "VAAL": "it trains a VAE and a discriminator of its own (nets.py) on pairs of images",
    "WAAL": "it reads the parts of a network of its own, which it trains on the unlabeled pool "
    "(nets_waal.py)",
}


def load_plugin(source: str | Path) -> list[str]:
    """Run a Python file and register the classes it defines. The file is executed, so trust it
    first.

    The module is loaded as `query_strategies.<stem>`, so that an unmodified DeepALPlus file with
    `from .strategy import Strategy` works. "NAME=FILE" registers the file's one class as NAME. In
    this way DeepALPlus's own MarginSampling runs beside the one here.

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
    for registry in ALL.values():
        registry.names()  # registers shipped classes first
    name = f"query_strategies.{own_name or path.stem}"
    module = _new_module(source, name, path)
    sys.modules[name] = module
    try:
        module.__spec__.loader.exec_module(module)
        if own_name:
            _rename_only_class(module, own_name, path)
        added = [n for r in ALL.values() for n in r.add_from(module, plugin=path)]
    except UserError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(
            f"--plugin {source} fails to import: {_why_it_fails(error, path)}"
        ) from error
    if not added:
        del sys.modules[name]
        raise UserError(f"--plugin {source} defines no {_why_nothing(module)}")
    return added


def forget_plugins() -> None:
    """Let the next command of this process run the user's own files as they are then.

    Removes the classes that they define and the modules that they are, with those of the user's own
    that they import. Files in the open folders are registered again.
    """
    own = {file for registry in ALL.values() for file in registry.plugin_files.values()}
    files = own.union(*(imported_own(file) for file in own if file.is_file()))
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) if files else None
        if file and Path(file).resolve() in files:
            del sys.modules[name]
    importlib.invalidate_caches()
    for registry in ALL.values():
        registry.forget_own()


def _new_module(source: str | Path, name: str, path: Path) -> ModuleType:
    """A module for this file, not executed yet.

    Raises:
        UserError: a module of that name is loaded already, or the file is not Python.
    """
    if name in sys.modules:
        other = getattr(sys.modules[name], "__file__", name)
        raise UserError(
            f"--plugin {source}: a file of that name is loaded already, {other}; "
            f"give what is in yours another name: --plugin NAME={path}"
        )
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--plugin {source}: not a Python file (its name must end in .py)")
    return importlib.util.module_from_spec(spec)


def _why_it_fails(error: BaseException, path: Path) -> str:
    """The error of a file's import, its line, and a known remedy."""
    defined = re.findall(r"^class (\w+)", path.read_text("utf-8", "replace"), re.M)
    why = _where(error, path) + why_not(defined)
    beside = path.with_name(f"{getattr(error, 'name', None) or ''}.py")
    if isinstance(error, ModuleNotFoundError) and beside.is_file():
        why += f"; {beside} is found with PYTHONPATH={path.parent}"
    return why


def _why_nothing(module: ModuleType) -> str:
    """Error text for a file with no class to register, with the reason for each of its classes."""
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
    """Split NAME=FILE into (file, NAME), and FILE into (file, ""). A whole text that is an existing
    file's name is a FILE."""
    name, equals, file = str(source).partition("=")
    if not equals or Path(source).exists():
        return Path(source), ""
    if not name.isidentifier() and Path(file).is_file():
        raise UserError(f"--plugin {source}: the name {name!r} must be letters, digits and _")
    return (Path(file), name) if name.isidentifier() else (Path(source), "")


def _refuse_what_needs_more(source: str | Path, path: Path) -> None:
    """Refuse DeepALPlus's own files that cannot run here. They are recognised by class name and by
    what they read, so that a user's class with the same name is not refused.

    Raises:
        UserError: it is one of them.
    """
    text = path.read_text("utf-8", "replace")
    needy = [n for n in re.findall(r"^class (\w+)", text, re.M) if n in NEEDS_MORE]
    if needy and re.search(r"\['loader_t[er]_args'\]|def query\(self, n, \w+", text):
        why = "; ".join(f"DeepALPlus's {n} cannot run here: {NEEDS_MORE[n]}" for n in needy)
        raise UserError(f"--plugin {source}: {why}")


def _rename_only_class(module: ModuleType, name: str, path: Path) -> None:
    """Give the file's one class this name.

    Raises:
        UserError: the file has none or several.
    """
    classes = [c for c in vars(module).values() if any(r.belongs(c, module) for r in ALL.values())]
    if len(classes) != 1:
        raise UserError(
            f"--plugin {name}={path}: the file defines {len(classes)} strategies, generators, data "
            f"sets or classifiers; a name can be given to one"
        )
    classes[0].name, classes[0].aliases = name, ()


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # not caused by code


def plugin_fault(error: BaseException) -> str | None:
    """Error line for an error raised in or below a plug-in's code; None if it was not."""
    if isinstance(error, OSError) and error.errno in FULL:
        return None
    for registry in ALL.values():
        for path in registry.plugin_files.values():
            if _lines_of(error, path):
                names = [name for name, file in registry.plugin_files.items() if file == path]
                why = why_not(registry.get(name).__name__ for name in names)
                return f"the plug-in {path} fails: {_where(error, path)}{why}"
    return None


@contextlib.contextmanager
def plugins_named() -> Iterator[None]:
    """Turn errors in plug-ins into one line, for processes whose caller does not get the traceback.

    Raises:
        UserError: an error in or below a plug-in's code, with plugin_fault's text.
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
    """Error text with the known reasons why DeepALPlus's classes of these names cannot run here, or
    ""."""
    known = sorted(set(class_names) & set(NEEDS_MORE))
    return "".join(f"; DeepALPlus's {name} cannot run here: {NEEDS_MORE[name]}" for name in known)


def _where(error: BaseException, path: Path) -> str:
    """`Type: message (line n)`, with the line in the plug-in's own file."""
    line = [getattr(error, "lineno", None), *_lines_of(error, path)][-1]
    return f"{type(error).__name__}: {error}" + (f" (line {line})" if line else "")


def _lines_of(error: BaseException, path: Path) -> list[int]:
    """The lines of this file that are in the error's traceback, innermost last."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.lineno for frame in frames if Path(frame.filename) == path]
