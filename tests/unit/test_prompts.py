"""Templates, names and articles."""

import re

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


@pytest.mark.parametrize("unknown", ["{foo}", "{}", "{Label}", "{a cat}"])
def test_another_field_is_refused(unknown):
    """Before, it stood in the prompt as it was written."""
    says = f"only {{label}} is filled in, not {unknown}; .* are written {{{unknown}}}$"
    with pytest.raises(UserError, match=says):
        templates(f"{{label}} {unknown}")


def test_doubled_braces_are_braces_of_the_prompt():
    (text,) = templates("a {label} in {{curly}} braces :{")
    assert fill(text, "apple") == "an apple in {curly} braces :{"
    assert fill("{{label}} {{{label}}}", "}}") == "{label} {}}}"
    with pytest.raises(UserError, match="must contain {label}"):
        templates("a {{label}}")


@pytest.mark.parametrize(
    ("label", "prompt"),
    [("airplane", "a photo of an airplane"), ("cat", "a photo of a cat"),
     ("Elephant", "a photo of an Elephant"), ("one", "a photo of a one"),
     ("unicycle", "a photo of a unicycle"), ("umbrella", "a photo of an umbrella"),
     ("hourglass", "a photo of an hourglass"), ("orange", "a photo of an orange")],
)  # fmt: skip
def test_article(label, prompt):
    assert fill("a photo of a {label}", label) == prompt


AN = """airplane|apple|Elephant|orange|umbrella|uncle|urn|urchin|usher|udder|upright piano|ugly cup
unidentified object|unimportant thing|uninhabited island|uninformed man|hour|hourglass|honest man|
honor|honour guard|heir|heirloom|herb|herbal tea|MRI scan|MRI|SUV|X-ray|x-ray|RV|LED lamp|LP|HDTV
F1 car|MP3 player|NBA player|S-bend|A|8-ball|8|80s car|11th hour|18-wheeler|eight|ATM|IMAX cinema
FBI agent|SUVs|XXL shirt|éclair|Éclair|igloo|oboe|eel|Euler diagram|ear|ox"""
A = """cat|frog|one|one-way street|one-eyed cat|onesie|once-loved toy|unicorn|uniform|unicycle|union
unit|university|universe|unique vase|unidirectional sign|European|eucalyptus|ewe|ewer|ouija board
ukulele|UK flag|use|user|usual day|usurper|utensil|utility pole|uterus|uranium rod|urinal|Uruguayan
uvula|UV lamp|UFO|ufo|USB stick|UAV|Ugandan|house|horse|history book|hero|hotel|herbivore|hospital
FROG|LION|SHIP|SNAKE|HORSE|NASA rocket|BMW|CD|TV|DVD|PC|1|7|100|110|180|111|yacht|yellow car
xylophone|wagon|Herbert|Land Rover|Xerox|Mr. Bean"""


@pytest.mark.parametrize("article", ["a", "an"])
def test_article_goes_by_sound(article):
    words = [w for w in re.split(r"[|\n]+", {"a": A, "an": AN}[article]) if w]
    wrong = [w for w in words if fill("see a {label}", w) != f"see {article} {w}"]
    assert not wrong


def test_label_alone():
    assert fill("{label}", "apple") == "apple"
    assert fill("digit {label}", "eight") == "digit eight"
    assert fill("A {label}", "apple") == "An apple"
    assert fill("a panda {label}", "apple") == "a panda apple"
