"""One GPU for several processes at the same time.

By default a GPU runs the kernels of one process at a time, and kernels of a small batch leave most
of it idle. NVIDIA's Multi-Process Service, which comes with the driver, runs them side by side.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping

import torch

from .signals import ignoring_signals

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
PATIENCE = 30  # seconds for the service to start and to stop
# Run in a process of its own. So the daemon ends with the command, even after kill -9.
GUARD = f"""
{CONTROL} -d </dev/null && echo ready
cat >/dev/null
echo quit -t 5 | {CONTROL} >/dev/null 2>&1
rm -rf "${PIPES}"
"""
# A client's first calls; argument: the device's number.
CONNECT = """
import ctypes, sys
cuda, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
number = cuda.cuInit(0) or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), int(sys.argv[1]))
sys.exit(f"a client gets CUDA error {number}" if number else 0)
"""


@contextlib.contextmanager
def side_by_side(device: torch.device) -> Iterator[None]:
    """Let processes that start in this block run their kernels on the device side by side.

    A daemon for this block serves them, unless the environment names one already. If no daemon can
    be started, the processes take turns, and a line says so.
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
    """Yield a process and its clients' environment variables. The process starts the daemon, and
    stops it when the block or this process ends."""
    folder = tempfile.mkdtemp(prefix="mps")
    own = {PIPES: folder, LOGS: folder}
    # The daemon serves all devices. CUDA_VISIBLE_DEVICES is for its clients; it must not be applied
    # twice.
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"} | own
    # A cluster's signal may reach every process, but the guard must live to clean up.
    with ignoring_signals():
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
    """The reason why the daemon does not work; None if it does."""
    if not select.select([guard.stdout], [], [], PATIENCE)[0]:
        return f"it did not start within {PATIENCE} seconds"
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
