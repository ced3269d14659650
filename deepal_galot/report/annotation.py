"""Generated images judged by people: a page that asks, the files that it saves, their table.

An image is known by a hash of its pixels and its class, so marks outlive a moved results folder,
and an image that several methods share is asked for once and counts for each of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from ..errors import UserError, said
from ..images import png_bytes
from .gallery import Gallery
from .html import asset, csp_hash, data_uri
from .pseudo_labels import accuracy_by_class
from .tables import Cell, Table

SCHEMA = 1  # of the file of marks; annotation.js has it too
IMAGE_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Annotation:
    """What one file of marks says.

    Attributes:
        annotator: who marked; may be empty.
        marks: image id -> whether the image shows its class.
    """

    annotator: str
    marks: Mapping[str, bool]


# -- the page that asks --------------------------------------------------------------------------


def annotation_page(galleries: Sequence[Gallery], n: int, title: str) -> str:
    """One HTML document that asks of images of all methods mixed whether each shows its class.

    Nothing in it says which method made an image, provided that the title does not. It opens from
    disk and reaches no network; the same input gives the same text.

    Args:
        n: images a class of each method: the first of its last round, or all if it made fewer.
        title: what the images are of, the data set's name.

    Raises:
        UserError: n is below 1, or there is no image.
    """
    if n < 1:
        raise UserError(f"--annotate {n}: at least 1 image a class is needed")
    images: dict[str, dict[str, str]] = {}
    for gallery in filter(lambda g: g.kept, galleries):
        for x, name in _first_images(gallery, n):
            src = data_uri(png_bytes(x), "png")
            images[image_id(x, name)] = {"shows": name, "src": src}
    if not images:
        raise UserError("--annotate: no finished run here makes images; add one, e.g. of GALOT")
    # In the order of their hashes the images are as good as shuffled, whatever the methods' order,
    # and those who stop halfway have marked a random half.
    asked = [{"id": i, **images[i]} for i in sorted(images)]
    key = hashlib.sha256("".join(sorted(images)).encode()).hexdigest()[:16]
    data = json.dumps({"key": f"marks {key}", "images": asked}).replace("<", r"\u003c")
    style, script = asset("annotation.css"), asset("annotation.js")
    return Template(asset("annotation.html")).substitute(
        title=escape(title),
        style=style,
        script=script,
        data=data,
        style_hash=csp_hash(style),
        script_hash=csp_hash(script),
        contents=_contents([image["shows"] for image in images.values()], n),
    )


def image_id(image: np.ndarray, name: str) -> str:
    """Sixteen hex digits of [H, W, C] uint8 pixels and the class that they should show."""
    header = json.dumps([image.shape, name]).encode()
    return hashlib.sha256(header + b"\n" + image.tobytes()).hexdigest()[:16]


def _first_images(gallery: Gallery, n: int) -> Iterator[tuple[np.ndarray, str]]:
    """([H, W, C] uint8, class name) of the first n of each class of the last round."""
    x, y = gallery.training_images()
    for k, name in enumerate(gallery.class_names):
        for i in np.flatnonzero(y == k)[:n]:
            yield x[i], name


def _contents(shown: Sequence[str], n: int) -> str:
    """How many images of each class the page has."""
    counts = "".join(
        f"<li><bdi>{escape(name)}</bdi>: {count}</li>" for name, count in Counter(shown).items()
    )
    return (
        f"<p>{len(shown)} different images: the first {n} of each class that each method made for "
        f"its last round, or all where it made fewer. Methods are mixed, and an image that "
        f"several share is asked for once.</p><ul>{counts}</ul>"
    )


# -- the files that it saves ---------------------------------------------------------------------


def read_marks(paths: Sequence[Path]) -> list[Annotation]:
    """What each file says; a file that is named twice is read once.

    Raises:
        UserError: a file is missing or is not what the page saves.
    """
    different = {os.path.realpath(path): path for path in paths}
    return [_annotation(path) for path in different.values()]


def _annotation(path: Path) -> Annotation:
    """
    Raises:
        UserError: it is missing or is not what the page saves.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as marks ({said(error)})") from error
    wrong = _wrong(content)
    if wrong:
        raise UserError(
            f"{path}: is not a file of marks that the page of --annotate saves: {wrong}"
        )
    return Annotation(content["annotator"].strip(), content["marks"])


def _wrong(content: Any) -> str:
    """What keeps it from being a file of marks; empty if nothing does."""
    if not isinstance(content, dict):
        return "it is not a JSON object"
    schema = content.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        return f"its schema is {said(ValueError(repr(schema)), 40)}, not {SCHEMA}"
    if not isinstance(content.get("annotator"), str):
        return "its annotator is not text"
    marks = content.get("marks")
    if not isinstance(marks, dict):
        return "its marks are not a JSON object"
    for name, mark in marks.items():
        if not IMAGE_ID.fullmatch(name):
            return f"{said(ValueError(repr(name)), 40)} is not the id of an image"
        if not isinstance(mark, bool):
            return f"the mark of {name} is neither true nor false"
    return ""


# -- their table ---------------------------------------------------------------------------------


def marked_table(galleries: Sequence[Gallery], annotations: Sequence[Annotation]) -> Table | None:
    """The paper's Table 9: a row for each method of which images were marked, None without any.

    A cell is the share of marks that say yes, every person's mark of every image; the last column
    counts the images. Images of the last round that are identical count once in a row.

    Methods whose images are gone from the image store have no row.
    """
    galleries = [gallery for gallery in galleries if gallery.kept]
    made = [_classes_by_id(gallery) for gallery in galleries]
    known = set().union(*made)
    people = _people(annotations, known)
    if not people:
        return None
    rows, counts = [], []
    for gallery, classes in zip(galleries, made, strict=True):
        votes = [(k, p[i]) for i, k in classes.items() for p in people if i in p]
        if votes:
            y, right = np.array(votes).T
            rows.append((gallery.label, [(y, right.astype(bool))]))
            counts.append(len(classes.keys() & set().union(*people)))
    title = _title(people, len(known))
    table = accuracy_by_class("annotated", title, rows, galleries[0].class_names)
    # Its last column counts marks, and an image may have those of several people.
    lines = ((*row[:-1], Cell(str(n), n)) for row, n in zip(table.rows, counts, strict=True))
    return replace(table, rows=tuple(lines))


def _classes_by_id(gallery: Gallery) -> dict[str, int]:
    """Class of each different image of the last round."""
    x, y = gallery.training_images()
    names = gallery.class_names
    return {image_id(image, names[k]): int(k) for image, k in zip(x, y, strict=True)}


def _people(annotations: Sequence[Annotation], known: set[str]) -> list[dict[str, bool]]:
    """Each person's marks of known images; of those with none, nothing.

    Files under one name are one person's, the later one counts; each nameless one is a person's.
    """
    marks: dict[str | int, dict[str, bool]] = {}
    for number, annotation in enumerate(annotations):
        own = {i: mark for i, mark in annotation.marks.items() if i in known}
        marks.setdefault(annotation.annotator or number, {}).update(own)
    return [own for own in marks.values() if own]


def _title(people: Sequence[Mapping[str, bool]], n_images: int) -> str:
    """Who judged, how many of all images, and how far they agree."""
    who = "a person" if len(people) == 1 else f"{len(people)} people"
    title = f"% of generated images that are what their text says, judged by {who}"
    votes: dict[str, list[bool]] = {}
    for marks in people:
        for i, mark in marks.items():
            votes.setdefault(i, []).append(mark)
    if len(votes) < n_images:
        title += f", who marked {len(votes)} of {n_images} different images"
    agreed = [len(set(v)) == 1 for v in votes.values() if len(v) > 1]
    if agreed:
        share = 100 * float(np.mean(agreed))
        title += f"; on {share:.0f} % of the {len(agreed)} images that several marked, all agree"
    return title
