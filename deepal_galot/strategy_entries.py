"""Strategy entries of the command line, "NAME:key=value,…", and what classes declare for them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from query_strategies.strategy import Strategy

from . import registry
from .config import (
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
)
from .errors import UserError, did_you_mean
from .request import Request
from .results import split_label


@dataclass(frozen=True)
class Entry:
    """A strategy and what is written behind its name.

    Attributes:
        mode: None if it is not written.
        fields: fields of RunConfig, by name.
        settings: the strategy's own hyper-parameters, by name.
    """

    strategy: type[Strategy]
    mode: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, int | float | str] = field(default_factory=dict)


def parse_entry(text: str, request: Request | None = None) -> Entry:
    """Parse a strategy entry, "NAME" or "NAME:key=value,…".

    >>> parse_entry("GALOT:epsilon=5,text-per=image").fields
    {'epsilon': 5.0, 'text_per': 'image'}

    Args:
        request: its flags and data set may name the base sampler, whose settings a strategy that
            generates images has, too.

    Raises:
        UserError: an unknown strategy or setting, or a value that does not parse.
    """
    name, written = split_label(text)
    cls = registry.strategies.get(name)
    where = f"--strategy {text!r}"
    pairs = _pairs(written, where)
    declared = declared_settings(cls, _base_of(cls, pairs, request))
    known = {f.name for f in option_fields()}
    mode, fields, settings = pairs.pop("mode", None), {}, {}
    for key, value in pairs.items():
        if key in cls.fixed:
            raise UserError(f"{where}: {name} is defined by {key}={cls.fixed[key]!r}")
        if key in known:
            fields[key] = _parse_as(field_type(key), key, value, where)
        elif key in declared:
            settings[key] = _parse_as(type(declared[key]), key, value, where)
            if not value.isprintable():
                raise UserError(f"{where}: {key} needs text on one line, not {value!r}")
        else:
            hint = did_you_mean(key, {"mode"} | known | declared.keys(), "see --help")
            own = f" (its own: {', '.join(declared)})" if declared else ""
            raise UserError(f"{where}: unknown setting: {hint}{own}")
    return Entry(cls, mode, fields, settings)


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


def _parse_as(kind: type, key: str, value: str, where: str) -> Any:
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


def declared_settings(
    cls: type[Strategy], base_sampler: str | None
) -> Mapping[str, int | float | str]:
    """The hyper-parameters declared by a strategy and, if it generates images, by its base sampler.

    Raises:
        UserError: they are not numbers or text by name, or a name is taken.
    """
    ours, base = _own_settings(cls), {}
    if cls.generates and base_sampler is not None:
        base = _own_settings(base_class(cls, base_sampler))
    both = sorted(ours.keys() & base.keys())
    if both:
        raise UserError(
            f"the strategy {registry.class_name(cls)}: its base sampler {base_sampler} has a "
            f"setting {both[0]}, too; give one of them another name"
        )
    return {**base, **ours}


def base_class(cls: type[Strategy], base_sampler: str) -> type[Strategy]:
    """The class of a strategy's base sampler.

    Raises:
        UserError: an unknown name, or settings behind it, which belong behind the strategy's.
    """
    name, settings = split_label(base_sampler)
    if name in registry.strategies and settings and all("=" in s for s in settings):
        whose = registry.class_name(cls) if cls.generates else "GALOT"
        written = ",".join((f"base_sampler={name}", *settings))
        raise UserError(
            f"base sampler {base_sampler!r}: takes a name alone; write --strategy {whose}:{written}"
        )
    return registry.strategies.get(base_sampler)


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
    check_declared(cls)
    defaults, flags = (dataset_defaults(request), request.flags) if request else ({}, {})
    return {**defaults, **cls.preset, **flags, **written, **cls.fixed}.get("base_sampler")


def chosen_settings(
    entry: Entry, config: RunConfig, of_base: Mapping[str, Any]
) -> tuple[tuple[str, Any], ...]:
    """Those of the strategy's own hyper-parameters that differ from their default, by name.

    Args:
        of_base: the base sampler's in the run of --synthetic-from; the entry's come first.

    Raises:
        UserError: a setting that nothing reads in this mode.
    """
    reads: Mapping[str, Any] = {}
    if config.mode == "al":
        reads = _own_settings(registry.strategies.get(config.strategy))
    elif config.mode != "full":
        base = config.base_sampler if config.uses_real_images else None
        reads = declared_settings(entry.strategy, base)
    unread = sorted(entry.settings.keys() - reads.keys())
    if unread:
        raise UserError(
            f"--strategy {registry.class_name(entry.strategy)}: nothing reads {unread[0]} in mode "
            f"{config.mode}; leave it out"
        )
    usual = of_base if entry.strategy.generates else {}
    chosen = {k: v for k, v in usual.items() if k in reads} | entry.settings
    return tuple((k, v) for k, v in sorted(chosen.items()) if v != reads[k])


def check_read(entry: Entry, config: RunConfig) -> None:
    """Check that the fields written behind a strategy's name have an effect.

    Raises:
        UserError: one has none.
    """
    cls = entry.strategy
    for key, value in entry.fields.items():
        unread = key in fields_of(STRATEGY) and getattr(config, key) is None
        if unread or (key in fields_of(GALOT, GENERATOR) and not cls.generates):
            raise UserError(
                f"--strategy {registry.class_name(cls)}:{key}={value}: this strategy does not "
                f"read {key} here; leave it out"
            )


def typed_settings(entry: Entry) -> dict[str, str]:
    """Those of an entry's fields by which tables group runs: budget and training."""
    typed = fields_of(BUDGET, TRAINING)
    return {k: setting_text(v) for k, v in entry.fields.items() if k in typed}


def setting_text(value: Any) -> str:
    """A setting's value as written in --strategy and in labels."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def dataset_defaults(request: Request) -> dict[str, Any]:
    """The data set's defaults, checked."""
    who = f"the data set {request.dataset.__name__}: defaults"
    check_settings(who, request.dataset.defaults, besides=("protocol",))
    return dict(request.dataset.defaults)


def check_declared(cls: type[Strategy]) -> None:
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
