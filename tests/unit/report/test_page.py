"""The report's page as text, of made-up runs and images: names, ids, headings, size."""

import base64
import dataclasses
import hashlib
import io
import re
from collections import Counter
from html.parser import HTMLParser
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deepal_galot import report
from deepal_galot.images import resize_image
from deepal_galot.report import figures
from deepal_galot.report.comparison import compare
from deepal_galot.report.exhibit import Exhibit
from deepal_galot.report.figures import INK, new_figure, render
from deepal_galot.report.gallery import ProbeImages
from deepal_galot.report.page import _table, _tile, inline_svg, page
from deepal_galot.report.pseudo_labels import accuracy_by_class, by_template
from deepal_galot.report.section import Picture, make_section
from deepal_galot.report.tables import Cell, Table
from finished_runs import runs

SCRIPT = '<script>alert("x")</script>'
HOSTILE = f"</title></style></script>{SCRIPT}'\"><img src=http://x.y onerror=a>"
VOID = {"meta", "link", "img", "wbr"}


class Document(HTMLParser):
    """A page's elements; fails where tags do not match.

    Attributes:
        elements: (tag, attributes) in the order of the page.
        text: what is between tags, without styles and scripts; of each kind of element too, in
            `inside`.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements, self.open, self.inside = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.inside.append((self.open[-1] if self.open else "", data))

    @property
    def text(self):
        return "".join(data for tag, data in self.inside if tag not in ("style", "script"))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def within(self, tag):
        return "".join(data for name, data in self.inside if name == tag)


def sections_of(folders):
    return [make_section(c, folders) for c in compare(folders)]


def gallery(label="GALOT", epsilons=(1.0, 2.0), shape=(8, 8, 1), names="abc", pictures=None):
    """A gallery of noise, or of the given pictures."""
    rng = np.random.default_rng(0)
    probes = []
    for r, epsilon in enumerate(epsilons):
        size = (2, len(names), 2, *shape)
        images = rng.integers(0, 256, size, dtype=np.uint8) if pictures is None else pictures(size)
        images[1] = images[1] if epsilon else images[0]
        scores = np.full(size[:3], np.nan)
        if epsilon:
            scores[:] = np.array([-0.25, 0.5])[:, None, None]
        probes.append(ProbeImages(r, epsilon, False, False, images, scores))
    folder = SimpleNamespace(config=SimpleNamespace(seed=7))
    prompts = [f"a photo of {name}" for name in names]
    return SimpleNamespace(
        label=label, class_names=tuple(names), prompts=prompts, probes=probes, folder=folder
    )


class Judge:
    """Sees class 0 everywhere, and counts how often it is asked."""

    name = "a fake"
    asked = 0

    def labels(self, images):
        self.asked += 1
        return np.zeros(len(images), np.int64)


@pytest.fixture
def two_sections(tmp_path):
    """Two data sets, three methods each, with a gallery."""
    rng, folders = np.random.default_rng(0), []
    for dataset in ("Digits", "MNIST"):
        for strategy in ("MarginSampling", "RandomSampling", "EntropySampling"):
            accuracy = rng.random((3, 3)).tolist()
            folders += runs(tmp_path, {"strategy": strategy}, accuracy, dataset)
    found = sections_of(folders)
    return [dataclasses.replace(s, galleries=(gallery(),), judge=Judge()) for s in found]


@pytest.mark.filterwarnings("ignore:Glyph 1 :UserWarning")
def test_names_are_text_and_never_markup(tmp_path):
    three = [[0.1, 0.2], [0.3, 0.4], [0.2, 0.2]]
    folders = runs(tmp_path, {"strategy": "MarginSampling"}, three)
    folders += runs(tmp_path, {"strategy": "EntropySampling"}, three[::-1])
    (section,) = sections_of(folders)
    renamed = [dataclasses.replace(c, label=f"{HOSTILE}\x01{i} $x_$") for i, c in
               enumerate(section.comparison.curves)]  # fmt: skip
    judge = Judge()
    judge.name = HOSTILE
    comparison = dataclasses.replace(
        section.comparison, curves=tuple(renamed), dataset=HOSTILE, name=HOSTILE,
        shared={"a": HOSTILE},
    )  # fmt: skip
    section = make_section(comparison, ())
    shown = gallery(label=HOSTILE, names=(HOSTILE, "b\x01\n\"'"))
    own = {"galleries": (shown,), "judge": judge, "lines": (*section.lines, HOSTILE)}
    html = page([dataclasses.replace(section, **own)])
    document = Document(html)
    assert document.within("script") == script() and len(document.all("script")) == 1
    assert not [a for _, a in document.elements if any(k.startswith("on") for k in a)]
    assert all(a["src"].startswith("data:image/") for a in document.all("img"))
    assert document.within("title") == f"Report: {HOSTILE}"
    for where in ("h1", "h2", "a", "li", "p", "th", "div", "span", "summary"):
        assert HOSTILE in document.within(where), where
    assert SCRIPT in document.within("text")
    assert any(a["alt"].startswith(HOSTILE) for a in document.all("img"))


def script():
    return files(report).joinpath("page.js").read_text(encoding="utf-8")


def test_only_its_own_script_may_run_and_nothing_is_loaded(two_sections):
    html = page(two_sections)
    document = Document(html)
    (policy,) = (a["content"] for a in document.all("meta") if "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(document.within("script").encode()).digest()).decode()
    assert policy.startswith("default-src 'none';") and f"script-src 'sha256-{digest}';" in policy
    assert "http" not in html.replace('http-equiv="Content-Security-Policy"', "")
    sources = [a[k] for _, a in document.elements for k in ("src", "href") if k in a]
    assert all(s.startswith(("data:", "#")) for s in sources)
    assert set(re.findall(r"url\(([^)]?)", html)) == {"#"} and "@import" not in html


def test_the_same_runs_give_the_same_bytes(two_sections):
    assert page(two_sections) == page(two_sections) != page(two_sections[:1])


def test_ids_are_unique_and_all_that_is_pointed_at_is_there(two_sections):
    html = page(two_sections)
    document = Document(html)
    ids = [a["id"] for _, a in document.elements if "id" in a]
    assert max(Counter(ids).values()) == 1
    pointed = re.findall(r"url\(#([^)]+)\)", html)
    pointed += [a["href"][1:] for _, a in document.elements if a.get("href", "").startswith("#")]
    named = [a["aria-labelledby"] for _, a in document.elements if "aria-labelledby" in a]
    assert len(pointed) > 50 and len(named) > 5
    assert set(pointed) | set(named) <= set(ids)


def test_headings_landmarks_and_words_for_pictures(two_sections):
    document = Document(page(two_sections))
    levels = [int(tag[1]) for tag, _ in document.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and levels.count(2) == 2
    assert all(below - above <= 1 for above, below in zip(levels, levels[1:], strict=False))
    assert all(a["alt"].strip() for a in document.all("img"))
    drawings = [a for a in document.all("svg") if a.get("aria-hidden") != "true"]
    assert len(drawings) == 8  # curves, costs, differences, gains of two data sets
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)
    regions = [a for a in document.all("div") if a.get("role") == "region"]
    assert regions and all("aria-label" in a or "aria-labelledby" in a for a in regions)
    assert all(a["tabindex"] == "0" for a in regions)
    for tag in ("main", "nav", "header", "footer"):
        assert len(document.all(tag)) == 1
    assert document.all("a")[0]["href"] == "#content"
    assert document.all("html") == [{"lang": "en"}]


def test_the_win_matrix_is_a_table_and_not_drawn(two_sections):
    html = page(two_sections[:1])
    start = html.index('<table class="wins matrix">')
    table = Document(html[start : html.index("</table>", start) + 8])
    assert "mean of the column" in table.text and not table.all("button")
    shades = [float(a["style"].removeprefix("--share:")) for a in table.all("td") if "style" in a]
    values = [float(a["data-value"]) for a in table.all("td") if "data-value" in a]
    assert shades == [round(v / 100, 2) for v in values] and 0 <= min(shades) <= max(shades) <= 1


words = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).map(
    lambda t: f"x{t}x"  # names have no blanks around them
)
numbers = st.floats(-1e6, 1e6)
cells = st.builds(Cell, words, st.none() | numbers, best=st.booleans())


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_table_reads_as_its_cells_do(data):
    """Whatever is in them: the texts are the same, and the numbers are there to sort by."""
    n = data.draw(st.integers(2, 4))
    header = data.draw(st.lists(words, min_size=n, max_size=n))
    rows = data.draw(st.lists(st.lists(cells, min_size=n, max_size=n), min_size=2, max_size=4))
    table = Table("accuracy", data.draw(words), tuple(header), tuple(map(tuple, rows)))
    html = _table(table, "k")
    document = Document(html)
    marks = sum(c.best for row in rows for c in row[1:])
    assert document.within("button") == "".join(header)
    assert document.within("div") == "".join(row[0].text for row in rows)
    best = "".join(c.text for row in rows for c in row[1:] if c.best)
    assert document.within("strong") == best
    assert document.within("td") == "".join(c.text for row in rows for c in row[1:] if not c.best)
    assert html.count("★") - (table.title + "".join(header)).count("★") >= marks
    values = [float(a["data-value"]) for a in document.all("td") if "data-value" in a]
    expected = [c.value for row in rows for c in row[1:] if c.value is not None]
    assert values == pytest.approx(expected, rel=1e-9)


def test_rows_that_belong_together_cannot_be_sorted():
    rows = ((Cell("A: paper"), Cell("1", 1)), (Cell("  ours − paper"), Cell("+1", 1)))
    for name, sortable in (("paper", False), ("wins", False), ("labels", True)):
        html = _table(Table(name, "t", ("strategy", "20"), rows), "k")
        assert ("<button>" in html) == sortable
    assert "<button>" not in _table(Table("labels", "t", ("strategy", "20"), rows[:1]), "k")


def test_a_gallery_shows_pairs_scores_and_what_the_judge_sees(two_sections):
    judge = Judge()
    shown = gallery(names=("cat", "dog"), epsilons=(1.0, 2.5))
    section = dataclasses.replace(two_sections[0], galleries=(shown,), judge=judge)
    document = Document(page([section]))
    assert judge.asked == 1
    images = document.all("img")
    assert len(images) == 2 * 2 * 2 * 2
    assert [a["alt"] for a in images[:4]] == ["cat, round 0, plain", "cat, round 0, optimised"] * 2
    assert images[-1]["alt"] == "dog, round 1, optimised"
    assert document.text.count("✓") == 8 + 1 and document.text.count("sees cat") == 8
    assert document.text.count("score −0.25 → 0.5") == 4
    assert "round 1, ε = 2.5" in document.text and "a photo of dog" in document.text
    assert "a fake" in document.text and "seed 7" in document.text
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(images[1]["src"].split(",")[1]))))
    assert (pixels == shown.probes[0].images[1, 0, 0, ..., 0]).all()
    assert images[0]["width"] == "48"


def test_images_that_were_not_moved_are_shown_once(two_sections):
    galleries = (gallery(epsilons=(0.0, 0.0)), SimpleNamespace(label="GAAL", probes=[]))
    section = dataclasses.replace(two_sections[0], galleries=galleries, judge=None)
    document = Document(page([section]))
    assert len(document.all("img")) == 3 * 2 * 2
    assert document.text.count("single images") == 1 and "nan" not in document.text
    assert "score −" not in document.text and "sees" not in document.text
    assert "No pseudo-label check: run --mode full too." in document.text
    assert "follow no text" in document.text
    assert [("open" in a) for a in document.all("details")] == [True, False]


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
def test_ten_classes_five_rounds_and_five_methods_stay_small(two_sections, shape):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (40, shape[0] // 4, shape[1] // 4, shape[2]), dtype=np.uint8)
    natural = np.stack([resize_image(c, shape) for c in coarse])

    def pictures(size):
        noise = rng.integers(-8, 8, (np.prod(size[:3]), *shape))
        picked = natural[rng.integers(0, 40, len(noise))]
        return (picked + noise).clip(0, 255).astype(np.uint8).reshape(size)

    names = [f"class {i}" for i in range(10)]
    galleries = [gallery(f"G{i}", (1.0,) * 5, shape, names, pictures) for i in range(5)]
    section = dataclasses.replace(two_sections[0], galleries=tuple(galleries))
    assert len(page([section]).encode()) < 2e6


def test_of_many_classes_and_large_images_a_part_is_kept(two_sections):
    shown = gallery(names=[f"c{i}" for i in range(200)], epsilons=(1.0,), shape=(90, 180, 3))
    section = dataclasses.replace(two_sections[0], galleries=(shown,), judge=Judge())
    document = Document(page([section]))
    assert len(document.all("img")) == 20 * 4 and "the first 20 of 200 classes" in document.text
    first = document.all("img")[0]
    assert (first["width"], first["height"]) == ("64", "32")
    assert Image.open(io.BytesIO(base64.b64decode(first["src"].split(",")[1]))).size == (64, 32)


def test_an_exhibit_of_images_embeds_them(two_sections):
    picture = Picture("one_class", 'images of "cat"', lambda: new_figure(1, 1)[0])
    exhibit = Exhibit("figure7", "Figure 7", "one_class", "Digits", ())
    comparison = dataclasses.replace(two_sections[0].comparison, exhibit=exhibit)
    section = dataclasses.replace(
        two_sections[0], comparison=comparison, pictures=(picture,), galleries=()
    )
    (image,) = Document(page([section])).all("img")
    assert image["alt"] == picture.alt and image["src"].startswith("data:image/png;base64,")


def test_a_drawing_takes_the_colour_of_the_page(two_sections):
    svg = render(lambda: figures.costs(two_sections[0].comparison), ["svg"])["svg"]
    assert INK.encode() in svg and b"<metadata>" in svg
    inline = inline_svg(svg, "k", 'what "it" shows')
    assert INK not in inline and "currentColor" in inline
    assert not {"metadata", "style"} & set(re.findall(r"<(\w+)", inline))
    assert 'aria-label="what &quot;it&quot; shows"' in inline
    assert "xmlns" not in inline and "<svg viewBox=" in inline


def test_classes_may_be_called_like_the_last_columns():
    """Of classes "images" and "all" the numbers stand under their names, and the count is none."""
    y, right = np.array([0, 0, 1, 1]), np.array([True, True, False, True])
    table = accuracy_by_class("pseudo_labels", "", [("GALOT", [(y, right)])], ("images", "all"))
    assert table.header == ("images of", "images", "all", "all", "images")
    axes = figures.matrix(table).axes[0]
    assert [x.get_text() for x in axes.get_xticklabels()] == ["images", "all", "all"]
    assert [x.get_text() for x in axes.texts] == ["100", "50", "75"]
    assert re.findall(r"--share:(.*?)\"", _table(table, "key")) == ["1.00", "0.50", "0.75"]
    config = SimpleNamespace(template="{label}", epsilon=0.5)
    gallery = SimpleNamespace(label="GALOT", folder=SimpleNamespace(config=config))
    assert by_template(table, [gallery]) == {"{label}": {0.5: 75.0}}


def test_a_very_wide_image_is_still_a_pixel_high():
    assert 'width="64" height="1"' in _tile(np.zeros((8, 2048, 1), np.uint8), "")
