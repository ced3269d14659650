"""The one exception that is meant for the person who typed the command, and how it is said."""

import difflib
import sys
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Bad input or a missing resource: what is wrong, with which value, what to do. Exit code 2."""


def said(error: BaseException, most: int = 200) -> str:
    r"""What a library's exception says, as part of an error line: some quote the file they read.

    >>> said(ValueError("bad\n  header"))
    'bad header'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else text[: most - 1] + "…"


def readable(text: str) -> str:
    r"""With a ? for each byte of a path that is not UTF-8, which nothing can draw or print.

    >>> readable("caf\udce9")
    'caf?'
    """
    return text.encode(errors="replace").decode()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error line: the closest known names, or all of them.

    >>> did_you_mean("GALOTT", ["GALOT", "BADGE"])
    'did you mean GALOT?'
    """
    known = sorted(known)
    by_fold = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(name.casefold(), by_fold, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(by_fold[c] for c in close)}?"
    return f"known: {', '.join(known)}"


def some_of(names: Sequence[str], most: int = 5) -> str:
    """The first few names of a list, and how many there are if not all are said.

    >>> some_of("abcd", 3)
    'a, b, c, … (4)'
    """
    return ", ".join(names[:most]) + (f", … ({len(names)})" if len(names) > most else "")


def complain(error: BaseException | str) -> int:
    """Print one line, whatever a library wrote into its message; returns the exit code."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
