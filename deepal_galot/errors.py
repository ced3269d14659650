"""The one exception that is meant for the person who typed the command, and how it is said."""

import sys


class UserError(Exception):
    """Bad input or a missing resource: what is wrong, with which value, what to do. Exit code 2."""


def said(error: BaseException, most: int = 200) -> str:
    """What a library's exception says, as part of an error line: some quote the file they read.

    >>> said(ValueError("bad\n  header"))
    'bad header'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else text[: most - 1] + "…"


def complain(error: BaseException | str) -> int:
    """Print one line, whatever a library wrote into its message; returns the exit code."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
