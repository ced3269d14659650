"""Several runs of a campaign at once, each in a process of its own.

Processes, because a strategy may draw from global random generators: apart, each run has the bits
it has alone. What is shared lies on disk, where a run may be stopped at any moment.
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import torch

from . import registry
from .campaign import Campaign, describe_row, rounds_bar
from .errors import UserError
from .plan import make_plan
from .request import request_of
from .results import RunFolder

LOOK_SECONDS = 0.5  # how often the processes' results are looked for

_campaign: Campaign  # of this worker process


def run_at_once(campaign: Campaign, args: argparse.Namespace) -> list[RunFolder]:
    """Play every run that is not finished, args.jobs at a time.

    Args:
        campaign: what `args` ask for; each process makes it anew.

    Returns:
        The folders, in the order of the plan.

    Raises:
        UserError: of any run; or a process was killed.
    """
    folders = campaign.prepare()
    campaign.free()  # the processes load generators of their own
    threads = max(1, torch.get_num_threads() // args.jobs)
    pool = ProcessPoolExecutor(
        args.jobs, multiprocessing.get_context("spawn"), _start, (args, threads)
    )
    try:
        futures = [pool.submit(_play, i) for i in range(len(folders))]
        _watch(futures, folders)
    except BrokenProcessPool:
        raise UserError(
            f"--jobs {args.jobs}: a process was killed, as happens when memory runs out; the same "
            f"command goes on where this one stopped, with fewer --jobs in less memory"
        ) from None
    except BaseException:  # a run's error, or Ctrl-C: what is under way goes on another time
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return folders


def _watch(futures: Sequence[Future], folders: Sequence[RunFolder]) -> None:
    """Show new rows until all is done; raises what a run raised."""
    shown = [len(folder.rows()) for folder in folders]
    with rounds_bar(folders) as bar:
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=LOOK_SECONDS)
            for i, folder in enumerate(folders):
                for row in folder.rows()[shown[i] :]:
                    bar.update(1)
                    bar.write(describe_row(row, folder), file=sys.stderr)
                    shown[i] += 1
            for future in done:
                future.result()


def _start(args: argparse.Namespace, threads: int) -> None:
    """A worker process makes its own campaign."""
    global _campaign
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C stops it without a word
    sys.stderr = _NoTerminal(sys.stderr)  # the bar is the parent's
    torch.set_num_threads(threads)
    for plugin in args.plugin:
        registry.load_plugin(plugin)
    request = request_of(args)
    if request.device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1 / args.jobs, request.device)
    _campaign = Campaign(request, make_plan(request))
    _campaign.set_backends()


def _play(i: int) -> None:
    """Run i of the plan; what a plug-in's code raises is said in the parent."""
    run = _campaign.plan.runs[i]
    try:
        _campaign.play(run, _campaign.open(run))
    except registry.FAULTS as error:
        fault = registry.plugin_fault(error)
        if fault is None:
            raise
        raise UserError(fault) from None


class _NoTerminal:
    """A stream that progress bars keep off."""

    def __init__(self, stream) -> None:
        self.write, self.flush = stream.write, stream.flush

    def isatty(self) -> bool:
        return False
