"""Several runs of a campaign at the same time, each in its own process.

Processes, because strategies may draw from global random generators. In its own process, each run
gets the same bits as alone. Shared data is on disk, where a run may be stopped at any moment.
Objects in memory, such as GAAL's reference classifier, are made anew in each process.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing.synchronize import Event

import torch
from tqdm import tqdm

from . import plugins
from .campaign import Campaign, describe_row, name_of, rounds_bar
from .errors import UserError
from .gpu_sharing import side_by_side
from .plan import Run, make_plan
from .request import request_of
from .results import RunFolder
from .signals import ignoring_signals
from .stdio import IgnoresWriteErrors

LOOK_SECONDS = 0.5  # interval for checking the processes' results
MOST_JOBS = 61  # Windows can wait for no more


def run_at_once(campaign: Campaign, args: argparse.Namespace) -> list[RunFolder]:
    """Play every unfinished run, --jobs at a time; with 1, in this process.

    Args:
        campaign: made from `args`; each process makes its own.

    Returns:
        The folders, in the order of the plan.

    Raises:
        UserError: an error of any run, or a process was killed.
    """
    asked = 1 if args.jobs is None else args.jobs
    if asked == 1:
        return campaign.run()
    folders = campaign.prepare()
    campaign.free()  # each process loads its own generators
    left = campaign.left(folders)
    jobs = max(1, min(asked, len(left), MOST_JOBS))
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")
    device = campaign.request.device
    with side_by_side(device) if jobs > 1 else contextlib.nullcontext():
        with ignoring_signals():
            started = context.Event()
            given = (started, threads, device, 1 / jobs)
            pool = ProcessPoolExecutor(jobs, context, _start, given)
        try:
            with ignoring_signals():  # a new process ignores Ctrl-C until `_start`
                runs = campaign.plan.runs
                futures = [pool.submit(_play, args, i, dict(runs[i].content)) for i in left]
            watch(futures, folders, runs)
        except BrokenProcessPool:
            raise UserError(f"--jobs {asked}: {_why_broken(started.is_set())}") from None
        except BaseException:  # a run's error, or Ctrl-C; runs can be continued later
            for child in multiprocessing.active_children():
                child.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    return folders


def _why_broken(started: bool) -> str:
    """What has happened to processes that ended too early, of which one has started or none."""
    if not started:
        return (
            "no process could start (see above): a script that says --jobs must be a file, and "
            'needs if __name__ == "__main__": around main'
        )
    return (
        "a process was killed, as happens when memory runs out; the same command goes on where "
        "this one stopped, with fewer --jobs in less memory"
    )


def watch(
    futures: Sequence[Future],
    folders: Sequence[RunFolder],
    runs: Sequence[Run],
    look_seconds: float = LOOK_SECONDS,
) -> None:
    """Show the rows that other processes append, until all runs are done. Re-raises a run's error.

    Args:
        folders, runs: of all runs, in the same order.
    """
    shown = [len(folder.rows()) for folder in folders]
    with rounds_bar(folders) as bar:
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=look_seconds)
            for i, folder in enumerate(folders):
                for row in folder.rows()[shown[i] :]:
                    bar.update(1)
                    bar.write(describe_row(row, runs[i]), file=sys.stderr)
                    shown[i] += 1
            for future in done:
                future.result()


# -- in the processes --------------------------------------------------------------------------


def _start(started: Event, threads: int, device: torch.device, share: float) -> None:
    """Set up a new process; share: of the GPU's memory."""
    started.set()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C stops it silently
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    sys.stderr = _NoTerminal(sys.stderr)  # only the parent shows a bar
    tqdm.set_lock(threading.RLock())  # tqdm's own, between processes, leaks if one is killed
    torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(share, device.index)


def _leave_with_the_parent() -> None:
    """Exit when the parent has ended. Nobody else would stop this process or use its results."""
    multiprocessing.parent_process().join()
    os._exit(1)


_campaign: Campaign | None = None  # this process's, made with its first run


def _play(args: argparse.Namespace, i: int, content: Mapping[str, str]) -> None:
    """Play run i of the plan. Errors in plug-ins become one line, for the parent to print.

    Args:
        content: the run's, as the parent has planned it.

    Raises:
        UserError: it is not what this process finds.
    """
    global _campaign
    with plugins.plugins_named():
        if _campaign is None:
            _campaign = campaign_anew(args)
        run = _campaign.plan.runs[i]
        if other := run.other_content(content):
            raise UserError(
                f"--jobs {args.jobs}: {' and '.join(other)} of {name_of(run)} came out differently "
                f"in another process; a data set, model or plug-in must be the same each time that "
                f"it is loaded"
            )
        _campaign.play(run, _campaign.open(run))


_load_once = cache(plugins.load_plugin)  # a process may play several campaigns


def campaign_anew(args: argparse.Namespace) -> Campaign:
    """Make the campaign of a command line in a process that did not parse it."""
    for plugin in args.plugin:
        _load_once(plugin)
    request = request_of(args)
    campaign = Campaign(request, make_plan(request))
    campaign.set_backends()
    return campaign


class _NoTerminal(IgnoresWriteErrors):
    """A stream that is not a terminal, so that progress bars are not shown on it."""

    def isatty(self) -> bool:
        return False
