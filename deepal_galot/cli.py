"""The command line: flags made from the configuration's fields, and what each mode prints."""

from __future__ import annotations

import argparse
import contextlib
import csv
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from . import registry
from .config import BUDGET, COMPILED_FROM, GALOT, GENERATOR, PROTOCOLS, STRATEGY, TRAINING
from .errors import UserError, complain, said
from .flags import Parser, add_fields, set_environment

DESCRIPTION = """\
Deep active learning with generated images (GALOT, arXiv 2412.16227) beside the classic strategies.
Without arguments: MarginSampling and GALOT on the embedded Digits, offline, in minutes."""
EPILOG = """\
A strategy may carry its own settings, so that variants stand in one table:
  run_benchmark.py --strategy MarginSampling GALOT GALOT:epsilon=0 GALOT:direction=random
Exit codes: 0 done; 2 bad input or a missing resource, said in one line; 130 interrupted (Ctrl-C);
143 asked to end (SIGTERM). After any of them, kill -9 too, the same command goes on."""


def build_parser() -> argparse.ArgumentParser:
    """All flags; those of the configuration have their help, unit and default from its fields."""
    parser = Parser(
        prog="run_benchmark.py", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    _add_what_to_run(parser.add_argument_group("what to run"))
    presets = {name: registry.strategies.get(name).preset for name in registry.strategies.names()}
    for title in (BUDGET, TRAINING, STRATEGY, GALOT, GENERATOR):
        add_fields(parser.add_argument_group(title), title, presets=presets)
    _add_where(parser.add_argument_group("where and how"))
    _add_report(parser.add_argument_group("what the report shows"))
    _add_instead(parser.add_argument_group("instead of running"))
    return parser


def _add_what_to_run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--strategy",
        "-a",
        nargs="+",
        metavar="NAME",
        help="strategies, or all: the fourteen of the paper's Table 1 (default: MarginSampling "
        "GALOT)",
    )
    add(
        "--dataset",
        "-d",
        metavar="NAME",
        help="data set: a name (see --list), a folder with train/CLASS/*.png and test/CLASS/*.png, "
        "or an .npz (default: Digits)",
    )
    add(
        "--class-names",
        metavar="FILE",
        type=Path,
        help="without --dataset: class names, one a line, in place of data; needs --mode gal and "
        "--image-size. With --dataset: words for its classes in prompts, one a line, or lines "
        "CLASS = WORD for some of them",
    )
    add(
        "--image-size",
        metavar="N",
        type=int,
        help="with --class-names, or a folder as --dataset: side of the classifier's input in "
        "pixels; images are resized to N×N",
    )
    add(
        "--test-data",
        metavar="FOLDER",
        type=Path,
        help="with --class-names: a sub-folder of test images for each class",
    )
    add("--seeds", nargs="+", metavar="K", type=int, help="run seeds (default: 0 1 2)")
    add("--seed", metavar="K", type=int, help="first of -t seeds K, K+1, …")
    add("-t", dest="trials", metavar="N", type=int, help="number of seeds, from --seed or 0")
    add(
        "--mode",
        metavar="MODE",
        help="what GALOT trains on: al (real), gal (generated), al+gal, or full (every label, one "
        "fit) (default: al+gal)",
    )
    add(
        "--protocol",
        metavar="NAME",
        help=f"{', '.join(PROTOCOLS)}: sets defaults (default: demo for Digits, else paper)",
    )
    add(
        "--experiment",
        nargs="+",
        metavar="NAME",
        help="tables and figures of the paper in place of --strategy, or all; see "
        "--list-experiments",
    )
    add(
        "--scale",
        choices=("full", "small"),
        help="of an experiment: small is one seed and two budgets, where --seeds and --n-rounds "
        "say nothing else (default: full)",
    )
    add("--plugin", action="append", default=[], metavar="FILE",
        help="a Python file with a strategy, generator, data set or classifier; as NAME=FILE, what "
        "is in it gets that name")  # fmt: skip


def _add_where(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("results"),
        help="results, image store and reports (default: results)",
    )
    add(
        "--data-dir",
        metavar="DIR",
        type=Path,
        default=Path("data"),
        help="data sets: downloads, or NAME.npz (default: data)",
    )
    add(
        "--save-full-size",
        metavar="N",
        type=int,
        default=0,
        help="keep the first N generated images of each class and round as the generator made "
        "them, as PNG below images/full/ (default: 0)",
    )
    add(
        "--device",
        metavar="NAME",
        default="auto",
        help="auto, cpu, cuda, cuda:1, mps (default: auto)",
    )
    add(
        "--jobs",
        metavar="N",
        type=int,
        help="runs at once, each in a process of its own with its share of the CPU's threads and "
        "of the GPU's memory; where each has as many threads, with the same bits (default: 1)",
    )
    _add_engine(add)
    add("--deterministic", action="store_true",
        help="same bits on the same GPU, slower; a CPU always is")  # fmt: skip
    add("--compile", action="store_true",
        help=f"compile the generator, and on a GPU fits of {COMPILED_FROM:,} steps or more: faster "
        f"after minutes; needs a C++ compiler")  # fmt: skip
    add("--checkpointing", action="store_true",
        help="the ascent's gradient in less memory and more time")  # fmt: skip


def _add_engine(add: Callable[..., object]) -> None:
    add(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="what plays the runs: this machine, or a Ray cluster whose nodes share --output, "
        "--data-dir and the models (default: local)",
    )
    add(
        "--address",
        metavar="HOST:PORT",
        help="with --engine ray: the cluster's, auto for the one that this node belongs to, or "
        "local for a new one of this machine alone (default: Ray's, auto or else local)",
    )
    add(
        "--gpus-per-run",
        metavar="X",
        type=float,
        help="with --engine ray: GPU of a run, or of an actor that draws; 0.5 puts two on one, "
        "each with its share of the memory (default: 1 if the cluster has GPUs, else 0)",
    )
    add(
        "--cpus-per-run",
        metavar="N",
        type=int,
        help="with --engine ray: CPU cores of each, which are its threads (default: 1)",
    )
    add(
        "--draw-actors",
        metavar="N",
        type=int,
        help="with --engine ray: actors, each with a pipeline and as much room as a run, among "
        "which the runs' images are drawn, with the same pixels; the text optimisation stays "
        "with the run, and with it all of --text-per image (default: none, a run draws its own)",
    )


def _add_report(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--baseline",
        metavar="LABEL",
        help="method that the others are compared with, as tables call it (default: the first "
        "that learns from real images alone, or the experiment's)",
    )
    add(
        "--target-accuracy",
        nargs="+",
        type=float,
        metavar="X",
        default=[],
        help="say how many labels each method needs for X %% (default: the baseline's last)",
    )
    add(
        "--annotations",
        nargs="+",
        type=Path,
        metavar="FILE",
        default=[],
        help="marks that people saved on the page of --annotate",
    )


def _add_instead(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--list", action="store_true", help="name every strategy, generator, data set, … and leave")
    add("--dry-run", action="store_true", help="check everything, say what it costs, and leave")
    add("--list-experiments", action="store_true",
        help="the paper's tables and figures: what each is and costs on --dataset")  # fmt: skip
    add(
        "--report",
        nargs="*",
        type=Path,
        metavar="DIR",
        help="tables, pictures and a page of what lies in these results folders, of several "
        "machines too (default: --output); written below --output",
    )
    add(
        "--annotate",
        type=int,
        metavar="N",
        help="write a page on which a person marks N generated images of each class and method "
        "right or wrong; of the runs of --dataset and --experiment, in --output or --report DIR",
    )
    add(
        "--predict",
        metavar="FOLDER",
        type=Path,
        help="label a folder's images as CSV; needs --from",
    )
    add("--from", dest="from_run", metavar="RUN", type=Path,
        help="with --predict: the run's seed folder")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    set_environment()
    args = None
    try:
        with _ended_like_interrupted():
            parser = build_parser()
            args = parser.parse_args(argv)
            _check_actions(args, parser)
            return _dispatch(args)
    except UserError as error:
        return complain(error)
    except OSError as error:  # a full disk, a lost file system
        return complain(f"{error}; {KEPT}")
    except Exception as error:
        fault = _fault(error)
        if fault is None:
            raise  # a bug of ours; its traceback is wanted
        return complain(fault)
    except KeyboardInterrupt as stop:
        word, code = ("ended", 143) if isinstance(stop, Ended) else ("interrupted", 130)
        goes_on = args is not None and not _asked(args)
        after = ": the same command goes on where this one stopped" if goes_on else ""
        print(f"\n{word}{after}", file=sys.stderr)
        return code


KEPT = "what is recorded is kept, and the same command goes on"


class Ended(KeyboardInterrupt):
    """Asked to end by SIGTERM, as clusters do before they kill."""


@contextlib.contextmanager
def _ended_like_interrupted() -> Iterator[None]:
    """SIGTERM is heard as Ctrl-C is, where signals are heard: in the main thread."""

    def end(*_: object) -> None:
        raise Ended

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fault(error: BaseException) -> str | None:
    """The line about an error that is none of ours; None if it is one."""
    from .device import compiler_fault, is_out_of_memory

    if is_out_of_memory(error):
        return f"out of memory ({said(error)}); {KEPT} where there is more"
    return compiler_fault(error) or registry.plugin_fault(error)


# With --annotate, --report only says where: so it comes after.
INSTEAD = ("list", "list_experiments", "predict", "annotate", "report", "dry_run")
ANYWAY = {"plugin", "output", "data_dir", "help"}  # say where things are
FOUND = ANYWAY | {"dataset", "experiment", "report", "annotate"}
READ = {"list": ANYWAY | {"list"}, "predict": ANYWAY | {"predict", "from_run", "device"},
        "annotate": FOUND,
        "report": FOUND | {"baseline", "target_accuracy", "annotations"}}  # fmt: skip


def _asked(args: argparse.Namespace) -> list[str]:
    """What is to be done instead of running something."""
    return [a for a in INSTEAD if getattr(args, a) not in (None, False)]


def _check_actions(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """
    Raises:
        UserError: flags of which one would be ignored.
    """
    asked = _asked(args)
    flags = [f"--{a.replace('_', '-')}" for a in asked]
    if len(asked) > 1 and set(asked) != {"annotate", "report"}:
        raise UserError(f"{' and '.join(flags)}: one at a time")
    if set(asked) & {"annotate", "report"} and args.strategy is not None:
        raise UserError(f"{flags[0]}: is about all runs of --dataset; leave out --strategy")
    if asked and asked[0] in READ:
        for action in parser._actions:
            if action.dest not in READ[asked[0]] and getattr(args, action.dest) != action.default:
                raise UserError(f"{action.option_strings[0]}: {flags[0]} does not read it; leave "
                                f"it out")  # fmt: skip
    if args.scale is not None and not (args.experiment or args.list_experiments):
        raise UserError(f"--scale {args.scale}: belongs to --experiment")


def _dispatch(args: argparse.Namespace) -> int:
    for plugin in args.plugin:
        registry.load_plugin(plugin)
    if args.list:
        print(_listing())
        return 0
    if args.predict or args.from_run:
        return _predict(args)
    if args.list_experiments:
        from .experiment_campaigns import list_experiments

        return _say(list_experiments(args))
    if args.annotate is not None or args.report is not None:
        from . import reporting

        return _say([reporting.report(args) if args.annotate is None else reporting.annotate(args)])
    return _experiments(args) if args.experiment else _run(args)


def _listing() -> str:
    from generators.prompts import TEMPLATES

    sections = {kind: r.describe() for kind, r in registry.ALL.items()}
    sections["protocols"] = [(name, p.summary) for name, p in PROTOCOLS.items()]
    sections["templates"] = list(TEMPLATES.items())
    lines = []
    for title, rows in sections.items():
        width = max(len(name) for name, _ in rows)
        lines += [f"{title}:", *(f"  {name.ljust(width)}  {text}" for name, text in rows), ""]
    return "\n".join(lines).rstrip()


def _predict(args: argparse.Namespace) -> int:
    from .device import pick_device
    from .predict import predict_folder

    if not (args.predict and args.from_run):
        raise UserError("--predict FOLDER and --from RUN go together")
    labels = list(predict_folder(args.predict, args.from_run, pick_device(args.device)))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "class", "probability"])
    writer.writerows((file.name, name, f"{p:.4f}") for file, name, p in labels)
    return 0


def _say(lines: Iterable[str]) -> int:
    for line in lines:
        print(line)
    return 0


def _experiments(args: argparse.Namespace) -> int:
    from .engines import check_engine
    from .experiment_campaigns import dry_run_experiments
    from .reporting import experiments

    check_engine(args)
    return _say(dry_run_experiments(args) if args.dry_run else [experiments(args)])


def _run(args: argparse.Namespace) -> int:
    from .campaign import Campaign
    from .engines import check_engine, play_all
    from .plan import make_plan
    from .report.write import write_report
    from .reporting import check_baseline, wish_of
    from .request import request_of

    check_engine(args)
    request, wish = request_of(args), wish_of(args)
    campaign = Campaign(request, make_plan(request, download=not args.dry_run))
    check_baseline(wish, campaign.plan)
    if args.dry_run:
        return _say(campaign.dry_run())
    folders = play_all(campaign, args)
    if campaign.plan.spec.x_test.size:
        print(write_report(folders, args.output, wish))
    else:
        print("no test data, so no accuracy; the classifiers, for --predict FOLDER --from RUN:")
        print("\n".join(f"  {f.path}" for f in folders))
    return 0
