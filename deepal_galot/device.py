"""Which devices this machine has, and their abilities."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from .errors import UserError

WITHOUT_FLOAT64 = ("mps",)


def pick_device(name: str) -> torch.device:
    """auto, cpu, cuda, cuda:1, mps -> an available device.

    Raises:
        UserError: the device is not available, or there is no such kind.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name!r}: use auto, cpu, cuda, cuda:1 or mps") from None
    there = {
        "cpu": True,
        # Not device.index: torch keeps it in 8 bits, so cuda:256 would be the first GPU.
        "cuda": int(name.partition(":")[2] or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise UserError(f"--device {name}: this machine has none; use --device auto or cpu")
    return device


def unused_gpu(device: torch.device) -> list[str]:
    """A note if `auto` took the CPU although there is an Apple GPU; else no lines."""
    if device.type != "cpu" or not torch.backends.mps.is_available():
        return []
    return ["note: --device auto took the CPU; --device mps takes this machine's GPU, untested"]


def machine(device: torch.device) -> dict[str, Any]:
    """Versions and hardware."""
    return {
        "versions": versions(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }


def machine_line(device: torch.device) -> str:
    """`machine` as the first line of a measurement."""
    return ", ".join(f"{name} {value}" for name, value in machine(device).items())


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that compute."""
    packages = ("torch", "torchvision", "diffusers", "transformers", "numpy", "scikit-learn")
    return {"python": platform.python_version()} | {p: version(p) for p in packages}


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device is a CUDA device with native bfloat16 products."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def float64(x: Tensor) -> Tensor:
    """x in float64, on its own device; on the CPU if the device has no float64 (Apple's MPS)."""
    return (x.cpu() if x.device.type in WITHOUT_FLOAT64 else x).double()


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def empty_cache() -> None:
    """Release unused memory that torch holds on the devices."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def compiler_fault(error: BaseException) -> str | None:
    """Error line for a failure of torch.compile; None for other errors."""
    if "TorchDynamoException" not in {kind.__name__ for kind in type(error).__mro__}:
        return None
    first = next(iter(str(error).splitlines()), "")
    return (
        f"--compile: {first or type(error).__name__}; it needs a C++ compiler (g++), on a GPU a C "
        f"compiler and Triton, too; without --compile the same command goes on"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on a device, in torch on the CPU, or in Python."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # In order: the CPU on Linux and macOS; on Windows; three from CUDA and its libraries; the last
    # from a convolution for which no cuDNN algorithm got its workspace memory.
    says = (
        "can't allocate memory",
        "not enough memory",
        "out of memory",
        "ALLOC_FAILED",
        "ALLOCATION_FAILED",
        "unable to find an engine",
    )
    return isinstance(error, RuntimeError) and any(text in str(error) for text in says)
