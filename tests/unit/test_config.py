"""Layers, ranges, schedules, and what a fingerprint depends on."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepal_galot import registry
from deepal_galot.config import RunConfig, fingerprint, option_fields
from deepal_galot.errors import UserError
from deepal_galot.protocols import resolve

CONTENT = {"data": "d"}


def config(**fields):
    strategy, mode = fields.pop("strategy", "GALOT"), fields.pop("mode", "al+gal")
    return resolve(strategy, "Digits", mode=mode, flags=fields)


def test_layers_in_order():
    c = resolve(
        "S", "D", flags={"epsilon": 2.0}, dataset_defaults={"protocol": "demo", "epsilon": 1.0},
        generator_defaults={"steps": 7}, fixed={"template": "{label}"},
    )  # fmt: skip
    assert (c.epsilon, c.steps, c.template, c.n_init) == (2.0, 7, "{label}", 20)
    assert resolve("S", "D", flags={"epsilon": 2.0}, fixed={"epsilon": 0.0}).epsilon == 0.0
    assert resolve("S", "D", flags={"protocol": "paper"}, dataset_defaults={"protocol": "demo"}
                   ).n_init == 1000  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("epsilon", -0.1, "--epsilon -0.1: must be at least 0"),
        ("epsilon", float("nan"), "finite"),
        ("n_query", 0, "--n-query 0: must be at least 1 labels"),
        ("lr", 0.0, "must be above 0"),
        ("norm", "l3", "known: l2, linf"),
        ("oversample", 0.5, "at least 1"),
        ("direction", "up", "--direction 'up'"),
    ],
)
def test_values_out_of_range(field, value, says):
    with pytest.raises(UserError, match=says):
        config(**{field: value})


def test_what_a_strategy_does_not_read_is_no_error():
    """Before, MarginSampling beside GALOT:oversample=3 was refused under --keep diversity."""
    beside = {"keep": "diversity", "oversample": 1.0}
    assert config(strategy="MarginSampling", mode="al", **beside).oversample == 1
    with pytest.raises(UserError, match="--oversample 1: leaves keep=diversity nothing"):
        config(**beside)


def test_the_paper_preset():
    """The paper's section 4 and Table 8, number by number."""
    c = resolve("GALOT", "CIFAR10", mode="al+gal")
    assert (c.n_init, c.n_query, c.n_rounds, c.quota) == (1000, 1000, 9, None)
    assert (c.classifier, c.optimizer, c.lr, c.momentum) == ("resnet18", "sgd", 0.01, 0.9)
    assert (c.weight_decay, c.schedule, c.epochs, c.batch_size) == (5e-4, "cosine", 300, 32)
    assert (c.shift, c.flip, c.label_smoothing, c.ema, c.min_steps) == (4, 1, 0, 0, 0)
    assert (c.epsilon, c.epsilon_schedule, c.eta, c.norm) == (0.5, "linear", 0.2, "l2")
    assert (c.ascent_steps, c.ascent_samples, c.n_synthetic) == (10, 6, 1)
    assert (c.text_target, c.direction) == ("margin", "sign")
    assert (c.template, c.synthetic) == ("a realistic photo of a {label}", "replace")


def test_the_papers_sampler():
    theirs = registry.generators.get("sd-2.1-base").all_defaults()
    assert (theirs["steps"], theirs["guidance"]) == (50, 7.5)
    assert theirs["scheduler"] == "DPMSolverMultistepScheduler"


@pytest.mark.parametrize("layer", ["fixed", "dataset_defaults", "flags"])
def test_rounds_of_a_higher_layer_win_over_the_protocols_quota(layer):
    """Before, those of a strategy or a data set lost: 8 rounds of 128 labels for 1,000."""
    flags = {"protocol": "deepalplus"}
    given = {"flags": flags} | {layer: {"n_rounds": 3} | (flags if layer == "flags" else {})}
    c = resolve("S", "D", **given)
    assert (c.n_rounds, c.quota, c.budget(3)) == (3, None, 1000 + 3 * 128)


def test_every_option_has_help_and_a_default_in_range():
    for f in option_fields():
        assert f.metadata["help"], f.name
    RunConfig("S", "D")


def test_epsilon_grows_linearly_to_its_maximum():
    c = config(epsilon=0.5, n_rounds=9)
    assert [round(c.epsilon_at(r), 3) for r in (0, 1, 9)] == [0.05, 0.1, 0.5]
    assert config(epsilon=0.5, epsilon_schedule="constant").epsilon_at(0) == 0.5
    gal = config(mode="gal", epsilon=0.5)
    assert gal.epsilon_at(0) == 0 and gal.epsilon_at(9) == 0.5


def test_only_round_0_of_mode_gal_has_no_classifier_to_choose_by():
    for mode, chooses in (("al+gal", [True, True]), ("gal", [False, True])):
        c = config(mode=mode, keep="acquisition", oversample=2.0)
        assert [c.classifier_chooses(r) for r in (0, 1)] == chooses
        assert not config(mode=mode).classifier_chooses(1)


def test_n_gal_is_a_multiple_of_the_labels():
    c = config(n_init=1000, n_query=1000, n_rounds=9)
    assert [c.n_synthetic_at(r) for r in range(10)] == list(range(1000, 11000, 1000))
    assert sum(c.n_synthetic_at(r) for r in range(10)) == 55_000


@given(st.integers(1, 500), st.integers(1, 90))
def test_quota_is_spent_to_the_last_label(quota, n_query):
    c = config(quota=quota, n_query=n_query, n_init=10)
    assert c.n_rounds == -(-quota // n_query)
    assert c.budget(c.n_rounds) == 10 + quota
    assert all(c.query_size(r) >= 1 for r in range(1, c.n_rounds + 1))


def changed(base, **fields):
    return fingerprint(dataclasses.replace(base, **fields), CONTENT) != fingerprint(base, CONTENT)


def test_fingerprint_of_a_baseline_ignores_what_it_does_not_read():
    base = config(strategy="RandomSampling", mode="al")
    for field, value in {"seed": 5, "epsilon": 9.0, "n_rounds": 3, "template": "x {label}",
                         "steps": 3, "generator": "tiny"}.items():  # fmt: skip
        assert not changed(base, **{field: value}), field
    for field, value in {"n_init": 7, "lr": 0.5, "classifier": "small_cnn"}.items():
        assert changed(base, **{field: value}), field
    assert fingerprint(base, {"data": "other"}) != fingerprint(base, CONTENT)


def test_fingerprint_of_galot_follows_its_options():
    base = config(epsilon=1.0)
    for field, value in {"epsilon": 2.0, "n_rounds": 3, "template": "x {label}", "steps": 3,
                         "text_target": "entropy", "n_synthetic": 2.0}.items():  # fmt: skip
        assert changed(base, **{field: value}), field
    assert not changed(base, generator="/some/other/path")
    without = config(epsilon=0.0)
    assert not changed(without, ascent_steps=3) and not changed(without, n_rounds=3)
    constant = config(epsilon=1.0, epsilon_schedule="constant")
    assert not changed(constant, n_rounds=3)


def test_full_reads_the_recipe_only():
    base = config(strategy="FullySupervised", mode="full")
    assert not changed(base, n_init=3) and changed(base, epochs=3)
