"""The exception for errors that the user can correct, and the text of error lines."""

import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence


class UserError(Exception):
    """Bad input or a missing resource. Its text says what is wrong, with which value, and what to
    do. Exit code 2."""


def said(error: BaseException, most: int = 200) -> str:
    r"""An exception's message as part of an error line. Cut to `most` characters, because some
    libraries quote the whole file they read.

    >>> said(ValueError("bad\n  header"))
    'bad header'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else text[: most - 1] + "…"


def readable(text: str) -> str:
    r"""Text with ? for each byte of a path that is not UTF-8; such bytes cannot be drawn or
    printed.

    >>> readable("caf\udce9")
    'caf?'
    """
    return text.encode(errors="replace").decode()


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """End of an error line: the closest known names; if there is none, `otherwise` or all known.

    >>> did_you_mean("GALOTT", ["GALOT", "BADGE"])
    'did you mean GALOT?'
    """
    known = sorted(known)
    close = near(name.casefold(), {k.casefold(): k for k in known})
    return close or otherwise or f"known: {', '.join(known)}"


def near(name: str, known: Mapping[str, str]) -> str:
    """The closest known names as a question; "" if none is close.

    Args:
        known: text to compare with -> how to show it.

    >>> near("epoch", {"epochs": "--epochs"})
    'did you mean --epochs?'
    """
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(known[c] for c in close)}?" if close else ""


def some_of(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list; if there are more, also their number.

    >>> some_of("abcd", 3)
    'a, b, c, … (4)'
    """
    return ", ".join(names[:most]) + (f", … ({len(names)})" if len(names) > most else "")


def complain(error: BaseException | str) -> int:
    """Print an error on one line, even if its message has several; returns the exit code."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
