"""GALOT inside an unmodified DeepALPlus checkout (github.com/SineZHAN/deepALplus).

`python -m deepal_galot.deepalplus` runs DeepALPlus's demo.py with GALOT among its strategies. To
use DeepALPlus from Python, call `register` in its folder before you import its modules.

Nothing in here imports deepal-galot's query_strategies, because in a DeepALPlus checkout this name
belongs to DeepALPlus.
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

_registered: list[contextlib.ExitStack] = []  # at most one; closing it undoes `register`


def register(*flags: str) -> None:
    """Add GALOT to the DeepALPlus checkout that `import utils` finds.

    >>> from deepal_galot.deepalplus import register
    >>> register("--epsilon", "0.5")                                      # doctest: +SKIP
    >>> from utils import get_strategy                                    # doctest: +SKIP
    >>> get_strategy("GALOT", dataset, net, args_input, args_task)        # doctest: +SKIP

    The bridges (see bridges.py) stay in place, too. A second call replaces the flags; `unregister`
    undoes everything.

    Args:
        flags: GALOT's flags, as on the command line.

    Raises:
        UserError: a bad flag; no DeepALPlus on the path, or one with another interface.
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
    """Restore DeepALPlus's modules and torch to their state before `register`."""
    while _registered:
        _registered.pop().close()
