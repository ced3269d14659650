"""A campaign: the runs of a plan in one process, each continued from where it stopped."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from generators.base import Generator, check_text
from generators.image_store import DrawBatches, FullSizeFolder, ImageStore, draw_here
from generators.prompts import prompts_of

from . import cost_table
from .borrowed_galot import BorrowedGalot
from .config import COMPILED_FROM, GENERATOR, RunConfig, fields_of
from .costs import costs_of
from .datasets.base import DatasetSpec
from .device import empty_cache, machine, unused_gpu
from .disk import check_writable
from .errors import UserError
from .galot import Galot
from .generator_choice import load_generator
from .image_counts import new_counts
from .notes import epochs_note, leak_note, scheduler_notes, unread_notes
from .oracle import ReferenceOracle
from .plan import Plan, Run
from .probe import Probe, timed, unprobed
from .request import Request
from .results import Row, RunFolder
from .trial import Trial
from .unlabeled import Unlabeled


@dataclass
class Campaign:
    """A plan and the objects to play it; `run` plays the unfinished runs.

    Attributes:
        drawing: draws the images that runs train on.
    """

    request: Request
    plan: Plan
    drawing: DrawBatches = draw_here
    _generators: dict[tuple, Generator] = field(default_factory=dict)
    _oracles: dict[RunConfig, ReferenceOracle] = field(default_factory=dict)
    _checked: set[tuple] = field(default_factory=set)  # generators' settings and prompts

    def run(self) -> list[RunFolder]:
        """Play every unfinished run, strategy by strategy and seed by seed.

        Returns:
            The folders, in the order of the plan.
        """
        folders = self.prepare()
        with rounds_bar(folders) as bar:
            for run, folder in zip(self.plan.runs, folders, strict=True):
                bar.set_description(name_of(run))

                def on_round(row: Row, run: Run = run) -> None:
                    bar.update(1)
                    bar.write(describe_row(row, run), file=sys.stderr)

                self.play(run, folder, on_round)
        return folders

    def prepare(self, load: bool = True) -> list[RunFolder]:
        """Check everything that needs loading, open the folders, and print the remaining cost.

        Args:
            load: False if other machines play the runs. They call `check` themselves.
        """
        self.set_backends()
        counted = costs_of(self.plan, self.request.output)
        if not self.request.device_named:
            cost_table.refuse_unasked_cpu(counted, self.request.device)
        unfinished = [cost.run for cost in counted if not cost.finished]
        if unfinished:
            check_writable(self.request.output)
        for run in unfinished if load else ():
            self.check(run)
        folders = [self.open(run) for run in self.plan.runs]
        for run, folder in zip(self.plan.runs, folders, strict=True):
            self._check_pictures(run, folder)
        if unfinished:
            if load and cost_table.is_long(counted, self.request.device):
                counted = timed(counted, self._probe())
            summary = cost_table.summary(counted, self.request.device)
            print(*self._notes(), summary, sep="\n", file=sys.stderr)
        return folders

    def dry_run(self) -> Iterator[str]:
        """Lines with each run's remaining cost, after a probe of the device."""
        counted = costs_of(self.plan, self.request.output)
        for cost in counted:
            if not cost.finished and not unprobed(cost, self.request.device):
                self.check(cost.run)
        counted = timed(counted, self._probe())
        yield from cost_table.table(counted, self.request.output, self.request.device)
        yield from self._notes()

    def _notes(self) -> list[str]:
        """Notes on flags without effect, test images in the pool, schedulers that are not the
        model's own, and an unused Apple GPU."""
        request = self.request
        return [
            *unread_notes(request, self.plan),
            *leak_note(request, self.plan),
            *epochs_note(self.plan, request.flags),
            *scheduler_notes(request, self.plan),
            *(() if request.device_named else unused_gpu(request.device)),
        ]

    def _probe(self) -> Probe:
        request = self.request
        return Probe(self.plan.spec, request.device, self.generator, request.compile)

    def check(self, run: Run) -> None:
        """Load the run's generator and encode its prompts, so that a bad model or prompt fails
        before the first fit.

        Raises:
            UserError: it does.
        """
        if not run.makes_images:
            return
        prompts = prompts_of(run.config.template, self.plan.words)
        if (_settings_of(run), prompts) not in self._checked:
            generator = self.generator(run)
            check_text(generator, generator.encode(prompts), len(prompts))
            self._checked.add((_settings_of(run), prompts))

    def _check_pictures(self, run: Run, folder: RunFolder) -> None:
        """Check that --save-full-size can be met for the rounds already played.

        Raises:
            UserError: pictures are missing of a round whose images cannot be drawn again.
        """
        first = self.request.save_full_size
        if not (first and run.generator):
            return
        full_size = self._full_size(folder)
        for row in folder.rows():
            if not run.config.refines_at(row["round"]):
                continue
            counts = new_counts(run.config, self.plan.spec.n_classes, row["round"])
            there = len(list(full_size.of_round(row["round"]).glob("*.png")))
            if there < sum(min(first, n) for n in counts) - row["images_failed"]:
                raise UserError(
                    f"--save-full-size {first}: of round {row['round']} of {name_of(run)} "
                    f"{there} pictures are there, and no others can be drawn any more: with "
                    f"--text-per image that takes the classifier of that round. Leave it out, or "
                    f"play the run anew with another --output"
                )

    def left(self, folders: Sequence[RunFolder]) -> list[int]:
        """Indices of the runs that have something to do. With --save-full-size these are all,
        because finished runs may lack pictures."""
        again = self.request.save_full_size
        return [i for i, folder in enumerate(folders) if again or not folder.finished]

    def set_backends(self) -> None:
        """Set torch's process-wide options."""
        if self.request.deterministic:
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False  # the ascent needs float32's digits

    def open(self, run: Run) -> RunFolder:
        """The folder of a run, made if it is new."""
        return RunFolder.create(
            self.request.output, run.config, run.content, run.settings, run.remark, run.code
        )

    def play(
        self, run: Run, folder: RunFolder, on_round: Callable[[Row], None] = lambda row: None
    ) -> None:
        """Play one run from where it stopped; call `on_round` after each round.

        If another process is playing it, wait for its end and continue from there. A run that is
        done is only read, because its folder may be read-only.
        """
        if folder.done and not self.request.save_full_size:
            return
        with folder.lock():
            self._play(run, folder, on_round)

    def _play(self, run: Run, folder: RunFolder, on_round: Callable[[Row], None]) -> None:
        if folder.finished:
            folder.mark_done()
        else:
            folder.save_environment(environment(self.request, self.plan.spec))
            make_galot = partial(self._galot, run, folder) if run.generator else None
            trial = Trial(
                folder,
                self.plan.spec,
                run.strategy,
                run.architecture,
                self.request.device,
                self._oracle(run),
                make_galot,
            )
            if self.request.compile:
                trial.learner.compiled_from = COMPILED_FROM
            trial.run(on_round)
        if run.generator and self.request.save_full_size:
            self._complete_full_size(run, folder)

    def _complete_full_size(self, run: Run, folder: RunFolder) -> None:
        """Save pictures of the rounds that lack some and can be drawn again."""
        galot = self._galot(run, folder)
        for round in filter(lambda r: not run.config.refines_at(r), range(run.config.cycles)):
            galot.make_images(None, round)

    def _oracle(self, run: Run) -> ReferenceOracle:
        """The oracle of the run's recipe, shared by all runs of it; it is trained on first use."""
        new = ReferenceOracle(self.plan.spec, run.config, run.architecture, self.request.device)
        return self._oracles.setdefault(new.config, new)

    def _galot(self, run: Run, folder: RunFolder, unlabeled: Unlabeled | None = None) -> Galot:
        """The Galot of a run: it makes the images, or takes them from the source run."""
        words, shape = self.plan.words, self.plan.spec.image_shape
        if run.source is not None:
            theirs = ImageStore(run.source.output / "images")
            keys = [row["images_key"] for row in run.source.rows()]
            return BorrowedGalot(
                run.source.config,
                lambda: self.generator(run),
                theirs,
                run.source,
                words,
                shape,
                keys,
            )
        full_size = self._full_size(folder) if self.request.save_full_size else None
        store = ImageStore(self.request.output / "images", full_size, self.drawing)
        return Galot(run.config, self.generator(run), store, folder, words, shape, unlabeled)

    def _full_size(self, folder: RunFolder) -> FullSizeFolder:
        full = self.request.output / "images" / "full"
        own = full / folder.path.relative_to(self.request.output)
        return FullSizeFolder(own, self.request.save_full_size)

    def free(self) -> None:
        """Release the loaded generators."""
        self._generators.clear()
        empty_cache()

    def generator(self, run: Run) -> Generator:
        """The run's generator, loaded once for all runs with the same settings."""
        key, how = _settings_of(run), self.request
        if key not in self._generators:
            self._generators[key] = load_generator(
                run.generator, run.config, how.device, how.compile, how.checkpointing
            )
        return self._generators[key]


def _settings_of(run: Run) -> tuple:
    """The run's generator and its settings."""
    return tuple(getattr(run.config, name) for name in fields_of(GENERATOR))


def rounds_bar(folders: Sequence[RunFolder]) -> tqdm:
    """Progress bar over all rounds, including those recorded already."""
    done, total = sum(len(f.rows()) for f in folders), sum(f.config.cycles for f in folders)
    return tqdm(total=total, initial=done, desc="campaign", unit="round", disable=None)


def name_of(run: Run) -> str:
    """The run's name in messages."""
    return f"{run.config.dataset} {run.label} seed {run.config.seed}"


def describe_row(row: Row, run: Run) -> str:
    """One line about a finished round."""
    accuracy = "" if row["accuracy"] is None else f"  accuracy {row['accuracy']:.4f}"
    seconds = sum(v for k, v in row.items() if k.endswith("_seconds"))
    return (
        f"{name_of(run)}  round {row['round']}/{run.config.n_rounds}: {row['labels']} labels "
        f"+ {row['images']} generated{accuracy}  {seconds:.1f} s"
    )


def environment(request: Request, spec: DatasetSpec) -> dict[str, Any]:
    """Everything besides the configuration that a result may depend on, and facts about its
    data."""
    path = getattr(request.dataset, "path", None)
    where = os.path.abspath(path) if isinstance(path, Path) else None
    of_class = np.bincount(spec.y_train, minlength=spec.n_classes)
    data = {
        "pool": len(spec.x_train),
        "test": len(spec.x_test),
        "path": where,
        "shape": list(spec.image_shape),
        "smallest_class": int(of_class.min()),
        "largest_class": int(of_class.max()),
    }
    return {
        "command": request.command,
        "data": data,
        **machine(request.device),
        "deterministic": request.deterministic or request.device.type == "cpu",
        "compiled": request.compile,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
