"""Class names to prompts: c0 = CLIP(template(label))."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from deepal_galot.errors import UserError, readable

TEMPLATES = {
    "label": "{label}",
    "photo": "a photo of a {label}",
    "realistic": "a realistic photo of a {label}",
    "simple": "a simple photo of a {label}",
    "recent": "a recent color photograph of a {label}",
    "detailed": "a recent color photograph of a {label}, ultra detailed, 4k resolution",
}  # the six of the paper's Table 3; the paper elides the tail of the sixth


# English chooses between "a" and "an" by sound.
# Words that begin with a vowel letter but a consonant sound.
CONSONANT_SOUND = re.compile(
    r"(?:one(?:s|\b)|once\b|oui|ew|eu(?!ler)|uni(?!n|dent|mp|mag|ss)"  # a one, ewe, European
    r"|u(?:s[aeub]|su|k|t[aeio]|ra[ln]|r[eiu]|v|bi|ga|fo|av))", re.I
)  # fmt: skip
# Words that begin with a vowel sound: most with a vowel letter, those with a silent h (herb as in
# American English), a single x, and numbers such as 8, 11 and 18.
VOWEL_SOUND = re.compile(
    r"[aeiou]|hour|heir|hono[ru]|honest|herb(?!i|ert)|x(?![a-z])|8|1[18](?!\d)", re.I
)  # fmt: skip
# Abbreviations that are spelled out, from a letter whose name begins with a vowel: an X-ray, an RV,
# an MRI scan. A word in capitals (FROG) is not spelled out. An abbreviation that could also be read
# as a word is taken for a word, except for the few that are listed.
SPELLED = re.compile(
    r"(?:[AEFHILMNORSX](?![A-Za-z])|[FHLMNRSX][B-DF-HJ-NP-TV-XZ]+(?![A-Za-z])"
    r"|(?:FBI|HIV|LED|MBA|MIT|MRI|NBA|NGO|SOS|SUV|XXL)s?\b)"
)


# A place of the class name, and braces that are meant as such, as str.format has them.
FIELD = re.compile(r"\{\{|\}\}|\{label\}")


def templates(names_or_texts: str) -> tuple[str, ...]:
    """Template names or texts, separated by |, as template texts.

    >>> templates("label | a photo of a {label}")
    ('{label}', 'a photo of a {label}')

    Raises:
        UserError: a part is neither a name nor a text with {label}, has another field, is not
            UTF-8, or comes twice.
    """
    texts = tuple(TEMPLATES.get(t.strip(), t.strip()) for t in names_or_texts.split("|"))
    for text in texts:
        if readable(text) != text:
            raise UserError(
                f"--template {text!r}: not in UTF-8, or the locale has fewer letters: "
                f"try LC_ALL=C.UTF-8"
            )
        if "{label}" not in FIELD.findall(text):
            raise UserError(
                f"--template {text!r}: must contain {{label}}, the place of the class name, or be "
                f"one of {', '.join(TEMPLATES)}; several have | between them"
            )
        unknown = re.findall(r"\{[^{}]*\}", FIELD.sub(" ", text))
        if unknown:
            raise UserError(
                f"--template {text!r}: only {{label}} is filled in, not {unknown[0]}; braces that "
                f"are part of the prompt are written {{{unknown[0]}}}"
            )
    if len(set(texts)) < len(texts):
        raise UserError(f"--template {names_or_texts!r}: the same template twice")
    return texts


def fill(template: str, label: str) -> str:
    """Put a class name into a template. "a" before it becomes "an" where English needs it, and
    doubled braces become single ones.

    >>> fill("a photo of a {label}", "airplane")
    'a photo of an airplane'
    """
    if _takes_an(label):
        template = re.sub(r"\b([aA]) (?=\{label\})", r"\1n ", template)
    return FIELD.sub(lambda found: {"{{": "{", "}}": "}"}.get(found[0], label), template)


def prompts_of(template: str, class_names: Sequence[str]) -> tuple[str, ...]:
    """The prompts of --template, class by class and within a class template by template.

    >>> prompts_of("{label} | a photo of a {label}", ["cat"])
    ('cat', 'a photo of a cat')
    """
    return tuple(fill(text, name) for name in class_names for text in templates(template))


def _takes_an(label: str) -> bool:
    """Whether English says "an" before this label."""
    plain = unicodedata.normalize("NFD", label)  # é becomes e and its accent
    if SPELLED.match(plain):
        return True
    return bool(VOWEL_SOUND.match(plain)) and not CONSONANT_SOUND.match(plain)
