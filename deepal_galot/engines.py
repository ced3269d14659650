"""The engines that play a campaign: processes of this machine, or a Ray cluster."""

from __future__ import annotations

import argparse

from .campaign import Campaign
from .errors import UserError
from .jobs import run_at_once
from .results import RunFolder

RAY_ALONE = ("address", "gpus_per_run", "cpus_per_run", "draw_actors")


def check_engine(args: argparse.Namespace) -> None:
    """Check the engine's flags before anything is computed.

    Raises:
        UserError: flags that do not go together, or Ray is not installed.
    """
    if args.engine == "ray":
        from . import ray_engine

        ray_engine.check(args)
        return
    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: at least 1 run at once")
    for name in RAY_ALONE:
        if getattr(args, name) is not None:
            flag = f"--{name.replace('_', '-')} {getattr(args, name)}"
            raise UserError(f"{flag}: belongs to --engine ray")


def play_all(campaign: Campaign, args: argparse.Namespace) -> list[RunFolder]:
    """Play every unfinished run; returns the folders, in the order of the plan.

    Raises:
        UserError: an error of any run, or of the engine.
    """
    if args.engine == "ray":
        from .ray_engine import run_on_ray

        return run_on_ray(campaign, args)
    return run_at_once(campaign, args)
