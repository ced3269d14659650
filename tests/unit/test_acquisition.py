"""Scores against naive float64 formulas, at the edges, and their gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepal_galot.acquisition import SCORES, canonical_text_target, text_score
from deepal_galot.errors import UserError

logits_arrays = arrays(
    np.float64, st.tuples(st.integers(1, 5), st.integers(2, 6)), elements=st.floats(-30, 30)
)


def naive(name: str, logits: np.ndarray) -> np.ndarray:
    """From the textbook formulas, one image at a time."""
    out = []
    for z in logits:
        p = np.exp(z - z.max())
        p = sorted(p / p.sum(), reverse=True)
        out.append({
            "margin": -(p[0] - p[1]),
            "least_confidence": 1 - p[0],
            "entropy": -sum(q * np.log(q) for q in p if q > 0),
        }[name])  # fmt: skip
    return np.array(out)


@pytest.mark.parametrize("name", SCORES)
@given(logits=logits_arrays)
@settings(max_examples=60, deadline=None)
def test_equals_the_naive_formula(name, logits):
    ours = SCORES[name](torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(ours, naive(name, logits), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SCORES)
def test_probabilities_of_exactly_0_and_1_are_finite(name):
    logits = torch.tensor([[1e4, -1e4, -1e4], [0.0, 0.0, -1e38]], requires_grad=True)
    scores = SCORES[name](logits)
    scores.sum().backward()
    assert torch.isfinite(scores).all() and torch.isfinite(logits.grad).all()
    assert scores[1] > scores[0]


@pytest.mark.parametrize("name", SCORES)
def test_gradient_against_finite_differences(name):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SCORES[name], logits)


def test_least_confidence_keeps_its_digits_near_certainty():
    score = SCORES["least_confidence"](torch.tensor([[20.0, 0.0]]))
    assert score.item() == pytest.approx(2.0611536e-09, rel=1e-5)


def test_names_of_the_paper_and_of_the_formula():
    assert canonical_text_target("MarginSampling") == "margin"
    assert canonical_text_target("least-confidence") == "least_confidence"
    with pytest.raises(UserError, match="did you mean entropy"):
        canonical_text_target("entrpy")


@given(logits_arrays, st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_losses_are_the_pseudo_labels_cross_entropy(logits, seed):
    labels = np.random.default_rng(seed).integers(0, logits.shape[1], len(logits))
    p = np.exp(logits - logits.max(1, keepdims=True))
    loss = -np.log(p / p.sum(1, keepdims=True))[np.arange(len(p)), labels]
    for name, sign in (("max_loss", 1), ("min_loss", -1)):
        ours = text_score(name, torch.from_numpy(logits), torch.from_numpy(labels))
        np.testing.assert_allclose(ours, sign * loss, rtol=1e-9, atol=1e-9)


def test_a_score_reads_no_label():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    labels = torch.tensor([7])  # there is no such class
    assert torch.equal(text_score("margin", logits, labels), SCORES["margin"](logits))
