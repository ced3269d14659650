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


def templates(names_or_texts: str) -> tuple[str, ...]:
    """The templates of these names, or the texts themselves; several have | between them.

    >>> templates("label | a photo of a {label}")
    ('{label}', 'a photo of a {label}')

    Raises:
        UserError: neither a name nor a text with {label}, or one of them twice.
    """
    texts = tuple(TEMPLATES.get(t.strip(), t.strip()) for t in names_or_texts.split("|"))
    for text in texts:
        if "{label}" not in text:
            raise UserError(
                f"--template {text!r}: must contain {{label}}, the place of the class name, or be "
                f"one of {', '.join(TEMPLATES)}; several have | between them"
            )
    if len(set(texts)) < len(texts):
        raise UserError(f"--template {names_or_texts!r}: the same template twice")
    return texts


def fill(template: str, label: str) -> str:
    """Put a class name into a template; "a" before it becomes "an" where English wants it.

    >>> fill("a photo of a {label}", "airplane")
    'a photo of an airplane'
    """
    if VOWEL_SOUND.match(label):
        template = re.sub(r"\b([aA]) (?=\{label\})", r"\1n ", template)
    return template.replace("{label}", label)
