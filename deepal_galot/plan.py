"""From a command line to checked runs. Everything is resolved before anything is computed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generators.base import Generator
from query_strategies.strategy import Strategy

from . import registry
from .classifiers.base import Classifier
from .config import (
    ASKS_POOL,
    BUDGET,
    GALOT,
    GENERATOR,
    STRATEGY,
    TRAINING,
    RunConfig,
    check_settings,
    field_type,
    fields_of,
    option_fields,
    protocol,
    resolve,
    usual_values,
)
from .datasets.base import DatasetSpec, load_dataset, names_of
from .errors import UserError, did_you_mean
from .generator_choice import canonical, check_generator, generator_class, weights_at_hand
from .pool import check_budget
from .request import Request
from .results import RunFolder, folder_of, label_of, split_label
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

    def folder(self, output: Path) -> Path:
        return folder_of(output, self.config, self.content)

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
        by_entry: each strategy entry of the request -> its runs, by seed.
    """

    spec: DatasetSpec
    words: tuple[str, ...]
    runs: tuple[Run, ...]
    by_entry: Mapping[str, tuple[Run, ...]]


def make_plan(request: Request, download: bool = True) -> Plan:
    """Load the data, and check everything that can be checked before the first fit.

    Args:
        download: fetch missing weights; if False, runs are planned without them.

    Raises:
        UserError: an unknown name, a value out of range, a generator that does not know the classes
            or cannot be had, missing data, a budget larger than the pool.
    """
    if request.save_full_size < 0:
        raise UserError(f"--save-full-size {request.save_full_size}: must be at least 0 images")
    entries = [parse_strategy(s, request) for s in request.strategies]
    modes = _modes(request, entries)
    configs = []
    for (cls, own), mode in zip(entries, modes, strict=True):
        config = configure(request, cls, mode, own)
        _, _, generator = _classes(config, request)  # cheap; done before loading or hashing
        if generator is not None:
            weights_at_hand(generator, download)
        _check_settings_are_read(cls, config, own)
        configs.append((config, _default(request, cls, config), _typed(own)))
    spec = load_dataset(request.dataset, request.data_dir)
    runs: dict[Path, Run] = {}
    by_entry = {}
    for entry, (config, default, typed) in zip(request.strategies, configs, strict=True):
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
        planned = [
            _run(dataclasses.replace(config, seed=seed), default, typed, request, spec)
            for seed in request.seeds[: 1 if entry in request.once else None]
        ]
        by_entry[entry] = tuple(runs.setdefault(run.folder(request.output), run) for run in planned)
    if request.words and not any(run.generator for run in runs.values()):
        raise UserError("--class-names FILE: none of these runs makes prompts; leave it out")
    return Plan(spec, request.words or spec.class_names, tuple(runs.values()), by_entry)


def _or_demo(request: Request, spec: DatasetSpec) -> str:
    """Advice for a budget that is too large: the user's own data get the paper's budget where no
    protocol is given."""
    budget = {name: protocol("demo").sets[name] for name in ("n_init", "n_query", "n_rounds")}
    wanted = budget["n_init"] + budget["n_rounds"] * budget["n_query"]
    own = isinstance(getattr(request.dataset, "path", None), Path)
    if not own or "protocol" in request.flags or len(spec.x_train) < wanted:
        return ""
    return f", or take --protocol demo, which asks for {wanted}"


def unread_notes(request: Request, plan: Plan) -> list[str]:
    """Notes on given flags that change none of the runs, and on settings behind a strategy's name
    that do not change its runs."""
    configs = [run.config for run in plan.runs]
    read = {"protocol", "n_rounds", "quota"}.union(*(c.fields_read() for c in configs))
    if any(c.uses_generated_images for c in configs):
        read |= {"generator", "synthetic_from"}  # the fingerprint has their content hashes
    lines, apart = [], {"mode", "settings", "n_rounds", "quota", "generator", "synthetic_from"}
    for entry, runs in plan.by_entry.items():
        cls, own = parse_strategy(entry, request)
        here = set(runs[0].config.fields_read())
        if cls.generates and runs[0].config.mode == "al":
            here.add("base_sampler")  # it is the run's strategy
        read |= here
        without = sorted(own.keys() - here - apart)
        if without:
            lines.append(f"note: {entry}: {', '.join(without)} changes nothing there")
    unread = [f"--{name.replace('_', '-')}" for name in request.flags if name not in read]
    first = [f"note: {', '.join(unread)}: read by none of these runs"] if unread else []
    return first + lines


def leak_note(request: Request, plan: Plan) -> list[str]:
    """A note if test images are also in the pool; at most one line. Data sets that ship with the
    package are not checked, because they are published as they are."""
    name = registry.class_name(request.dataset)
    shipped = name in registry.datasets and not registry.datasets.sources(name)
    if shipped or not any(run.config.uses_real_images for run in plan.runs):
        return []
    n, pool = plan.spec.n_in_both, len(plan.spec.x_train)
    said = f"note: {n:,} of the {pool:,} images of {name} to label are in its test part, too"
    return [f"{said}; accuracies are too high by what is learned of them"] if n else []


def parse_strategy(
    text: str, request: Request | None = None
) -> tuple[type[Strategy], dict[str, Any]]:
    """Parse a strategy entry, "NAME" or "NAME:key=value,…".

    >>> parse_strategy("GALOT:epsilon=5,text-per=image")[1]
    {'epsilon': 5.0, 'text_per': 'image'}

    Args:
        request: its flags and data set may name the base sampler, whose settings a strategy that
            generates images has, too.

    Returns:
        The strategy's class, and fields of RunConfig by name; `settings` holds the strategy's own.

    Raises:
        UserError: an unknown strategy or setting, or a value that does not parse.
    """
    name, written = split_label(text)
    cls = registry.strategies.get(name)
    where = f"--strategy {text!r}"
    pairs = _pairs(written, where)
    declared = declared_settings(cls, _base_of(cls, pairs, request))
    own: dict[str, Any] = {}
    known = {"mode", *(f.name for f in option_fields())}
    for key, value in pairs.items():
        if key in cls.fixed:
            raise UserError(f"{where}: {name} is defined by {key}={cls.fixed[key]!r}")
        if key == "mode":
            own[key] = value
        elif key in known:
            own[key] = parse_as(field_type(key), key, value, where)
        elif key in declared:
            parsed = parse_as(type(declared[key]), key, value, where)
            if not value.isprintable():
                raise UserError(f"{where}: {key} needs text on one line, not {value!r}")
            own["settings"] = {**own.get("settings", {}), key: parsed}
        else:
            hint = did_you_mean(key, known | declared.keys(), "see --help")
            raise UserError(f"{where}: unknown setting: {hint}")
    return cls, own


def _pairs(settings: Sequence[str], where: str) -> dict[str, str]:
    """Split "key=value" texts into a dict.

    Raises:
        UserError: a text of another form, or the same key twice.
    """
    pairs: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise UserError(f"{where}: write its settings as NAME:key=value,key=value")
        if key in pairs:
            raise UserError(f"{where}: sets {key} twice")
        pairs[key] = value
    return pairs


def declared_settings(
    cls: type[Strategy], base_sampler: str | None
) -> Mapping[str, int | float | str]:
    """The hyper-parameters declared by a strategy and, if it generates images, by its base sampler.

    Raises:
        UserError: they are not numbers or text by name, or a name is taken.
    """
    ours, base = _own_settings(cls), {}
    if cls.generates and base_sampler is not None:
        base = _own_settings(registry.strategies.get(base_sampler))
    both = sorted(ours.keys() & base.keys())
    if both:
        raise UserError(
            f"the strategy {registry.class_name(cls)}: its base sampler {base_sampler} has a "
            f"setting {both[0]}, too; give one of them another name"
        )
    return {**base, **ours}


def _own_settings(cls: type[Strategy]) -> dict[str, int | float | str]:
    """A strategy's hyper-parameters and their defaults, checked."""
    who = f"the strategy {registry.class_name(cls)}: settings"
    taken = {f.name for f in dataclasses.fields(RunConfig)}
    for declared in (vars(base).get("settings", {}) for base in cls.__mro__):
        if not isinstance(declared, Mapping) or not all(
            isinstance(name, str) and name.isidentifier() and type(value) in (int, float, str)
            for name, value in declared.items()
        ):
            raise UserError(f"{who} must be a dict of numbers or text by name, not {declared!r}")
        clash = sorted(taken & declared.keys())
        if clash:
            raise UserError(f"{who}: {clash[0]} is the benchmark's own; give it another name")
    return cls.all_settings()


def _base_of(
    cls: type[Strategy], written: Mapping[str, str], request: Request | None
) -> str | None:
    """The name of a strategy's base sampler, from the layers that can set it."""
    _check_declared(cls)
    defaults, flags = (_defaults_of(request), request.flags) if request else ({}, {})
    return {**defaults, **cls.preset, **flags, **written, **cls.fixed}.get("base_sampler")


def parse_as(kind: type, key: str, value: str, where: str) -> Any:
    """Parse a setting's value.

    Raises:
        UserError: not a number where one is needed.
    """
    try:
        parsed = kind(value)
        if isinstance(parsed, float) and not math.isfinite(parsed):
            raise ValueError
        return parsed
    except ValueError:
        word = "a whole number" if kind is int else "a number"
        raise UserError(f"{where}: {key} needs {word}, not {value!r}") from None


def _check_settings_are_read(
    cls: type[Strategy], config: RunConfig, own: Mapping[str, Any]
) -> None:
    """Check that the settings written behind a strategy's name have an effect.

    Raises:
        UserError: one has none.
    """
    for key in own.keys() - {"settings"}:
        unread = key in fields_of(STRATEGY) and getattr(config, key) is None
        if unread or (key in fields_of(GALOT, GENERATOR) and not cls.generates):
            raise UserError(
                f"--strategy {registry.class_name(cls)}:{key}={own[key]}: this strategy does not "
                f"read {key} here; leave it out"
            )


def default_mode(cls: type[Strategy]) -> str:
    return "al+gal" if cls.generates else "al"


def _default(request: Request, cls: type[Strategy], config: RunConfig) -> RunConfig:
    """The strategy's default configuration on this data set and protocol, for comparison. If
    another generator is used, steps, guidance, … are those that suit it."""

    def given(**flags: str) -> RunConfig:
        flags["protocol"] = config.protocol
        return configure(dataclasses.replace(request, flags=flags), cls, default_mode(cls))

    usual = given()
    if config.generator == usual.generator:
        return usual
    return dataclasses.replace(given(generator=config.generator), generator=usual.generator)


def _modes(request: Request, entries: Sequence[tuple[type[Strategy], dict[str, Any]]]) -> list[str]:
    """Each strategy's mode.

    --mode applies to the strategies that generate images; the others keep mode al. `full` applies
    to all. A mode with generated images is an error if no strategy generates.

    Raises:
        UserError: an unknown mode, or one that the strategy cannot have.
    """
    modes = []
    some_generate = any(cls.generates for cls, _ in entries)
    for cls, own in entries:
        own_mode = own.pop("mode", None)
        mode = own_mode or request.mode or default_mode(cls)
        if mode not in MODES:
            raise UserError(f"unknown mode {mode!r}: {did_you_mean(mode, MODES)}")
        if mode in ("gal", "al+gal") and not cls.generates:
            if own_mode or not some_generate:
                name = registry.class_name(cls)
                raise UserError(
                    f"--mode {mode}: {name} generates no images; use GALOT (with "
                    f"--base-sampler {name} for its picks)"
                )
            mode = "al"
        modes.append(mode)
    return modes


def configure(
    request: Request, cls: type[Strategy], mode: str, own: Mapping[str, Any] | None = None
) -> RunConfig:
    """One strategy's configuration (seed 0) from all layers, with canonical names.

    Args:
        own: settings written behind the strategy's name; they override the request's flags.

    Raises:
        UserError: a value out of range, an unknown name, or names that do not fit together.
    """
    own = dict(own or {})
    settings = own.pop("settings", {})
    flags = canonical({**cls.preset, **request.flags, **own})
    defaults = _defaults_of(request)
    if flags.get("synthetic_from") is not None:
        source = open_source(flags["synthetic_from"])
        made_by, usual = inherited(source, {**flags, **cls.fixed})
        flags, defaults = flags | made_by, defaults | usual
    chosen = {**defaults, **flags, **cls.fixed}
    base = registry.strategies.get(chosen.get("base_sampler", RunConfig.base_sampler))
    _check_declared(base)
    reads = () if mode in ("full", "gal") else cls.reads + (base.reads if cls.generates else ())
    generator = generator_class(chosen.get("generator", RunConfig.generator))
    check_settings(f"the generator {generator.__name__}: defaults", generator.all_defaults())
    name, fixed = registry.class_name(cls), dict(cls.fixed)
    if mode == "full":
        name, fixed = "FullySupervised", {"n_rounds": 0, "quota": None}
    config = resolve(
        name,
        registry.class_name(request.dataset),
        mode=mode,
        flags=flags,
        dataset_defaults=defaults,
        generator_defaults=generator.all_defaults(),
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
    return dataclasses.replace(config, settings=_chosen(cls, config, settings))


def _chosen(
    cls: type[Strategy], config: RunConfig, settings: Mapping[str, Any]
) -> tuple[tuple[str, Any], ...]:
    """Those of the strategy's own hyper-parameters that differ from their default, by name.

    Raises:
        UserError: a setting that nothing reads in this mode.
    """
    reads: Mapping[str, Any] = {}
    if config.mode == "al":
        reads = _own_settings(registry.strategies.get(config.strategy))
    elif config.mode != "full":
        base = config.base_sampler if config.uses_real_images else None
        reads = declared_settings(cls, base)
    unread = sorted(settings.keys() - reads.keys())
    if unread:
        raise UserError(
            f"--strategy {registry.class_name(cls)}: nothing reads {unread[0]} in mode "
            f"{config.mode}; leave it out"
        )
    return tuple((k, v) for k, v in sorted(settings.items()) if v != reads[k])


def _defaults_of(request: Request) -> dict[str, Any]:
    """The data set's defaults, checked."""
    who = f"the data set {request.dataset.__name__}: defaults"
    check_settings(who, request.dataset.defaults, besides=("protocol",))
    return dict(request.dataset.defaults)


def _check_declared(cls: type[Strategy]) -> None:
    """Check the values of a strategy's class attributes.

    Raises:
        UserError: one is wrong.
    """
    who = f"the strategy {registry.class_name(cls)}"
    if cls.query is Strategy.query or not callable(cls.query):
        raise UserError(f"{who} defines no query(n)")
    if cls.generates and cls.synthesize is Strategy.synthesize:
        raise UserError(f"{who} generates, but defines no synthesize(galot, round)")
    remembers = cls.state_dict is not Strategy.state_dict
    if remembers != (cls.load_state_dict is not Strategy.load_state_dict):
        raise UserError(f"{who} needs both state_dict() and load_state_dict(state), or neither")
    known = fields_of(STRATEGY)
    if not isinstance(cls.reads, tuple) or not set(cls.reads) <= set(known):
        raise UserError(f"{who}: reads must be a tuple of {', '.join(known)}, not {cls.reads!r}")
    if not isinstance(cls.remark, str):
        raise UserError(f"{who}: remark must be text, not {cls.remark!r}")
    check_settings(f"{who}: fixed", cls.fixed)
    check_settings(f"{who}: preset", cls.preset, besides=("protocol",))


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


def _typed(own: Mapping[str, Any]) -> dict[str, str]:
    """Those of a strategy's own settings by which tables group runs: budget and training."""
    return {k: setting_text(v) for k, v in own.items() if k in fields_of(BUDGET, TRAINING)}


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
    for kind, name in used:
        own = kind.sources(name)
        if own:
            content[f"plugin {name}"] = registry.files_hash(own)
            code |= {f"{name}/{path}": data for path, data in registry.as_they_lie(own).items()}
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
        raise UserError(
            f"the generator {registry.class_name(generator)}: content_hash() must give text, not "
            f"{content!r:.80}"
        )
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
    # The default run's base sampler may not read the fields that this one's reads. Then they are
    # None
    # in `default`, and are compared with the protocol's values instead.
    unset = usual_values() | protocol(config.protocol).sets
    for key in fields_of(*groups):
        value, usual = read.get(key), getattr(default, key)
        if key in read and value != (unset[key] if usual is None else usual):
            differs[key] = setting_text(value)
    return differs | {name: setting_text(value) for name, value in config.settings}


def setting_text(value: Any) -> str:
    """A setting's value as written in --strategy and in labels."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)
