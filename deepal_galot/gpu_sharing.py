"""One GPU for several processes at the same time.

Without help a GPU runs one process's kernels, then another's, and those of a small batch leave most
of it idle. NVIDIA's Multi-Process Service, which comes with the driver, runs them side by side.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping

import torch

from .signals import deaf

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
PATIENCE = 30  # seconds for the service to come and to go
# A process of its own, so that however the command ends, kill -9 too, its daemon ends with it.
GUARD = f"""
{CONTROL} -d </dev/null && echo ready
cat >/dev/null
echo quit -t 5 | {CONTROL} >/dev/null 2>&1
rm -rf "${PIPES}"
"""
# What a client does first; argument: the device's number.
CONNECT = """
import ctypes, sys
cuda, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
number = cuda.cuInit(0) or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), int(sys.argv[1]))
sys.exit(f"a client gets CUDA error {number}" if number else 0)
"""


@contextlib.contextmanager
def side_by_side(device: torch.device) -> Iterator[None]:
    """Processes that begin in this block and use the device run their kernels side by side.

    A daemon of this block's own serves them, unless the environment names one already. Where there
    is none to be had, they take turns, and a line says so.
    """
    if device.type != "cuda" or PIPES in os.environ:
        yield
        return
    if shutil.which(CONTROL) is None:
        _say("is not on the PATH")
        yield
        return
    with _guard() as (guard, own):
        wrong = _trouble(guard, own, device)
        if wrong is None:
            with _environment(own):
                yield
            return
    _say(wrong)
    yield


def _say(wrong: str) -> None:
    print(f"the runs take turns on the GPU: {CONTROL}: {wrong}", file=sys.stderr)


@contextlib.contextmanager
def _guard() -> Iterator[tuple[subprocess.Popen, dict[str, str]]]:
    """What starts the daemon and, at the end of the block or of this process, ends it; and what its
    clients need in their environment."""
    folder = tempfile.mkdtemp(prefix="mps")
    own = {PIPES: folder, LOGS: folder}
    # The daemon serves all devices: its clients choose by this variable, and would choose twice.
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"} | own
    with deaf():  # a cluster's signal may reach every process; the guard outlives all to clean up
        guard = subprocess.Popen(
            ["sh", "-c", GUARD],
            env=environment,
            text=True,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    try:
        yield guard, own
    finally:
        guard.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            guard.wait(PATIENCE)
        guard.stdout.close()


def _trouble(guard: subprocess.Popen, own: Mapping[str, str], device: torch.device) -> str | None:
    """Why the daemon serves nobody, or None if it does."""
    said = guard.stdout.readline().strip()
    if said != "ready":
        return said or "it did not start"
    client = [sys.executable, "-c", CONNECT, str(device.index or 0)]
    try:
        tried = subprocess.run(
            client, env=os.environ | own, text=True, timeout=PATIENCE, capture_output=True
        )
    except subprocess.TimeoutExpired:
        return f"a client waited {PATIENCE} seconds"
    return tried.stderr.strip().splitlines()[-1] if tried.returncode else None


@contextlib.contextmanager
def _environment(own: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
