"""GALOT inside an unmodified DeepALPlus checkout (github.com/SineZHAN/deepALplus).

`python -m deepal_galot.deepalplus` runs its demo.py with GALOT among its strategies. Whoever
drives DeepALPlus from Python, in its folder, calls `register` before importing its modules.

Nothing in here imports deepal-galot's query_strategies: in a DeepALPlus checkout that name is its
own.
"""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

from .bridges import cross
from .command import main, run
from .host import check_folder, import_host
from .plugin import Plugin
from .settings import parse_flags

__all__ = ["main", "register", "run"]

_registered: list[contextlib.ExitStack] = []  # at most one; closing it undoes all


def register(*flags: str) -> None:
    """Make GALOT known to the DeepALPlus that `import utils` finds.

    >>> from deepal_galot.deepalplus import register
    >>> register("--epsilon", "0.5")                                      # doctest: +SKIP
    >>> from utils import get_strategy                                    # doctest: +SKIP
    >>> get_strategy("GALOT", dataset, net, args_input, args_task)        # doctest: +SKIP

    Its bridges (see bridges.py) stay as well. Called again it takes other flags; `unregister`
    undoes it.

    Args:
        flags: GALOT's, as on the command line.

    Raises:
        UserError: a bad flag; no DeepALPlus on the path, or one that has changed.
    """
    parsed = parse_flags(flags)
    unregister()
    found = importlib.util.find_spec("utils")
    root = Path(found.origin).parent if found and found.origin else Path.cwd()
    check_folder(root)
    _, bridges = cross(root)
    with bridges:
        plugin = Plugin(import_host(), parsed, bool(flags))
        plugin.install()
        bridges.callback(plugin.remove)
        _registered.append(bridges.pop_all())


def unregister() -> None:
    """Leave DeepALPlus's modules and torch as they were before `register`."""
    while _registered:
        _registered.pop().close()
