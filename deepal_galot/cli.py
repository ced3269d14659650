"""The command line: each way of calling it, and what it prints."""

from __future__ import annotations

import argparse
import csv
import shlex
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import plugins, registry
from .disk import REFUSED, not_written
from .errors import UserError, complain, said
from .flags import build_parser, set_environment
from .protocols import PROTOCOLS
from .signals import Ended, ended_like_interrupted
from .stdio import mended_streams


@mended_streams()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, of this process or the words given; returns the exit code."""
    set_environment()
    argv = sys.argv[1:] if argv is None else argv
    args = None
    try:
        with ended_like_interrupted():
            if isinstance(argv, str):
                raise UserError(
                    f"main takes a list of words, e.g. ['--strategy', 'GALOT'], not {argv!r:.99}"
                )
            parser = build_parser()
            try:
                args = parser.parse_args(argv)
            except SystemExit as stop:  # after --help
                return stop.code
            args.command = shlex.join(argv)
            _check_actions(args, parser)
            code = _dispatch(args)
            sys.stdout.flush()  # here, where a closed pipe is handled silently
            return code
    except UserError as error:
        return complain(error)
    except SystemExit as stop:
        fault = plugins.plugin_fault(stop)
        if fault is None:
            raise
        return complain(fault)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and not _is_read():
            return 141  # the code of a process ended by SIGPIPE
        fault = _fault(error, args.output if args else None)
        if fault is None:
            raise  # our bug; show the traceback
        return complain(fault)
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Ended) else signal.SIGINT
        word = "interrupted" if number == signal.SIGINT else "ended"
        if args is None:  # the libraries were loading
            print(f"{word}: nothing has begun", file=sys.stderr)
            return 128 + number
        after = "" if _asked(args) else ": the same command goes on where this one stopped"
        print(f"\n{word}{after}", file=sys.stderr)
        return 128 + number


def _is_read() -> bool:
    """Whether somebody still reads the output. Only writing can tell."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except BrokenPipeError:
        return False
    return True


KEPT = "what is recorded is kept, and the same command goes on"


def _fault(error: BaseException, output: Path | None) -> str | None:
    """Error line for an error that is not our bug; None if it is."""
    from .device import compiler_fault, is_out_of_memory

    if is_out_of_memory(error):
        return f"out of memory ({said(error)}); {KEPT} where there is more"
    fault = compiler_fault(error) or plugins.plugin_fault(error)
    if fault is None and isinstance(error, OSError):
        if error.errno not in REFUSED:  # a full disk, a lost file system
            return f"{error}; {KEPT}"
        file = Path(error.filename).resolve() if error.filename else None
        if file and output is not None and file.is_relative_to(output.resolve()):
            return not_written(output, error)
        return f"{error}; what is recorded is kept"
    return fault


# `annotate` comes before `report`, because with --annotate, --report only names folders.
INSTEAD = ("list", "list_experiments", "predict", "annotate", "report", "dry_run")
ANYWAY = {"plugin", "output", "data_dir", "help"}  # locations
FOUND = ANYWAY | {"dataset", "experiment", "report", "annotate"}
READ = {"list": ANYWAY | {"list"}, "predict": ANYWAY | {"predict", "from_run", "device"},
        "annotate": FOUND,
        "report": FOUND | {"baseline", "target_accuracy", "annotations"}}  # fmt: skip


def _asked(args: argparse.Namespace) -> list[str]:
    """The flags that ask for something else than running."""
    return [a for a in INSTEAD if getattr(args, a) not in (None, False)]


def _check_actions(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Check for flags that would be ignored.

    Raises:
        UserError: there is one.
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
                raise UserError(
                    f"{action.option_strings[0]}: {flags[0]} does not read it; leave it out"
                )
    if args.scale is not None and not (args.experiment or args.list_experiments):
        raise UserError(f"--scale {args.scale}: belongs to --experiment")


def _dispatch(args: argparse.Namespace) -> int:
    from generators.weights import forget_weights

    plugins.forget_plugins()  # of an earlier command of this process, and its models' hashes
    forget_weights()
    for plugin in args.plugin:
        plugins.load_plugin(plugin)
    if args.list:
        print(_listing())
        return 0
    if args.predict or args.from_run:
        return _predict(args)
    if args.list_experiments:
        from .experiment_campaigns import list_experiments

        return _say(list_experiments(args))
    if args.annotate is not None or args.report is not None:
        from .report.command import annotate, report

        return _say([report(args) if args.annotate is None else annotate(args)])
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
    from .experiment_campaigns import dry_run_experiments, run_experiments
    from .report.command import others, report_options
    from .report.write import write_report

    check_engine(args)
    if args.dry_run:
        return _say(dry_run_experiments(args))
    options = report_options(args)
    folders, exhibits = run_experiments(args)
    print(write_report(folders, args.output, options, exhibits))
    return _say(others(folders, args.output))


def _run(args: argparse.Namespace) -> int:
    from .campaign import Campaign
    from .engines import check_engine, play_all
    from .plan import make_plan
    from .report.command import check_baseline, others, report_options
    from .report.write import write_report
    from .request import request_of

    check_engine(args)
    request, options = request_of(args), report_options(args)
    campaign = Campaign(request, make_plan(request, download=not args.dry_run))
    check_baseline(options, campaign.plan)
    if args.dry_run:
        return _say(campaign.dry_run())
    folders = play_all(campaign, args)
    if campaign.plan.spec.x_test.size:
        print(write_report(folders, args.output, options))
        _say(others(folders, args.output))
    else:
        print("no test data, so no accuracy; the classifiers, for --predict FOLDER --from RUN:")
        print("\n".join(f"  {f.path}" for f in folders))
    return 0
