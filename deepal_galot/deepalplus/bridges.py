"""Bridges that let DeepALPlus's code of 2021 run today.

On disk nothing changes, except that missing folders are made. DeepALPlus's README tells the user to
make them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torchvision

from ..errors import UserError

FOLDERS = ("logfile", "results", "modelpara")


@dataclass(frozen=True)
class Bridge:
    """A fix for one obstacle.

    Attributes:
        reason: shown to the user if the bridge is needed.
        needed: whether a checkout needs it on this machine.
        cross: applies the fix, and pushes the function that undoes it onto the stack.
    """

    name: str
    reason: str
    needed: Callable[[Path], bool]
    cross: Callable[[Path, contextlib.ExitStack], None]


def _make_folders(root: Path, stack: contextlib.ExitStack) -> None:
    for name in FOLDERS:
        (root / name).mkdir(exist_ok=True)


class _NoFaiss(ModuleType):
    """Stand-in for faiss; reading an attribute raises the error that says what is missing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UserError(
            "KMeansSamplingGPU needs faiss, which is not installed: pip install faiss-gpu, or use "
            "-a KMeansSampling"
        )


def _stand_in_for_faiss(root: Path, stack: contextlib.ExitStack) -> None:
    sys.modules["faiss"] = _NoFaiss("faiss")
    stack.callback(sys.modules.pop, "faiss", None)


def _stay_on_cpu(root: Path, stack: contextlib.ExitStack) -> None:
    """Without a GPU, make `.cuda()` return the object unchanged.

    Each call checks for a GPU anew. Otherwise checking now would fix the visible devices before
    demo.py has read --gpu.
    """
    for cls in (torch.Tensor, torch.nn.Module):
        original = cls.cuda

        def cuda(self: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            return _original(self, *args, **kwargs) if torch.cuda.is_available() else self

        _put(stack, cls, "cuda", cuda)


def _refuses_pretrained(root: Path) -> bool:
    try:
        with warnings.catch_warnings(), torch.device("meta"):  # no random number is drawn
            warnings.simplefilter("ignore")  # torchvision warns that pretrained= will be removed
            torchvision.models.resnet18(pretrained=False)
    except TypeError:
        return True
    return False


def _take_pretrained(root: Path, stack: contextlib.ExitStack) -> None:
    original = torchvision.models.resnet18  # the only model that DeepALPlus's networks call

    def resnet18(*args: Any, pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
        return original(*args, weights="DEFAULT" if pretrained else None, **kwargs)

    _put(stack, torchvision.models, "resnet18", resnet18)


def _put(stack: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute until the stack is closed."""
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


BRIDGES = (
    Bridge(
        "folders",
        "demo.py writes into logfile/, results/ and modelpara/ and does not make them",
        lambda root: not all((root / name).is_dir() for name in FOLDERS),
        _make_folders,
    ),
    Bridge(
        "faiss",
        "its query_strategies import faiss, which only KMeansSamplingGPU uses; it is not installed",
        lambda root: "faiss" not in sys.modules and importlib.util.find_spec("faiss") is None,
        _stand_in_for_faiss,
    ),
    Bridge(
        "cuda",
        "several of its strategies call .cuda() unasked; without a GPU it does nothing",
        lambda root: True,
        _stay_on_cpu,
    ),
    Bridge(
        "pretrained",
        "its networks call torchvision with pretrained=, which this torchvision has no more",
        _refuses_pretrained,
        _take_pretrained,
    ),
)


def cross(root: Path) -> tuple[list[Bridge], contextlib.ExitStack]:
    """Apply the bridges that this checkout needs.

    Returns:
        These bridges, and a stack that undoes them when it is closed.
    """
    stack = contextlib.ExitStack()
    needed = [bridge for bridge in BRIDGES if bridge.needed(root)]
    for bridge in needed:
        bridge.cross(root, stack)
    return needed, stack
