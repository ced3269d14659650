"""From the command line to a report: which runs and exhibits are meant, and its options."""

from __future__ import annotations

import argparse
import glob
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..datasets.user_data import is_path, results_name
from ..errors import UserError, did_you_mean
from ..experiments import named
from ..plan import Plan
from ..results import RunFolder, find_runs
from .annotation import read_marks
from .exhibit import Exhibit, find_exhibits
from .write import ReportOptions, write_annotation_page, write_report


def report(args: argparse.Namespace) -> str:
    """Write a report of what lies in the results folders; returns the terminal's text.

    Raises:
        UserError: there is nothing of the kind, or a flag is wrong.
    """
    options, (folders, exhibits) = report_options(args), find(args)
    return write_report(folders, args.output, options, exhibits)


def annotate(args: argparse.Namespace) -> str:
    """Write the page on which a person marks images; returns the terminal's text.

    Raises:
        UserError: there is nothing of the kind, or a flag is wrong.
    """
    folders, exhibits = find(args)
    if args.experiment:
        wanted = {arm.folder for e in exhibits for arm in e.arms}
        folders = [f for f in folders if f.method in wanted]
    return write_annotation_page(folders, args.output, args.annotate)


def report_options(args: argparse.Namespace) -> ReportOptions:
    """
    Raises:
        UserError: a target that is not a percentage, or marks that cannot be read.
    """
    for target in args.target_accuracy:
        if not 0 < target <= 100:
            raise UserError(f"--target-accuracy {target:g}: must be above 0 and at most 100 %")
    return ReportOptions(
        args.baseline,
        tuple(t / 100 for t in args.target_accuracy),
        tuple(read_marks(args.annotations)),
        bold=sys.stdout.isatty(),
        exhibits_only=bool(args.experiment),
    )


def others(folders: Sequence[RunFolder], output: Path) -> list[str]:
    """A line if runs that are not among these lie beside them, as those of an array job's other
    seeds do."""
    lines = []
    ours = {folder.key for folder in folders}
    for name in dict.fromkeys(folder.config.dataset for folder in folders):
        paths = [file.parent for file in output.glob(f"{glob.escape(name)}/*/*/seed*/rounds.jsonl")]
        n = sum(("/".join(path.parts[-4:-1]), path.name) not in ours for path in paths)
        if n:
            lines.append(
                f"{n} other run{'s' * (n > 1)} of {name} in {output}; all of them together: "
                f"python run_benchmark.py --report --dataset {shlex.quote(name)} "
                f"--output {shlex.quote(str(output))}"
            )
    return lines


def check_baseline(options: ReportOptions, plan: Plan) -> None:
    """Before a campaign runs; what its label says behind the strategy's name is seen afterwards.

    Raises:
        UserError: the baseline is of a strategy that is not run.
    """
    strategies = {run.config.strategy for run in plan.runs}
    if options.baseline is not None and options.baseline.partition(":")[0] not in strategies:
        hint = did_you_mean(options.baseline, strategies)
        raise UserError(f"--baseline {options.baseline!r}: is not among what is run: {hint}")


def find(args: argparse.Namespace) -> tuple[list[RunFolder], list[Exhibit]]:
    """The runs and exhibits of --dataset and --experiment, or all, in the folders that are meant.

    Raises:
        UserError: no such folder, or nothing of the kind in it.
    """
    roots = args.report or [args.output]
    where = ", ".join(map(str, roots))
    folders = [folder for root in roots for folder in find_runs(root)]
    exhibits = list({e.file_name: e for root in roots for e in find_exhibits(root)}.values())
    if args.dataset:
        wanted = _dataset(args.dataset, folders, where)
        folders = [f for f in folders if f.config.dataset == wanted]
        exhibits = [e for e in exhibits if e.dataset == wanted]
    if args.experiment:
        names = named(args.experiment)
        exhibits = [e for e in exhibits if e.name in names]
        if not exhibits:
            raise UserError(f"--experiment {' '.join(names)}: has not been run in {where}")
    return folders, exhibits


def _dataset(asked: str, folders: Sequence[RunFolder], where: str) -> str:
    """The data set's name as the results have it."""
    wanted = results_name(Path(asked)) if is_path(asked) else asked
    known = {f.config.dataset for f in folders}
    found = [name for name in known if name.casefold() == wanted.casefold()]
    if not found:
        raise UserError(f"--report: no runs of {asked!r} in {where}: {did_you_mean(wanted, known)}")
    return found[0]
