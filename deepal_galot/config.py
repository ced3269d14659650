"""RunConfig, the configuration of a run: every field with its help, unit and range.

Every field in a group is a command-line flag of the same name. protocols.py combines what flags,
data set, protocol and generator say.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

from .errors import UserError, did_you_mean

SCHEMA = 9  # increase it when the meaning of a field or of a stored row changes

BUDGET = "labeling budget"
TRAINING = "classifier and training"
STRATEGY = "what single strategies read"
GALOT = "generated images and text optimisation"
GENERATOR = "generator"

ASKS_POOL = ("pool", "diversity", "discriminator", "bald")  # --keep with a bootstrap classifier
FOLDER = "folder:"  # prefix of --generator before the path of existing images
# With --compile, fits of at least this many steps are compiled. On an H200 compiling ResNet18 saved
# 0.27 ms of 2.0 ms a step at batch 32, and its layers' compiled forms some 0.1 ms more. Compiling
# took 22 s once a process (n = 1). So it pays in runs of several such fits.
COMPILED_FROM = 40_000


def _option(
    default: Any,
    group: str,
    help: str,
    *,
    unit: str = "",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    metadata = {
        "group": group,
        "help": help,
        "unit": unit,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "choices": choices,
        "usual": default,
    }
    # Fields that only some strategies read are None, until `resolve` sets those that this one
    # reads.
    return dataclasses.field(default=None if group == STRATEGY else default, metadata=metadata)


@dataclass(frozen=True)
class RunConfig:
    """One run: one strategy on one data set with one seed.

    The first six fields identify the run. The others are grouped as in --help.

    Attributes:
        settings: (name, value) of those of the strategy's own hyper-parameters that differ from
            their default, by name; see Strategy.settings.
    """

    strategy: str
    dataset: str
    seed: int = 0
    mode: str = "al"
    protocol: str = "paper"
    settings: tuple[tuple[str, int | float | str], ...] = ()

    n_init: int = _option(1000, BUDGET, "labels before the first query", unit="labels", at_least=1)
    n_query: int = _option(1000, BUDGET, "labels bought a round", unit="labels", at_least=1)
    n_rounds: int = _option(
        9, BUDGET, "query rounds after round 0", unit="rounds", at_least=0, at_most=10_000
    )
    quota: int | None = _option(
        None,
        BUDGET,
        "labels bought in all queries; sets n-rounds, the last query is smaller",
        unit="labels",
        at_least=1,
    )

    classifier: str = _option("resnet18", TRAINING, "network, see --list")
    optimizer: str = _option("sgd", TRAINING, "optimiser", choices=("sgd", "adam", "adamw"))
    lr: float = _option(0.01, TRAINING, "initial learning rate", above=0)
    schedule: str = _option(
        "cosine",
        TRAINING,
        "learning rate: cosine to 0 by epoch; onecycle, up "
        "and then to 0 by step; or constant (none)",
        choices=("cosine", "onecycle", "constant"),
    )
    momentum: float = _option(0.9, TRAINING, "SGD momentum", at_least=0, at_most=1)
    weight_decay: float = _option(5e-4, TRAINING, "L2 penalty; of adamw, decoupled", at_least=0)
    label_smoothing: float = _option(
        0.0, TRAINING, "share of a label spread over all classes", at_least=0, at_most=0.9
    )
    ema: float = _option(
        0.0,
        TRAINING,
        "decay of the moving average of the weights that the fit ends with; 0 = its last weights",
        at_least=0,
        at_most=0.9999,
    )
    epochs: int = _option(300, TRAINING, "passes over the training set", unit="epochs", at_least=1)
    min_steps: int = _option(
        0, TRAINING, "more epochs if needed for this many steps", unit="steps", at_least=0
    )
    batch_size: int = _option(32, TRAINING, "training batch", unit="images", at_least=1)
    shift: int = _option(4, TRAINING, "random crop after zero padding", unit="pixels", at_least=0)
    flip: int = _option(1, TRAINING, "random horizontal flip, 0 or 1", at_least=0, at_most=1)
    rotate: float = _option(0.0, TRAINING, "random rotation up to ±", unit="degrees", at_least=0)
    zoom: float = _option(
        0.0, TRAINING, "random scale of each axis up to ± this share", at_least=0, at_most=0.9
    )
    precision: str = _option(
        "auto",
        TRAINING,
        "of the classifier's products, its weights are "
        "float32; auto: bfloat16 on CUDA where available, else float32",
        choices=("auto", "float32", "bfloat16"),
    )
    rand_augment: int = _option(
        0, TRAINING, "RandAugment: random operations an image", at_least=0, at_most=5
    )
    rand_magnitude: float = _option(9.0, TRAINING, "their strength, of 30", at_least=0, at_most=30)
    score_augmented: int = _option(
        0,
        TRAINING,
        "strategies see the pool under the random crop, flip, …, 0 or 1",
        at_least=0,
        at_most=1,
    )

    mc_passes: int | None = _option(
        20, STRATEGY, "stochastic passes of the Monte Carlo strategies", unit="passes", at_least=2
    )
    mc_noise: str | None = _option(
        "head_dropout",
        STRATEGY,
        "what their passes differ by: dropout before the last layer, in "
        "training too; or the statistics of the batch, as DeepALPlus has it",
        choices=("head_dropout", "batchnorm"),
    )
    head_dropout: float | None = _option(
        0.5,
        STRATEGY,
        "share of the embedding that head dropout zeroes",
        at_least=0.01,
        at_most=0.95,
    )

    base_sampler: str = _option(
        "MarginSampling", GALOT, "A_AL: any strategy that picks real images"
    )
    text_target: str = _option(
        "margin",
        GALOT,
        "A_GAL, what the text optimisation raises: margin, entropy, "
        "least_confidence; or the pseudo-label's loss, max_loss, or its negative, min_loss",
    )
    template: str = _option(
        "a realistic photo of a {label}",
        GALOT,
        "prompt, or the name of one (see run_benchmark.py --list); {label} is the class name, "
        "other braces are doubled; several, with | between them, are mixed evenly",
    )
    text_per: str = _option(
        "class",
        GALOT,
        "an optimised text embedding for each class (and "
        "prompt), or for each image at its own noise",
        choices=("class", "image"),
    )
    epsilon: float = _option(0.5, GALOT, "radius of ‖c − c0‖; 0 = no text optimisation", at_least=0)
    epsilon_schedule: str = _option(
        "linear",
        GALOT,
        "ε over the rounds: ε·(round+1)/rounds, or ε",
        choices=("linear", "constant"),
    )
    eta: float = _option(0.2, GALOT, "step length η as a share of ε", above=0)
    ascent_steps: int = _option(10, GALOT, "K, ascent steps a round", unit="steps", at_least=1)
    ascent_samples: int = _option(
        6,
        GALOT,
        "m, fresh images a class and step; with text-per image, each has its own",
        unit="images",
        at_least=1,
    )
    ascent_denoising: int | None = _option(
        None,
        GALOT,
        "T of the images of the ascent, if not that of --steps",
        unit="steps",
        at_least=1,
    )
    direction: str = _option(
        "sign",
        GALOT,
        "u = sign(g) or g, then scaled to unit length; or a random u, the control",
        choices=("sign", "gradient", "random"),
    )
    norm: str = _option("l2", GALOT, "norm of ‖c − c0‖ ≤ ε and of u", choices=("l2", "linf"))
    n_synthetic: float = _option(
        1.0, GALOT, "N_GAL, images trained on, as a multiple of |L|", above=0
    )
    synthetic: str = _option(
        "replace",
        GALOT,
        "train on this round's images or on all rounds'",
        choices=("replace", "accumulate"),
    )
    oversample: float = _option(1.0, GALOT, "make this many times N_GAL, keep N_GAL", at_least=1)
    keep: str = _option(
        "random",
        GALOT,
        "which of them, in each class: at random; acquisition, of highest "
        "text-target; pool, nearest to the unlabeled images; diversity, nearest to their own "
        "k-means centers; discriminator, most like real ones; or bald, of highest mutual "
        "information",
        choices=("random", "acquisition", *ASKS_POOL),
    )
    align: str = _option(
        "none",
        GALOT,
        "one map of all generated images, made of 30 plain ones a class, that gives "
        "them the unlabeled pool's moments: pool, of place, size and slant where there is a plain "
        "background, else none; or channels, of each channel's mean and deviation",
        choices=("none", "pool", "channels"),
    )

    synthetic_weight: float = _option(
        1.0, GALOT, "weight of a generated image's loss, where that of a real one is 1", above=0
    )
    synthetic_norm: str = _option(
        "shared",
        GALOT,
        "BatchNorm of generated images: that of all, or separate with a scale and "
        "offset of its own, unused in testing",
        choices=("shared", "separate"),
    )

    synthetic_from: str | None = _option(
        None, GALOT, "train on the generated images of a finished run, given by its seed folder"
    )

    generator: str = _option(
        "sd-2.1-base",
        GENERATOR,
        "name (see run_benchmark.py --list), a model's folder or hub id, or folder:PATH of images "
        "that exist already, PATH/CLASS/*.png",
    )
    steps: int | None = _option(None, GENERATOR, "T, denoising steps", unit="steps", at_least=1)
    guidance: float | None = _option(None, GENERATOR, "classifier-free guidance scale", at_least=0)
    scheduler: str | None = _option(
        None, GENERATOR, "a diffusers scheduler class, whichever is the model's own"
    )
    resolution: int | None = _option(
        None, GENERATOR, "side of a generated image, before resizing", unit="pixels", at_least=8
    )
    dtype: str = _option(
        "auto",
        GENERATOR,
        "arithmetic of sampling; the gradient's step is always "
        "float32; auto: bfloat16 or else float16 on CUDA, float32 elsewhere",
        choices=("auto", "float32", "bfloat16", "float16"),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", tuple((k, v) for k, v in self.settings))  # from JSON
        for f in option_fields():
            check_range(f, getattr(self, f.name))
        if self.uses_generated_images and self.keep != "random" and self.oversample == 1:
            raise UserError(
                f"--oversample 1: leaves keep={self.keep} nothing to choose from; set it above 1, "
                f"or --keep random"
            )
        if self.seed < 0:
            raise UserError(f"--seeds {self.seed}: a seed is a whole number ≥ 0")

    @property
    def cycles(self) -> int:
        """Number of rounds, round 0 included: the paper's 10 for 1,000 … 10,000 labels."""
        return self.n_rounds + 1

    @property
    def uses_real_images(self) -> bool:
        """Whether the classifier trains on real labeled images."""
        return self.mode != "gal"

    @property
    def uses_generated_images(self) -> bool:
        """Whether the classifier trains on generated images."""
        return self.mode in ("gal", "al+gal")

    @property
    def asks_pool(self) -> bool:
        """Whether the unlabeled pool decides which images are kept. Mode gal has no pool."""
        return self.keep in ASKS_POOL and self.mode != "gal"

    @property
    def aligns(self) -> bool:
        """Whether images are mapped to the pool's moments. Mode gal has no pool."""
        return self.align != "none" and self.mode != "gal"

    @property
    def effective_oversample(self) -> float:
        """`oversample`, or 1 in mode gal if `keep` needs the pool."""
        return 1.0 if self.keep in ASKS_POOL and self.mode == "gal" else self.oversample

    def query_size(self, round: int) -> int:
        """Labels bought in this round's query; 0 in round 0."""
        if round == 0:
            return 0
        if self.quota is None:
            return self.n_query
        return min(self.n_query, self.quota - (round - 1) * self.n_query)

    def budget(self, round: int) -> int:
        """|L| after this round: human labels bought, or in mode gal the number that takes their
        place."""
        bought = round * self.n_query
        return self.n_init + (bought if self.quota is None else min(bought, self.quota))

    def refines_at(self, round: int) -> bool:
        """Whether in this round each image has its own text, optimised against the classifier."""
        return self.text_per == "image" and self.epsilon_at(round) > 0

    def classifier_chooses(self, round: int) -> bool:
        """Whether `keep` needs the classifier in this round. Mode gal has none in round 0."""
        return self.keep == "acquisition" and (self.mode != "gal" or round > 0)

    def epsilon_at(self, round: int) -> float:
        """ε of this round. Mode gal has no classifier in round 0, so ε = 0 there."""
        if self.mode == "gal" and round == 0:
            return 0.0
        if self.epsilon_schedule == "constant":
            return self.epsilon
        return self.epsilon * (round + 1) / self.cycles

    def n_synthetic_at(self, round: int) -> int:
        """N_GAL of this round: generated images to train on, at least one."""
        return max(1, round_half_up(self.n_synthetic * self.budget(round)))

    def fields_read(self) -> dict[str, Any]:
        """The fields that can change the result of this strategy in this mode, for the
        fingerprint."""
        groups = {BUDGET, TRAINING, STRATEGY}
        if self.mode == "full":
            groups = {TRAINING}
        if self.uses_generated_images:
            groups |= {GALOT, GENERATOR}
        read = {"strategy": self.strategy, "mode": self.mode, "dataset": self.dataset}
        read |= {name: getattr(self, name) for name in fields_of(*groups)}
        if self.settings:
            read["settings"] = dict(self.settings)
        unread = self._unread() | {n for n in fields_of(STRATEGY) if getattr(self, n) is None}
        return {name: value for name, value in read.items() if name not in unread}

    def _unread(self) -> set[str]:
        """Fields without effect, given the other fields."""
        unread = {"generator", "synthetic_from"}  # names and paths; content is hashed
        if self.generator.startswith(FOLDER):
            unread |= {"template", "steps", "guidance", "scheduler", "resolution", "dtype"}
        scheduled = self.uses_generated_images and self.epsilon_schedule == "linear"
        if not (scheduled and self.epsilon > 0):
            unread.add("n_rounds")
        if self.optimizer != "sgd":
            unread.add("momentum")
        if self.mode == "gal":
            unread |= {"base_sampler", "synthetic_weight", "synthetic_norm"}
        if self.rand_augment == 0:
            unread.add("rand_magnitude")
        if self.epsilon == 0:
            unread |= {
                "epsilon_schedule",
                "eta",
                "text_per",
                "ascent_steps",
                "ascent_samples",
                "ascent_denoising",
                "direction",
                "norm",
            }
            if self.keep != "acquisition":
                unread.add("text_target")
        if self.text_per == "image":
            unread.add("ascent_samples")
        if self.direction == "random":
            unread |= {"ascent_samples", "ascent_denoising"}
        if self.oversample == 1:
            unread.add("keep")
        if self.mode == "gal" and self.keep in ASKS_POOL:
            unread |= {"keep", "oversample"}
        if not self.aligns:
            unread.add("align")
        return unread


def option_fields() -> list[dataclasses.Field]:
    """The fields that have help, in the order of the class. Each is a command-line flag."""
    return [f for f in dataclasses.fields(RunConfig) if f.metadata]


def fields_of(*groups: str) -> tuple[str, ...]:
    """Names of the fields of these groups, in the order of the class."""
    return tuple(f.name for f in option_fields() if f.metadata["group"] in groups)


def usual_values() -> dict[str, Any]:
    """Every option's default, the paper's value, for a strategy that reads all of them."""
    return {f.name: f.metadata["usual"] for f in option_fields()}


@cache
def field_type(name: str) -> type:
    """The type that this field's flag parses to: int, float or str."""
    hint = get_type_hints(RunConfig)[name]
    return next(t for t in (int, float, str) if hint in (t, t | None))


def check_settings(who: str, values: object, besides: Collection[str] = ()) -> None:
    """Check that settings declared by a class are fields of RunConfig with values of the right
    type.

    Args:
        who: start of the error line.
        values: field name -> value.
        besides: further allowed names, whose values are checked elsewhere.

    Raises:
        UserError: not a mapping, an unknown name, or a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{who} must be a dict of settings, not {values!r}")
    fields = {f.name: f for f in option_fields()}
    for name, value in values.items():
        if name in besides:
            continue
        if name not in fields:
            raise UserError(f"{who}: no setting {name!r}: {did_you_mean(str(name), fields)}")
        if value is None and fields[name].default is None:
            continue
        try:
            field_type(name)(value)
        except (TypeError, ValueError):
            kind = {int: "a whole number", float: "a number", str: "text"}[field_type(name)]
            raise UserError(f"{who}: {name} must be {kind}, not {value!r}") from None


HUGE = 1e9  # larger numbers are typing errors, and counting up to them would not end


def check_range(f: dataclasses.Field, value: Any) -> None:
    """
    Raises:
        UserError: the value is outside its field's range.
    """
    flag, m = f"--{f.name.replace('_', '-')}", f.metadata
    if value is None and f.default is None:
        return
    if m["choices"] and value not in m["choices"]:
        raise UserError(f"{flag} {value!r}: {did_you_mean(str(value), m['choices'])}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{flag} {value}: must be a finite number")
    for bound, ok, text in (
        ("at_least", lambda v, b: v >= b, "at least"),
        ("above", lambda v, b: v > b, "above"),
        ("at_most", lambda v, b: v <= b, "at most"),
    ):
        if m[bound] is not None and not ok(value, m[bound]):
            unit = f" {m['unit']}" if m["unit"] else ""
            raise UserError(f"{flag} {value}: must be {text} {m[bound]:g}{unit}")
    if isinstance(value, int | float) and value > HUGE:
        raise UserError(f"{flag} {value}: must be at most {HUGE:g}; nothing here is that large")


def round_half_up(x: float) -> int:
    """Nearest whole number, halves up. (Python's round goes to the even one.)"""
    return math.floor(x + 0.5)


def fingerprint(config: RunConfig, content: Mapping[str, Any]) -> str:
    """Twelve hex digits that name a run's folder.

    Args:
        config: the run; the seed and fields not read in this strategy and mode are left out.
        content: hashes of the data, weights and plug-in code that the run reads.
    """
    what = {"schema": SCHEMA, "config": config.fields_read(), "content": dict(content)}
    text = json.dumps(what, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
