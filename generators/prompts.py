"""Class names to prompts: c0 = CLIP(template(label))."""

from __future__ import annotations

import re

from deepal_galot.errors import UserError

TEMPLATES = {
    "label": "{label}",
    "photo": "a photo of a {label}",
    "realistic": "a realistic photo of a {label}",
    "simple": "a simple photo of a {label}",
    "recent": "a recent color photograph of a {label}",
    "detailed": "a recent color photograph of a {label}, ultra detailed, 4k resolution",
}  # the six of the paper's Table 3; the paper elides the tail of the sixth


# "an hour", but "a one", "a unicycle", "a European": English goes by sound.
VOWEL_SOUND = re.compile(r"(?!one\b|once\b|uni(?!n)|eu|use|uk)[aeiou]|hour|heir|honest", re.I)


def template_text(name_or_text: str) -> str:
    """The template of that name, or the text itself.

    Raises:
        UserError: neither a name nor a text with {label}.
    """
    text = TEMPLATES.get(name_or_text, name_or_text)
    if "{label}" not in text:
        raise UserError(
            f"--template {name_or_text!r}: must contain {{label}}, the place of the class name, "
            f"or be one of {', '.join(TEMPLATES)}"
        )
    return text


def fill(template: str, label: str) -> str:
    """Put a class name into a template; "a" before it becomes "an" where English wants it.

    >>> fill("a photo of a {label}", "airplane")
    'a photo of an airplane'
    """
    if VOWEL_SOUND.match(label):
        template = re.sub(r"\b([aA]) (?=\{label\})", r"\1n ", template)
    return template.replace("{label}", label)
