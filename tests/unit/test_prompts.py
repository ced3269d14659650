"""Templates, names and articles."""

import pytest

from deepal_galot.errors import UserError
from generators.prompts import TEMPLATES, fill, templates


def test_the_papers_six_templates():
    assert len(TEMPLATES) == 6
    assert templates("realistic") == ("a realistic photo of a {label}",)
    assert templates("my own {label}") == ("my own {label}",)


def test_several_templates():
    assert templates("label| {label}, blurred |photo") == (
        "{label}", "{label}, blurred", "a photo of a {label}"
    )  # fmt: skip
    with pytest.raises(UserError, match="the same template twice"):
        templates("photo | a photo of a {label}")
    with pytest.raises(UserError, match="'': must contain {label}"):
        templates("photo |")


def test_label_is_required():
    with pytest.raises(UserError, match="must contain {label}"):
        templates("a photo of a cat")


@pytest.mark.parametrize(
    ("label", "prompt"),
    [("airplane", "a photo of an airplane"), ("cat", "a photo of a cat"),
     ("Elephant", "a photo of an Elephant"), ("one", "a photo of a one"),
     ("unicycle", "a photo of a unicycle"), ("umbrella", "a photo of an umbrella"),
     ("hourglass", "a photo of an hourglass"), ("orange", "a photo of an orange")],
)  # fmt: skip
def test_article(label, prompt):
    assert fill("a photo of a {label}", label) == prompt


def test_label_alone():
    assert fill("{label}", "apple") == "apple"
    assert fill("digit {label}", "eight") == "digit eight"
