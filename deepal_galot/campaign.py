"""A campaign: strategies × seeds on one data set, planned and checked before the first fit."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from generators.base import Generator
from generators.diffusion import DiffusionGenerator, find_weights
from generators.image_store import ImageStore
from generators.prompts import template_text
from query_strategies.strategy import Strategy

from . import registry
from .classifiers.base import Classifier
from .config import GALOT, GENERATOR, RunConfig, field_type, option_fields, resolve
from .datasets.base import Dataset, DatasetSpec
from .errors import UserError
from .galot import Galot
from .pool import check_budget
from .registry import did_you_mean
from .results import Row, RunFolder, folder_of, label_of
from .trial import Trial

MODES = ("al", "gal", "al+gal", "full")


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        strategies: names, each with optional own settings: "GALOT:epsilon=0,gal_strategy=random".
        dataset: a data set class of the registry, or None if spec is given.
        spec: the data in memory, if there is no data set class (class names only).
        seeds: run seeds.
        mode: what strategies that generate train on; None for each strategy's own.
        flags: RunConfig fields set on the command line.
        output, data_dir: folders.
        device: resolved.
        deterministic: forbid kernels whose result depends on timing.
    """

    strategies: tuple[str, ...]
    dataset: type[Dataset] | None
    seeds: tuple[int, ...]
    mode: str | None
    flags: Mapping[str, Any]
    output: Path
    data_dir: Path
    device: torch.device
    deterministic: bool = False
    spec: DatasetSpec | None = None


@dataclass(frozen=True)
class Run:
    """One planned run: the configuration, the classes it names, and its folder."""

    config: RunConfig
    settings: Mapping[str, str]
    strategy: type[Strategy]
    architecture: type[Classifier]
    generator: type[Generator] | None
    content: Mapping[str, str]

    def folder(self, output: Path) -> Path:
        return folder_of(output, self.config, self.content)

    @property
    def label(self) -> str:
        return label_of(self.config.strategy, self.settings)


@dataclass
class Campaign:
    """The checked plan and the data; `run` plays what is not finished."""

    request: Request
    spec: DatasetSpec
    runs: list[Run]
    _generators: dict[tuple, Generator] = field(default_factory=dict)

    def run(self) -> list[RunFolder]:
        """Play every run that is not finished; strategies in turn, seed by seed.

        Returns:
            The folders, in the order of the plan.
        """
        if self.request.deterministic:
            torch.use_deterministic_algorithms(True)
        folders = [self._open(run) for run in self.runs]
        for run, folder in zip(self.runs, folders, strict=True):
            if run.generator and not folder.finished:
                self._generator(run)  # what is wrong with a model shows before the first fit
        done = sum(len(f.rows()) for f in folders)
        total = sum(f.config.cycles for f in folders)
        with tqdm(total=total, initial=done, desc="campaign", unit="round", disable=None) as bar:
            for run, folder in zip(self.runs, folders, strict=True):
                if not folder.finished:
                    self._play(run, folder, bar)
        return folders

    def _open(self, run: Run) -> RunFolder:
        return RunFolder.create(self.request.output, run.config, run.content, run.settings)

    def _play(self, run: Run, folder: RunFolder, bar: tqdm) -> None:
        folder.save_environment(environment(self.request))
        name = f"{self.spec.name} {run.label} seed {run.config.seed}"
        bar.set_description(name)

        def on_round(row: Row) -> None:
            bar.update(1)
            bar.write(f"{name}  {describe_row(row, run.config)}", file=sys.stderr)

        make_galot = (lambda: self._galot(run, folder)) if run.generator else None
        trial = Trial(
            folder, self.spec, run.strategy, run.architecture, self.request.device, make_galot
        )
        trial.run(on_round)

    def _galot(self, run: Run, folder: RunFolder) -> Galot:
        """The generating half of a run."""
        store = ImageStore(self.request.output / "images")
        names, shape = self.spec.class_names, self.spec.image_shape
        return Galot(run.config, self._generator(run), store, folder, names, shape)

    def _generator(self, run: Run) -> Generator:
        """Loaded once for all runs that use it alike."""
        c = run.config
        key = (c.generator, c.steps, c.guidance, c.scheduler, c.resolution)
        if key not in self._generators:
            self._generators[key] = run.generator(c, self.request.device)
        return self._generators[key]


def plan(request: Request) -> Campaign:
    """Check everything that can be checked before the first fit, and load the data.

    Raises:
        UserError: an unknown name, a value out of range, a generator that does not know the
            classes or cannot be had, missing data, a budget larger than the pool.
    """
    entries = [parse_strategy(s) for s in request.strategies]
    _check_mode(request, entries)
    names_first = [  # cheap checks before any loading or hashing
        (_configure(request, cls, own), _configure(request, cls, {}, flags={}))
        for cls, own in entries
    ]
    for config, _ in names_first:
        _classes(config, request)
    spec = request.spec or request.dataset().load(request.data_dir)
    runs: dict[Path, Run] = {}
    for config, default in names_first:
        if config.mode in ("al", "al+gal"):
            check_budget(spec, config.budget(config.n_rounds))
        for seed in request.seeds:
            run = _run(dataclasses.replace(config, seed=seed), default, request, spec)
            runs.setdefault(run.folder(request.output), run)
    return Campaign(request, spec, list(runs.values()))


def parse_strategy(text: str) -> tuple[type[Strategy], dict[str, Any]]:
    """A strategy's class and own settings.

    >>> parse_strategy("GALOT:epsilon=0,gal-strategy=random")[1]
    {'epsilon': 0.0, 'gal_strategy': 'random'}

    Raises:
        UserError: an unknown strategy or setting, or a value that does not parse.
    """
    name, _, settings = text.partition(":")
    cls = registry.strategies.get(name)
    own: dict[str, Any] = {}
    known = {f.name for f in option_fields()}
    for setting in filter(None, settings.split(",")):
        key, equals, value = setting.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise UserError(f"--strategy {text!r}: write its settings as NAME:key=value,key=value")
        if key == "mode":
            own[key] = value
        elif key in known:
            own[key] = parse_value(key, value, f"--strategy {text!r}")
        else:
            raise UserError(f"--strategy {text!r}: unknown setting: {did_you_mean(key, known)}")
    return cls, own


def parse_value(key: str, value: str, where: str) -> Any:
    """A field's value from text.

    Raises:
        UserError: not a number where one is needed.
    """
    kind = field_type(key)
    try:
        return kind(value)
    except ValueError:
        word = "a whole number" if kind is int else "a number"
        raise UserError(f"{where}: {key} needs {word}, not {value!r}") from None


def _check_mode(request: Request, entries: Sequence[tuple[type[Strategy], dict]]) -> None:
    for mode in {request.mode, *(own.get("mode") for _, own in entries)} - {None}:
        if mode not in MODES:
            raise UserError(f"unknown mode {mode!r}: {did_you_mean(mode, MODES)}")
    silent = [(cls, own) for cls, own in entries if not cls.generates]
    for cls, own in silent if len(silent) < len(entries) else entries:
        mode = own.get("mode") or (request.mode if len(silent) == len(entries) else None)
        if mode in ("gal", "al+gal"):
            raise UserError(
                f"--mode {mode}: {registry.class_name(cls)} generates no images; use GALOT (with "
                f"--base-sampler {registry.class_name(cls)} for its picks)"
            )


def _configure(
    request: Request, cls: type[Strategy], own: Mapping[str, Any], flags: Mapping | None = None
) -> RunConfig:
    """One strategy's configuration (seed 0), from all layers."""
    flags = dict(request.flags if flags is None else flags) | dict(own)
    flags.setdefault("protocol", request.flags.get("protocol"))
    if flags["protocol"] is None:
        del flags["protocol"]
    mode = flags.pop("mode", None) or request.mode
    if "template" in flags:
        flags["template"] = template_text(flags["template"])
    defaults = dict(request.dataset.defaults) if request.dataset else {}
    name, fixed = registry.class_name(cls), dict(cls.fixed)
    if mode == "full":
        name, fixed = "FullySupervised", {"n_rounds": 0, "quota": None}
    elif not cls.generates or mode == "al":
        mode = "al"
    else:
        mode = mode or "al+gal"
    dataset = request.dataset.__name__ if request.dataset else request.spec.name
    generator = generator_class((defaults | flags).get("generator", "sd-2.1-base"))
    config = resolve(
        name, dataset, mode=mode, flags=flags, dataset_defaults=defaults,
        generator_defaults=generator.defaults, fixed=fixed,
    )  # fmt: skip
    if mode == "al" and cls.generates:  # without its images GALOT is its base sampler
        base = registry.class_name(registry.strategies.get(config.base_sampler))
        config = dataclasses.replace(config, strategy=base)
    return config


def generator_class(source: str) -> type[Generator]:
    """A registered name, a folder or a hub id; a name wins over a folder that is called alike."""
    if source not in registry.generators and ("/" in source or Path(source).is_dir()):
        return DiffusionGenerator.at(source)
    return registry.generators.get(source)


def _classes(
    config: RunConfig, request: Request
) -> tuple[type[Strategy], type[Classifier], type[Generator] | None]:
    """The classes a configuration names; refuses what does not fit together.

    Raises:
        UserError: an unknown name, or a generator that does not know the data set's classes.
    """
    strategy = Strategy
    if config.mode != "full":
        strategy = registry.strategies.get(config.strategy)
    architecture = registry.classifiers.get(config.classifier)
    if not config.uses_generated_images:
        return strategy, architecture, None
    base = registry.strategies.get(config.base_sampler)
    if base.generates:
        raise UserError(
            f"--base-sampler {config.base_sampler}: must pick real images only, e.g. MarginSampling"
        )
    generator = generator_class(config.generator)
    class_names = request.spec.class_names if request.spec else request.dataset.class_names
    generator.check_classes(class_names, config.dataset)
    if issubclass(generator, DiffusionGenerator):
        find_weights(generator.source)
    return strategy, architecture, generator


def _run(config: RunConfig, default: RunConfig, request: Request, spec: DatasetSpec) -> Run:
    strategy, architecture, generator = _classes(config, request)
    content = {"data": spec.content_hash}
    used = [(registry.strategies, config.strategy), (registry.classifiers, config.classifier)]
    if generator is not None:
        content["generator"] = generator.content_hash()
        used += [
            (registry.generators, config.generator),
            (registry.strategies, config.base_sampler),
        ]
    for kind, name in used:
        plugin = kind.plugin_file(name)
        if plugin is not None:
            content[f"plugin {name}"] = registry.file_hash(plugin)
    return Run(config, _settings(config, default), strategy, architecture, generator, content)


def _settings(config: RunConfig, default: RunConfig) -> dict[str, str]:
    """How the strategy's generating half differs from its default on this data set."""
    if not config.uses_generated_images:
        return {}
    own = [f.name for f in option_fields() if f.metadata["group"] in (GALOT, GENERATOR)]
    read = config.fields_read() | {"generator": config.generator}
    differs = {"mode": config.mode} if config.mode != default.mode else {}
    for key in own:
        value = read.get(key)
        if key in read and value != getattr(default, key):
            differs[key] = f"{value:g}" if isinstance(value, float) else str(value)
    return differs


def describe_row(row: Row, config: RunConfig) -> str:
    """One line about a finished round."""
    accuracy = "" if row["accuracy"] is None else f"  accuracy {row['accuracy']:.4f}"
    seconds = sum(v for k, v in row.items() if k.endswith("_seconds"))
    return (
        f"round {row['round']}/{config.n_rounds}: {row['labels']} labels + {row['images']} "
        f"generated{accuracy}  {seconds:.1f} s"
    )


def pick_device(name: str) -> torch.device:
    """auto, cpu, cuda, cuda:1, mps -> a device that is there.

    Raises:
        UserError: it is not there, or no such kind.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name!r}: use auto, cpu, cuda, cuda:1 or mps") from None
    there = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise UserError(f"--device {name}: this machine has none; use --device auto or cpu")
    return device


def environment(request: Request) -> dict[str, Any]:
    """What a result may depend on beside its configuration."""
    packages = ("torch", "torchvision", "diffusers", "transformers", "numpy", "scikit-learn")
    device = request.device
    return {
        "command": " ".join(sys.argv[1:]),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else
        platform.processor() or platform.machine(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "deterministic": request.deterministic or device.type == "cpu",
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }  # fmt: skip


def dry_run(campaign: Campaign) -> Iterator[str]:
    """Lines that say what each run will cost, and whether it is finished already."""
    for run in campaign.runs:
        c, path = run.config, run.folder(campaign.request.output)
        finished = len(RunFolder.open(path, c.n_rounds).rows()) if path.exists() else 0
        labels = 0 if c.mode == "gal" else c.budget(c.n_rounds)
        if c.mode == "full":
            labels = len(campaign.spec.x_train)
        line = f"{run.label} seed {c.seed}: {c.cycles} fits, {labels:,} labels"
        if run.generator:
            rounds = range(c.cycles)
            images = sum(round(c.oversample * c.n_synthetic_at(r)) for r in rounds)
            line += f", {images:,} generated images"
            if c.gal_strategy != "random":
                steps = sum(c.epsilon_at(r) > 0 for r in rounds) * c.ascent_steps
                ascent = steps * c.ascent_samples * len(campaign.spec.class_names)
                line += f" + {ascent:,} for the text optimisation"
        yield f"{line}; {finished}/{c.cycles} rounds done; {path}"
