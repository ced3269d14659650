"""A DeepALPlus checkout: check it, import it, and restore Python afterwards."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..errors import UserError, said
from ..plugins import NEEDS_MORE

FILES = ("demo.py", "utils.py", "data.py", "handlers.py", "nets.py", "parameters.py",
         "arguments.py", "query_strategies/strategy.py")  # fmt: skip
# module -> what the plug-in uses of it: a name, or "Class.method(the parameters it passes)".
INTERFACE = {
    "utils": ("get_strategy(name, dataset, net, args_input, args_task)",),
    "arguments": ("get_args()",),
    "parameters": ("args_pool",),
    "data": ("Data.get_new_data(X, Y)", "Data.get_labeled_data()",
             "Data.get_partial_labeled_data()", "Data.cal_test_acc(preds)"),
    "nets": ("Net.train(data)", "Net.predict(data)"),
    "query_strategies.strategy": (
        "Strategy(dataset, net, args_input, args_task)", "Strategy.query(n)",
        "Strategy.update(pos_idxs)", "Strategy.train()", "Strategy.predict(data)"),
}  # fmt: skip
SOURCE = "github.com/SineZHAN/deepALplus"


@dataclass(frozen=True)
class Host:
    """The checkout's modules, imported."""

    root: Path
    utils: ModuleType
    arguments: ModuleType
    parameters: ModuleType
    strategy: type

    @property
    def strategies(self) -> dict[str, type]:
        """The strategies in the checkout's query_strategies, by class name."""
        found = vars(sys.modules["query_strategies"])
        return {
            name: cls
            for name, cls in found.items()
            if inspect.isclass(cls) and issubclass(cls, self.strategy) and cls is not self.strategy
        }

    @property
    def samplers(self) -> dict[str, type]:
        """The strategies that only need `query(n)` to pick images, so that they can be A_AL."""
        return {name: cls for name, cls in self.strategies.items() if name not in NEEDS_MORE}


def check_folder(root: Path) -> None:
    """
    Raises:
        UserError: the folder is not a DeepALPlus checkout.
    """
    missing = [name for name in FILES if not (root / name).is_file()]
    if missing:
        raise UserError(
            f"{root}: no DeepALPlus checkout ({', '.join(missing[:3])} "
            f"{'is' if len(missing) == 1 else 'are'} not in it): go to the folder of {SOURCE} and "
            f"type the command there, or name it with --root PATH"
        )


def import_host() -> Host:
    """Import the modules of the checkout that is first on the path.

    Raises:
        UserError: a module fails to import, is not DeepALPlus's, or lacks a name that the plug-in
            uses.
    """
    modules = {name: _import(name) for name in INTERFACE}
    root = Path(modules["utils"].__file__).resolve().parent
    for name, module in modules.items():
        if not Path(module.__file__).resolve().is_relative_to(root):
            raise UserError(
                f"`import {name}` finds {module.__file__}, not {root}'s: import nothing of that "
                f"name before deepal_galot.deepalplus"
            )
    missing = [
        f"{name}: {what}"
        for name, of in INTERFACE.items()
        for what in of
        if not _offers(modules[name], what)
    ]
    if missing:
        raise UserError(
            f"{root}: this DeepALPlus is not as {SOURCE} has it, the plug-in misses "
            f"{'; '.join(missing)}"
        )
    return Host(
        root,
        modules["utils"],
        modules["arguments"],
        modules["parameters"],
        modules["query_strategies.strategy"].Strategy,
    )


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except UserError:
        raise
    except Exception as error:  # DeepALPlus's code may raise anything
        raise UserError(
            f"DeepALPlus's {name.replace('.', '/')}.py fails to import: {type(error).__name__}: "
            f"{said(error)}"
        ) from error


def _offers(module: ModuleType, what: str) -> bool:
    """Whether a module has this name and, if parameters are given, takes them in a call."""
    path, call, parameters = what.partition("(")
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is None or not call:
        return found is not None
    given = [p for p in parameters.rstrip(")").split(", ") if p]
    given = ["self", *given] if "." in path else given
    try:
        inspect.signature(found).bind(*given)
    except TypeError:
        return False
    return True


def check_data(dataset: Any, name: str) -> None:
    """
    Raises:
        UserError: the data set lacks an attribute that the plug-in reads.
    """
    wanted = ("X_train", "Y_train", "X_test", "labeled_idxs", "n_pool", "handler")
    missing = [attribute for attribute in wanted if not hasattr(dataset, attribute)]
    if missing:
        raise UserError(
            f"-d {name}: DeepALPlus's data set has no {', '.join(missing)}, which the plug-in reads"
        )


@contextlib.contextmanager
def inside(root: Path) -> Iterator[None]:
    """Set Python up as for `python demo.py` in the checkout, and restore it afterwards.

    The checkout is the current folder and the first entry of sys.path. Modules named like its files
    are imported anew, from there.
    """
    names = {p.stem for p in root.glob("*.py")} | {"query_strategies"}

    def theirs() -> dict[str, ModuleType]:
        return {k: m for k, m in sys.modules.items() if k.partition(".")[0] in names}

    before, cwd, path, argv = theirs(), Path.cwd(), list(sys.path), sys.argv
    environment, stdout = dict(os.environ), sys.stdout
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    os.chdir(root)
    importlib.invalidate_caches()
    try:
        with warnings.catch_warnings():  # demo.py silences all warnings
            yield
    finally:
        for name in theirs():
            del sys.modules[name]
        sys.modules.update(before)
        sys.path[:], sys.argv = path, argv
        _close_logger(stdout)
        sys.stdout = stdout
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(cwd)
        torch.set_printoptions(profile="default")


def _close_logger(stdout: Any) -> None:
    """Close the log file of the Logger that demo.py puts in place of stdout; demo.py does not."""
    log = getattr(sys.stdout, "log", None)
    if sys.stdout is not stdout and log is not None:
        log.close()
