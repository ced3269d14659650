"""From a command line to checked runs. Everything is resolved before anything is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generators.base import Generator
from query_strategies.strategy import Strategy

from . import registry
from .classifiers.base import Classifier
from .config import (
    ASKS_POOL,
    GALOT,
    GENERATOR,
    STRATEGY,
    RunConfig,
    check_settings,
    fields_of,
    usual_values,
)
from .datasets.base import DatasetSpec, load_dataset, names_of
from .errors import UserError, did_you_mean
from .generator_choice import canonical, check_generator, generator_class, weights_at_hand
from .pool import check_budget
from .protocols import over, protocol, resolve
from .request import Request
from .results import RunFolder, folder_of, label_of
from .strategy_entries import (
    Entry,
    base_class,
    check_declared,
    check_read,
    chosen_settings,
    dataset_defaults,
    parse_entry,
    setting_text,
    typed_settings,
)
from .synthetic_from import check_source, inherited, open_source, source_hash

MODES = ("al", "gal", "al+gal", "full")


@dataclass(frozen=True)
class Run:
    """One planned run: the configuration, the classes it names, and its folder.

    Attributes:
        settings: strategy, GALOT and generator settings that differ from their defaults, for
            tables.
        typed: budget and training settings written behind the strategy's name. Runs that differ in
            them stand in different tables.
        source: the run whose generated images this one trains on, if they are not its own.
        code: NAME/path -> content of the user's own files that the class of that name is made of.
    """

    config: RunConfig
    settings: Mapping[str, str]
    typed: Mapping[str, str]
    strategy: type[Strategy]
    architecture: type[Classifier]
    generator: type[Generator] | None
    content: Mapping[str, str]
    remark: str
    source: RunFolder | None = None
    code: Mapping[str, bytes] = field(default_factory=dict)

    def with_seed(self, seed: int) -> Run:
        return dataclasses.replace(self, config=dataclasses.replace(self.config, seed=seed))

    def folder(self, output: Path) -> Path:
        return folder_of(output, self.config, self.content)

    def other_content(self, there: Mapping[str, str]) -> list[str]:
        """Names of data, weights and plug-ins that are others where the run was planned, too."""
        names = sorted(there.keys() | self.content.keys())
        return [k for k in names if self.content.get(k) != there.get(k)]

    @property
    def makes_images(self) -> bool:
        """Whether it trains on generated images of its own, not on those of another run."""
        return self.generator is not None and self.source is None

    @property
    def label(self) -> str:
        """The run's name, without the seed; different for all methods of a command."""
        return label_of(self.config.strategy, {**self.settings, **self.typed})


@dataclass(frozen=True)
class Plan:
    """The data set and the runs on it.

    Attributes:
        words: names of the classes in prompts.
        runs: each run once, in the order asked for.
        entries: each strategy of the request -> the same, parsed.
        by_entry: each strategy of the request -> its runs, by seed.
    """

    spec: DatasetSpec
    words: tuple[str, ...]
    runs: tuple[Run, ...]
    entries: Mapping[str, Entry]
    by_entry: Mapping[str, tuple[Run, ...]]


def make_plan(request: Request, download: bool = True, spec: DatasetSpec | None = None) -> Plan:
    """Load the data, and check everything that can be checked before the first fit.

    Args:
        download: fetch missing weights; if False, runs are planned without them.
        spec: the request's data, if they are loaded already.

    Raises:
        UserError: an unknown name, a value out of range, a generator that does not know the classes
            or cannot be had, missing data, a budget larger than the pool.
    """
    if request.save_full_size < 0:
        raise UserError(f"--save-full-size {request.save_full_size}: must be at least 0 images")
    entries = {text: parse_entry(text, request) for text in request.strategies}
    drafts = {}
    for (text, entry), mode in zip(entries.items(), _modes(request, entries.values()), strict=True):
        config = configure(request, entry, mode)
        _, _, generator = _classes(config, request)  # cheap; done before loading or hashing
        if generator is not None:
            weights_at_hand(generator, download)
        check_read(entry, config)
        drafts[text] = config, _default(request, entry, config), typed_settings(entry)
    if spec is None:
        spec = load_dataset(request.dataset, request.data_dir)
    runs: dict[Path, Run] = {}
    by_entry = {}
    for text, (config, default, typed) in drafts.items():
        _check_data(config, spec, request)
        run = _run(config, default, typed, request, spec)
        seeds = request.seeds[:1] if text in request.once else request.seeds
        planned = [run.with_seed(seed) for seed in seeds]
        by_entry[text] = tuple(runs.setdefault(run.folder(request.output), run) for run in planned)
    if request.words and not any(run.generator for run in runs.values()):
        raise UserError("--class-names FILE: none of these runs makes prompts; leave it out")
    return Plan(spec, request.words or spec.class_names, tuple(runs.values()), entries, by_entry)


def _check_data(config: RunConfig, spec: DatasetSpec, request: Request) -> None:
    """Check that a run can be played on the data.

    Raises:
        UserError: they are too few or too small for it.
    """
    if config.uses_real_images and len(spec.x_train) == 0:
        raise UserError(f"{spec.name} has no images to label: only --mode gal can do without")
    if config.mode in ("al", "al+gal"):
        check_budget(spec, config.budget(config.n_rounds), _or_demo(request, spec))
    height, width, _ = spec.image_shape
    if config.shift >= min(height, width):
        raise UserError(
            f"--shift {config.shift}: images of {spec.name} are {width}×{height} pixels, and "
            f"random crops moved so far would hold nothing of them; lower --shift"
        )


def _or_demo(request: Request, spec: DatasetSpec) -> str:
    """Advice for a budget that is too large: the user's own data get the paper's budget where no
    protocol is given."""
    budget = {name: protocol("demo").sets[name] for name in ("n_init", "n_query", "n_rounds")}
    wanted = budget["n_init"] + budget["n_rounds"] * budget["n_query"]
    own = isinstance(getattr(request.dataset, "path", None), Path)
    if not own or "protocol" in request.flags or len(spec.x_train) < wanted:
        return ""
    return f", or take --protocol demo, which asks for {wanted}"


def default_mode(entry: Entry) -> str:
    return "al+gal" if entry.strategy.generates else "al"


def _default(request: Request, entry: Entry, config: RunConfig) -> RunConfig:
    """The strategy's default configuration on this data set and protocol, for comparison. If
    another generator is used, steps, guidance, … are those that suit it."""

    def given(**flags: str) -> RunConfig:
        flags["protocol"] = config.protocol
        plain = Entry(entry.strategy)
        return configure(dataclasses.replace(request, flags=flags), plain, default_mode(plain))

    usual = given()
    if config.generator == usual.generator:
        return usual
    return dataclasses.replace(given(generator=config.generator), generator=usual.generator)


def _modes(request: Request, entries: Collection[Entry]) -> list[str]:
    """Each strategy's mode.

    --mode applies to the strategies that generate images; the others keep mode al. `full` applies
    to all. A mode with generated images is an error if no strategy generates.

    Raises:
        UserError: an unknown mode, or one that the strategy cannot have.
    """
    modes = []
    some_generate = any(entry.strategy.generates for entry in entries)
    for entry in entries:
        asked = request.mode if entry.mode is None else entry.mode
        mode = default_mode(entry) if asked is None else asked
        if mode not in MODES:
            raise UserError(f"unknown mode {mode!r}: {did_you_mean(mode, MODES)}")
        if mode in ("gal", "al+gal") and not entry.strategy.generates:
            if entry.mode or not some_generate:
                name = registry.class_name(entry.strategy)
                raise UserError(
                    f"--mode {mode}: {name} generates no images; use GALOT (with "
                    f"--base-sampler {name} for its picks)"
                )
            mode = "al"
        modes.append(mode)
    return modes


def configure(request: Request, entry: Entry, mode: str) -> RunConfig:
    """An entry's configuration (seed 0) from all layers, with canonical names.

    Raises:
        UserError: a value out of range, an unknown name, or names that do not fit together.
    """
    cls = entry.strategy
    flags = canonical(over(cls.preset, request.flags, entry.fields))
    defaults, fixed, settings = canonical(dataset_defaults(request)), canonical(cls.fixed), {}
    if flags.get("synthetic_from") is not None:
        source = open_source(flags["synthetic_from"])
        made_by, usual, settings = inherited(source, flags | fixed)
        flags, defaults = flags | made_by, defaults | usual
    chosen = defaults | flags | fixed
    base = base_class(cls, chosen.get("base_sampler", RunConfig.base_sampler))
    check_declared(base)
    reads = () if mode in ("full", "gal") else cls.reads + (base.reads if cls.generates else ())
    generator = generator_class(chosen.get("generator", RunConfig.generator))
    check_settings(f"{generator.called()}: defaults", generator.all_defaults())
    name = registry.class_name(cls)
    if mode == "full":
        name, fixed = "FullySupervised", {"n_rounds": 0, "quota": None}
    config = resolve(
        name,
        registry.class_name(request.dataset),
        mode=mode,
        flags=flags,
        dataset_defaults=defaults,
        generator_defaults=canonical(generator.all_defaults()),
        fixed=fixed,
        reads=reads,
    )
    sampler = registry.class_name(base)
    if base.generates or not base.picks_real:
        raise UserError(
            f"--base-sampler {sampler}: must pick real images only, e.g. MarginSampling"
        )
    architecture = registry.class_name(registry.classifiers.get(config.classifier))
    config = dataclasses.replace(config, base_sampler=sampler, classifier=architecture)
    if mode == "al":
        config = dataclasses.replace(config, strategy=cls.without_images(config))
    return dataclasses.replace(config, settings=chosen_settings(entry, config, settings))


def _classes(
    config: RunConfig, request: Request
) -> tuple[type[Strategy], type[Classifier], type[Generator] | None]:
    """The strategy, classifier and generator classes of a configuration.

    Raises:
        UserError: an unknown name, or a generator that does not suit the data set or the run.
    """
    strategy = Strategy
    if config.mode != "full":
        strategy = registry.strategies.get(config.strategy)
    architecture = registry.classifiers.get(config.classifier)
    if not config.uses_generated_images:
        return strategy, architecture, None
    generator = generator_class(config.generator)
    if config.synthetic_from is None:
        check_generator(generator, config, request.words or names_of(request.dataset))
    if request.save_full_size and (config.synthetic_from or not generator.reads_text):
        raise UserError(
            f"--save-full-size {request.save_full_size}: is for images that are made from a text; "
            f"this run takes those of {config.synthetic_from or config.generator}"
        )
    return strategy, architecture, generator


def _run(
    config: RunConfig,
    default: RunConfig,
    typed: Mapping[str, str],
    request: Request,
    spec: DatasetSpec,
) -> Run:
    strategy, architecture, generator = _classes(config, request)
    content, renamed, source, code = {"data": spec.content_hash}, [], None, {}
    used = [(registry.strategies, config.strategy), (registry.classifiers, config.classifier)]
    if generator is not None and config.synthetic_from is not None:
        source = open_source(config.synthetic_from)
        check_source(source, config, spec)
        content["synthetic_from"] = source_hash(source, config.cycles)
    elif generator is not None:
        here = weights_at_hand(generator)
        content["generator"] = _hash_of(generator) if here else f"missing {config.generator}"
        used.append((registry.generators, config.generator))
        words = zip(spec.class_names, request.words or spec.class_names, strict=True)
        renamed = [f"{word} for {name}" for name, word in words if word != name]
        if renamed:
            content["prompt words"] = "; ".join(renamed)
    if generator is not None and config.uses_real_images:
        used.append((registry.strategies, config.base_sampler))
    for kind, name in [*used, (registry.datasets, config.dataset)]:
        if own := kind.sources(name):
            code |= {f"{name}/{path}": data for path, data in registry.as_they_lie(own).items()}
            if kind is not registry.datasets:  # its content is that of the data
                content[f"plugin {name}"] = registry.files_hash(own)
    return Run(
        config,
        _settings(config, default, strategy.preset),
        typed,
        strategy,
        architecture,
        generator,
        content,
        _remark(config, strategy, renamed),
        source,
        code,
    )


def _hash_of(generator: type[Generator]) -> str:
    """The generator's content hash.

    Raises:
        UserError: it is not text.
    """
    content = generator.content_hash()
    if not isinstance(content, str):
        raise UserError(f"{generator.called()}: content_hash() must give text, not {content!r:.80}")
    return content


def _remark(config: RunConfig, strategy: type[Strategy], renamed: Sequence[str]) -> str:
    """How this run's network, training or prompts differ from other strategies'; for tables."""
    strategies = [strategy]
    if strategy.generates and config.mode == "al+gal":
        strategies.append(registry.strategies.get(config.base_sampler))
    remarks = [s.remark for s in strategies if s.remark]
    if config.mode == "full":
        remarks.append("every label, one fit; no strategy and no budget plays a part")
    if config.uses_generated_images and config.synthetic_from is not None:
        remarks.append("every seed trains on the same run's images; ± leaves their chance out")
    asked = config.keep in ASKS_POOL or config.align != "none"
    if config.mode == "gal" and asked and config.synthetic_from is None:
        remarks.append("no unlabeled pool in mode gal, so images as they are made")
    if config.head_dropout is not None:
        remarks.append(f"head dropout {config.head_dropout:g} in training and scoring")
    if renamed:
        remarks.append(f"prompts say {', '.join(renamed[:3])}{', …' if len(renamed) > 3 else ''}")
    return "; ".join(remarks)


def _settings(config: RunConfig, default: RunConfig, preset: Mapping[str, Any]) -> dict[str, str]:
    """The run's strategy, GALOT and generator settings that differ from the default on this data
    set.

    Args:
        preset: the strategy's own preset; to override it is a difference, too.
    """
    groups = (STRATEGY, GALOT, GENERATOR) if config.uses_generated_images else (STRATEGY,)
    paths = {"generator": config.generator, "synthetic_from": config.synthetic_from}
    read = config.fields_read() | paths
    if config.mode == "al+gal":
        read |= {key: getattr(config, key) for key in preset}
    moded = config.uses_generated_images and config.mode != default.mode
    differs = {"mode": config.mode} if moded else {}
    # Fields that the default run's base sampler does not read are None in `default`; they are
    # compared with the protocol's values instead.
    unset = usual_values() | protocol(config.protocol).sets
    for key in fields_of(*groups):
        value, usual = read.get(key), getattr(default, key)
        if key in read and value != (unset[key] if usual is None else usual):
            differs[key] = setting_text(value)
    return differs | {name: setting_text(value) for name, value in config.settings}
