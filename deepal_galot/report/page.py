"""One self-contained HTML page of everything: opens from disk, needs no network."""

from __future__ import annotations

from collections.abc import Sequence

from .section import Section


def page(sections: Sequence[Section]) -> str:
    """The whole page."""
    return ""
