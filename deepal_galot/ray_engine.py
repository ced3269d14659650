"""A campaign on a Ray cluster. Each run is a task. Actors, which hold one pipeline each, draw
images.

Ray does scheduling, placement and retries. If a worker or node is lost, its run is played again
elsewhere; its folder keeps all rounds but the current one. Ray does not check that all nodes see
the same files and the same code. So a worker checks it, and stops with a one-line error.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import hashlib
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from generators.base import Generator, ImageRequest
from generators.image_store import Batch, Rows, draw, draw_here
from generators.weights import forget_weights

from . import plugins, registry
from .campaign import Campaign
from .costs import costs_of
from .device import versions
from .errors import UserError, said
from .flags import set_environment
from .jobs import campaign_anew, watch
from .results import RunFolder

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util import ActorPool
except ImportError as error:
    raise UserError(
        f'--engine ray needs Ray ({said(error)}): pip install -e ".[ray]", on every node'
    ) from error

RETRIES = 3  # of a run or an actor after its worker or node was lost
ANSWER_SECONDS = 5.0  # timeout for the head of a cluster
LOOK_SECONDS = 2.0  # interval for reading new rows from the shared file system
ENVIRONMENT = ("DEEPAL_GALOT_MODELS", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")  # for models
CODE = ("deepal_galot", "generators", "query_strategies")


@dataclass(frozen=True)
class Share:
    """The part of a node that a run, or an actor that draws, uses."""

    cpus: int
    gpus: float

    @classmethod
    def asked(cls, args: argparse.Namespace) -> Share:
        """From the flags. By default one GPU if the cluster has any and --device is auto."""
        gpus = args.gpus_per_run
        if gpus is None:
            gpus = float(args.device == "auto" and ray.cluster_resources().get("GPU", 0) >= 1)
        return cls(1 if args.cpus_per_run is None else args.cpus_per_run, gpus)

    @property
    def options(self) -> dict[str, Any]:
        """Ray's options. They pass on the environment variables that locate models, so that workers
        find the same models as the driver."""
        found = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        env = {"runtime_env": {"env_vars": found}} if found else {}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, **env}

    def room(self) -> int:
        """How many shares fit on the live nodes at the same time, if nothing else runs there."""
        return sum(self._fits(n["Resources"]) for n in ray.nodes() if n["Alive"])

    def _fits(self, node: Mapping[str, float]) -> int:
        by_cpu = int(node.get("CPU", 0)) // self.cpus
        return min(by_cpu, int(node.get("GPU", 0)) * int(1 / self.gpus)) if self.gpus else by_cpu

    def __str__(self) -> str:
        return f"{self.cpus} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


@dataclass(frozen=True)
class Order:
    """A command line, for workers to act as if it had been typed on their node.

    Attributes:
        args: its flags, with --device set according to the share.
        folder: the working directory.
        share: resources of each run.
        code: hash of the sources and versions, see `_code`.
        runs: for each run of the plan, its folder and the hashes of what it reads.
    """

    args: argparse.Namespace
    folder: str
    share: Share
    code: Mapping[str, str]
    runs: tuple[tuple[str, Mapping[str, str]], ...]


def check(args: argparse.Namespace) -> None:
    """Check the flags for Ray.

    Raises:
        UserError: flags that do not go together, or a number out of range.
    """
    if args.jobs is not None:
        raise UserError(
            f"--jobs {args.jobs}: on Ray, --cpus-per-run and --gpus-per-run say how many runs fit "
            f"at once; leave it out"
        )
    if args.device not in ("auto", "cpu"):
        raise UserError(
            f"--device {args.device}: Ray says which GPU is whose; leave it out, or --device cpu"
        )
    if args.cpus_per_run is not None and args.cpus_per_run < 1:
        raise UserError(f"--cpus-per-run {args.cpus_per_run}: at least 1")
    gpus = args.gpus_per_run
    if gpus is not None and not 0 <= gpus <= 1:
        raise UserError(f"--gpus-per-run {gpus:g}: a run uses one GPU or a part of it, 0 to 1")
    if gpus and args.device == "cpu":
        raise UserError(f"--gpus-per-run {gpus:g}: leave out --device cpu")
    if args.draw_actors is not None and args.draw_actors < 1:
        raise UserError(f"--draw-actors {args.draw_actors}: at least 1")
    if args.address is not None and "://" in args.address:
        raise UserError(
            f"--address {args.address}: start the command on a node of the cluster, with "
            f"--address auto or HOST:PORT; Ray Client is not supported"
        )


def run_on_ray(campaign: Campaign, args: argparse.Namespace) -> list[RunFolder]:
    """Play every unfinished run, as many at the same time as fit on the cluster.

    Returns:
        The folders, in the order of the plan.

    Raises:
        UserError: an error of any run; or there is no such cluster, no room in it, or a run lost
            its worker more than RETRIES times.
    """
    _connect(args.address)
    draws = any(run.makes_images for run in campaign.plan.runs)
    share, n_actors = Share.asked(args), (args.draw_actors or 0) * draws
    _check_room(share, n_actors)
    args = copy.copy(args)
    args.device = "cuda" if share.gpus else "cpu"
    request = dataclasses.replace(campaign.request, device=torch.device(args.device))
    campaign = Campaign(request, campaign.plan)
    folders = campaign.prepare(load=False)
    order = _order(campaign, args, share)  # small; so restarted actors do not need the object store
    actors = [Drawer.options(**share.options).remote(order) for _ in range(n_actors)]
    order = ray.put(order)
    run = play.options(**share.options)
    tasks = [run.remote(order, i, actors) for i in _longest_first(campaign, folders)]
    try:
        with _causes():
            futures = [task.future() for task in tasks]
            watch(futures, folders, campaign.plan.runs, LOOK_SECONDS)
    finally:  # after an error or Ctrl-C; runs can be continued later
        for task in tasks:
            ray.cancel(task, force=True)
        for actor in actors:
            ray.kill(actor)
    return folders


def _connect(address: str | None) -> None:
    """Connect to the cluster, until this process ends."""
    if ray.is_initialized():
        return
    _check_answers(address)
    ends = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, include_dashboard=False, logging_level=logging.ERROR)
    except (RayError, OSError, RuntimeError, ValueError, AssertionError) as error:
        where = "" if address is None else f" --address {address}"
        raise UserError(f"--engine ray{where}: no cluster to run on ({said(error)})") from error
    if callable(ends):  # Ray has replaced the handler
        signal.signal(signal.SIGTERM, ends)


def _check_answers(address: str | None) -> None:
    """Check that somebody listens at the address. Ray itself would try for minutes and ignore
    Ctrl-C.

    Raises:
        UserError: nobody does.
    """
    host, colon, port = (address or "").rpartition(":")
    if not colon:
        return  # auto, local, or a wrong name, for which Ray fails at once
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"--engine ray --address {address}: no cluster answers there ({said(error)}); give "
            f"HOST:PORT of its head, as `ray start --head` says it, or auto on one of its nodes"
        ) from error


def _check_room(share: Share, actors: int) -> None:
    """Check that runs and actors fit on the cluster, and print how many do.

    Raises:
        UserError: they do not fit, so that the campaign would wait forever.
    """
    nodes, there = sum(node["Alive"] for node in ray.nodes()), ray.cluster_resources()
    where = f"on {nodes} node{'s' * (nodes > 1)} with {there.get('CPU', 0):g} CPUs"
    where += f" and {there.get('GPU', 0):g} GPUs"
    runs = share.room() - actors
    if runs < 1:
        more = f" and {actors} actors, each of {share}" if actors else f" of {share}"
        raise UserError(
            f"--engine ray: no room for a run{more}, {where}; lower --cpus-per-run, --gpus-per-run "
            f"or --draw-actors, or add nodes"
        )
    drawing = f" beside {actors} actors" if actors else ""
    many = f"{runs} run{'s' * (runs > 1)}"
    print(f"on Ray: room for {many} of {share} at once{drawing}, {where}", file=sys.stderr)


def _longest_first(campaign: Campaign, folders: Sequence[RunFolder]) -> list[int]:
    """The unfinished runs, most expensive first, so that no long run starts last. Unknown costs
    count as the highest."""
    costs = costs_of(campaign.plan, campaign.request.output)
    flop = [math.inf if cost.flop is None else cost.flop for cost in costs]
    return sorted(campaign.left(folders), key=lambda i: -flop[i])


def _order(campaign: Campaign, args: argparse.Namespace, share: Share) -> Order:
    return Order(args, os.getcwd(), share, _code(), _runs(campaign))


def _runs(campaign: Campaign) -> tuple[tuple[str, Mapping[str, str]], ...]:
    output = campaign.request.output
    return tuple((str(run.folder(output)), dict(run.content)) for run in campaign.plan.runs)


@cache
def _code() -> dict[str, str]:
    """A hash of this project's sources, and the versions of the libraries."""
    digest = hashlib.sha256()
    for folder in CODE:
        for file in sorted((registry.PACKAGE_ROOT / folder).rglob("*.py")):
            digest.update(file.relative_to(registry.PACKAGE_ROOT).as_posix().encode())
            digest.update(file.read_bytes())
    return {"deepal-galot": digest.hexdigest()[:12]} | versions()


@contextlib.contextmanager
def _causes() -> Iterator[None]:
    """Raise a task's own error instead of Ray's.

    Raises:
        Exception: the error that the task raised.
        UserError: a task or an actor is lost for good.
    """
    try:
        yield
    except RayError as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if not isinstance(cause, RayError):
            raise cause from error
        raise UserError(
            f"--engine ray: Ray gave a run up ({said(cause)}); the same command goes on where this "
            f"one stopped"
        ) from error


# -- on the workers ----------------------------------------------------------------------------


@ray.remote(max_retries=RETRIES)
def play(order: Order, i: int, actors: Sequence[Any]) -> None:
    """Play run i of the plan from its last recorded round.

    Args:
        actors: draw its images; if empty, the task draws them itself.
    """
    with plugins.plugins_named():
        campaign = _campaign(order)
        run = campaign.plan.runs[i]
        campaign.drawing = partial(_draw_there, actors, i) if actors else draw_here
        folder = campaign.open(run)
        if not folder.finished:
            campaign.check(run)
        campaign.play(run, folder)


@ray.remote(max_restarts=RETRIES, max_task_retries=RETRIES)
class Drawer:
    """Actor that draws batches. It holds the plan's generators; runs with the same settings share
    one."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def draw(
        self,
        i: int,
        identity: Mapping[str, Any],
        request: ImageRequest,
        n: int,
        rows: Rows,
        full: bool,
    ) -> tuple[int, Batch]:
        """Draw batch n of a round of run i, with the generator that has this `identity`."""
        with plugins.plugins_named():
            campaign = _campaign(self.order)
            generator = campaign.generator(campaign.plan.runs[i])
            if generator.identity != identity:
                raise UserError(
                    f"--draw-actors: {_node()} would draw other images than the run's node (other "
                    f"number type or batch size): take nodes with alike GPUs, or set --dtype"
                )
            return n, draw(generator, request, rows, full)


def _draw_there(
    actors: Sequence[Any],
    i: int,
    generator: Generator,
    request: ImageRequest,
    batches: Sequence[Rows],
    full: bool,
) -> Iterator[tuple[int, Batch]]:
    """Have the actors draw batches of run i; see generators.image_store.DrawBatches."""
    if request.refinement is not None:  # texts are optimised against the classifier, which is here
        yield from draw_here(generator, request, batches, full)
        return
    sent = ray.put(request)
    with _causes():
        yield from ActorPool(actors).map_unordered(
            lambda actor, batch: actor.draw.remote(i, generator.identity, sent, *batch, full),
            enumerate(batches),
        )


_made: tuple[Order, Campaign] | None = None  # this process's; it plays one command's runs


def _campaign(order: Order) -> Campaign:
    """The command's campaign, made on this node.

    Raises:
        UserError: it would be another one here.
    """
    global _made
    if _made is None or _made[0] != order:
        _as_if_typed_here(order)
        forget_weights()  # workers outlive a command
        campaign = campaign_anew(order.args)
        _check_is_the_same(campaign, order)
        _made = order, campaign
    return _made[1]


def _as_if_typed_here(order: Order) -> None:
    """Bring this process into the state in which the command was typed.

    Raises:
        UserError: the code is different, or the folder is not on this node.
    """
    ours, theirs = _code(), order.code
    other = [f"{k} {ours.get(k)} for {theirs[k]}" for k in theirs if ours.get(k) != theirs[k]]
    if other:
        raise UserError(f"--engine ray: {_node()} has {', '.join(other)}; install it alike on all")
    try:
        os.chdir(order.folder)
    except OSError as error:
        raise UserError(
            f"--engine ray: {_node()} cannot enter {order.folder} ({said(error)}); start the "
            f"command in a folder that all nodes share"
        ) from error
    set_environment()
    torch.set_num_threads(order.share.cpus)
    if 0 < order.share.gpus < 1:
        torch.cuda.set_per_process_memory_fraction(order.share.gpus)


def _check_is_the_same(campaign: Campaign, order: Order) -> None:
    """Check that this node's campaign is the driver's.

    Raises:
        UserError: data, weights or plug-ins are different on this node, or it does not see the
            output folder.
    """
    for (here, _), (there, theirs), run in zip(
        _runs(campaign), order.runs, campaign.plan.runs, strict=True
    ):
        if here != there:
            other = run.other_content(theirs) or ["configuration"]
            raise UserError(
                f"--engine ray: {_node()} has another {' and '.join(other)} for {run.label}; data, "
                f"models and plug-ins must be the same files on all nodes"
            )
        if not Path(here, "config.json").exists():
            raise UserError(
                f"--engine ray: {_node()} does not see {here}, which the command has made; "
                f"--output must be on a file system that all nodes share"
            )


def _node() -> str:
    return f"node {ray.util.get_node_ip_address()}"
