"""What the pages are put together of: files beside this one, images, and leave for a script."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files


def asset(name: str) -> str:
    """A file of this package, as text."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def csp_hash(text: str) -> str:
    """What lets a Content-Security-Policy allow exactly this inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def data_uri(image: bytes, kind: str) -> str:
    """An image file of a kind, "png" or "webp", as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
