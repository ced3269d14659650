"""One self-contained HTML page of everything: opens from disk, needs no network."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from string import Template
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from .. import __version__
from ..images import png_bytes, resize_image
from ..results import label_of
from . import figures
from .comparison import Comparison, Curve
from .figures import INK, render, style
from .gallery import MOST_CLASSES, SHOWN, Gallery, ProbeImages
from .html import asset, csp_hash, data_uri
from .pseudo_labels import Judge
from .section import Section
from .statements import headline
from .statistics import has_spread
from .tables import Cell, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADINGS = {"accuracy": "Accuracy and costs", "differences": "Differences",
            "gains": "Differences at each budget", "wins": "Win matrix",
            "wins_overall": "Win matrix over all data sets", "labels": "Labels needed",
            "paper": "The paper's numbers", "pseudo_labels": "Pseudo-labels",
            "annotated": "Marked by people", "pool": "Beside the unlabeled images",
            "text": "Text optimisation"}  # fmt: skip
WINS = ("wins", "wins_overall")
UNSORTED = (*WINS, "paper")  # their rows belong together: a last row of means, pairs of rows
TABLE_ENOUGH = (*WINS, "labels", "pseudo_labels", "annotated")  # pictures that say no more
MATRICES = (*WINS, "pseudo_labels", "annotated")  # percentages, shaded
DETAILED = 3  # sections whose parts the navigation names, too; more would fill a screen
SCALE = 1.4  # pixels of the page for a point of a drawing
TILE = 48  # pixels of the page that an image is about wide, if its own pixels allow
WIDEST = 64  # pixels of an image, in the page's file and on the screen
SMALL = 1000  # bytes up to which an image is kept exactly


@dataclass(frozen=True)
class Part:
    """A piece of a section under a heading of its own.

    Attributes:
        key: its id.
        heading: text.
        body: HTML.
    """

    key: str
    heading: str
    body: str


def page(sections: Sequence[Section]) -> str:
    """The whole page; of the same sections always the same.

    Nothing is loaded, and no script but its own may run, whatever a class or a method is called.
    """
    keys = [f"s{i}" for i in range(1, len(sections) + 1)]
    parts = list(map(_parts, sections, keys))
    datasets = dict.fromkeys(s.comparison.dataset for s in sections)
    script, look = asset("page.js"), asset("page.css")
    # Its styles are "unsafe-inline" since drawings and shaded cells have style attributes.
    return Template(asset("page.html")).substitute(
        title=escape(f"Report: {', '.join(datasets)}"),
        script_hash=csp_hash(script),
        look=look,
        navigation=_navigation(sections, keys, parts),
        sections="\n".join(map(_section, sections, keys, parts)),
        footer=_footer(sections),
        script=script,
    )


def _navigation(
    sections: Sequence[Section], keys: Sequence[str], parts: Sequence[Sequence[Part]]
) -> str:
    lines = []
    for section, key, of in zip(sections, keys, parts, strict=True):
        inner = "".join(f'<li><a href="#{p.key}">{escape(p.heading)}</a></li>' for p in of)
        inner = f"<ul>{inner}</ul>" if len(sections) <= DETAILED else ""
        lines.append(f'<li><a href="#{key}">{escape(section.title)}</a>{inner}</li>')
    return "\n".join(['<nav aria-label="Sections"><ul>', *lines, "</ul></nav>"])


def _footer(sections: Sequence[Section]) -> str:
    runs = {f.path for s in sections for c in s.comparison.curves for f in c.folders}
    return (
        f"<footer><p>Made by deepal-galot {__version__} from {len(runs)} finished "
        f"run{'s' if len(runs) != 1 else ''}; the same numbers lie beside this file as CSV, "
        f"Markdown and LaTeX. <code>--report</code> writes it anew.</p></footer>"
    )


# -- sections ------------------------------------------------------------------------------------


def _section(section: Section, key: str, parts: Sequence[Part]) -> str:
    """What may be said about a comparison, then its parts."""
    lines = "".join(f"<li>{_label(line)}</li>" for line in section.lines)
    shared = section.comparison.shared
    html = [f'<section aria-labelledby="{key}">', f'<h2 id="{key}">{escape(section.title)}</h2>']
    if shared:
        html.append(f"<p>All GALOT with {_label(label_of('', shared))}.</p>")
    best = headline(section.comparison)
    html += [f'<p class="best-of">{_label(best)}</p>'] if best else []
    html += [f"<ul>{lines}</ul>"] if lines else []
    html += [f'<h3 id="{p.key}">{escape(p.heading)}</h3>\n{p.body}' for p in parts]
    return "\n".join([*html, "</section>"])


def _parts(section: Section, key: str) -> list[Part]:
    """Images if they are the point, the curves, each table with its picture, the galleries."""
    comparison, exhibit = section.comparison, section.comparison.exhibit
    drawn = {p.name: p for p in section.pictures if p.table}
    parts = []
    if exhibit is not None and exhibit.kind in ("one_class", "examples"):
        images = "\n".join(_image_figure(p.draw, p.alt) for p in section.pictures if not p.table)
        parts.append(Part(f"{key}-images", "Images", images))
    for table in section.tables:
        if table.name == "accuracy" and "curves" in drawn:
            html = _curves(comparison, f"{key}-curves", drawn["curves"].alt)
            parts.append(Part(f"{key}-curves", "Learning curves", html))
        name, html = table.name, _table(table, f"{key}-{table.name}")
        for picture in drawn.values():
            if picture.table == name and picture.name not in ("curves", *TABLE_ENOUGH):
                drawing = _drawing(picture.draw, f"{key}-{picture.name}", picture.alt)
                box = _scrolling(drawing, f'aria-label="{escape(picture.alt)}"')
                html += f"\n<figure>{box}</figure>"
        parts.append(Part(f"{key}-{name}", HEADINGS.get(name, name), html))
    if section.galleries:
        html = _galleries(section.galleries, section.judge)
        parts.append(Part(f"{key}-galleries", "Generated images", html))
    return parts


def _label(text: str) -> str:
    """A label or a sentence with some, which may break where its settings do."""
    return re.sub(r"(?<=\w)([,:=])(?=\w)", r"\1<wbr>", escape(text))


def _scrolling(html: str, name: str) -> str:
    """What may be wider than the screen, in a box that the keyboard can scroll.

    Args:
        name: attribute that says what it is.
    """
    return f'<div class="scroll" role="region" tabindex="0" {name}>{html}</div>'


# -- tables --------------------------------------------------------------------------------------


def _table(table: Table, key: str) -> str:
    """With a button in each header cell if its rows may be sorted."""
    sortable = table.name not in UNSORTED and len(table.rows) > 1
    head = "".join(
        f'<th scope="col">{f"<button>{_label(h)}</button>" if sortable else _label(h)}</th>'
        for h in table.header
    )
    n_shaded = len(table.shares) if table.name in MATRICES else 0
    rows = []
    for first, *cells in table.rows:
        html = "".join(_cell(cell, j < n_shaded) for j, cell in enumerate(cells))
        name = f"<div>{_label(first.text.strip())}</div>"
        rows.append(f'<tr><th scope="row">{name}</th>{html}</tr>')
    caption = table.title
    if table.name == "accuracy":
        caption += "; a number above a column is its |L|"
    if any(c.best for row in table.rows for c in row):
        caption += "; ★ is the highest mean of its column"
    html = "\n".join(
        [
            f'<table class="{table.name}{" matrix" if table.name in MATRICES else ""}">',
            f'<caption id="{key}-title"><span>{escape(caption)}</span></caption>',
            f"<thead><tr>{head}</tr></thead>",
            "<tbody>",
            *rows,
            "</tbody></table>",
        ]
    )
    return _scrolling(html, f'aria-labelledby="{key}-title"')


def _cell(cell: Cell, shaded: bool) -> str:
    value = "" if cell.value is None else f' data-value="{cell.value:.10g}"'
    shade = f' style="--share:{cell.value / 100:.2f}"' if shaded and value else ""
    text = escape(cell.text)
    if cell.best:
        text = f'<span class="mark" role="img" aria-label="highest">★</span><strong>{text}</strong>'
    return f"<td{value}{shade}>{text}</td>"


# -- drawings ------------------------------------------------------------------------------------


def _curves(comparison: Comparison, key: str, alt: str) -> str:
    """The curves beside a legend that a screen reader can read and a phone can wrap."""
    drawing = _drawing(lambda: figures.curves(comparison, legend=False), f"{key}-drawing", alt)
    order = sorted(enumerate(comparison.curves), key=lambda pair: -pair[1].accuracy[:, -1].mean())
    legend = "\n".join(_legend_line(i, curve) for i, curve in order)
    bands = ", bands of one standard error" if has_spread(comparison.curves) else ""
    return (
        f'<figure><div class="curves">{drawing}\n<ul class="legend">{legend}</ul></div>\n'
        f"<figcaption>Mean over n seeds{bands}; the table below has the numbers.</figcaption>"
        f"</figure>"
    )


def _legend_line(i: int, curve: Curve) -> str:
    """A method's line and marker as the drawing has them, and its name."""
    look = style(i)
    dashes = {"-": "none", ":": "2 3.3", "-.": "12.8 3.2 2 3.2", "--": "7.4 3.2"}
    line = look["linestyle"] if curve.learns else "--"
    marker = _marker(look["marker"]) if curve.learns else ""
    alone = f", {curve.labels:,} labels" if not curve.learns else ""
    return (
        f'<li><svg width="40" height="14" aria-hidden="true" fill="{look["color"]}">'
        f'<path d="M0 7H40" stroke="{look["color"]}" stroke-width="2" '
        f'stroke-dasharray="{dashes[line]}"/>{marker}</svg>'
        f"<span>{_label(curve.marked_label)} (n = {len(curve.seeds)}{alone})</span></li>"
    )


def _marker(name: str) -> str:
    """A marker of matplotlib's in the middle of a legend's line."""
    from matplotlib.markers import MarkerStyle
    from matplotlib.transforms import Affine2D

    marker = MarkerStyle(name)
    place = marker.get_transform() + Affine2D().scale(9, -9).translate(20, 7)
    (corners,) = marker.get_path().transformed(place).to_polygons()
    return f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in corners)}"/>'


def _drawing(draw: Callable[[], Figure], key: str, alt: str) -> str:
    """A figure as an SVG element."""
    svg = render(draw, ["svg"], {"font.size": 11, "legend.frameon": False})["svg"]
    return inline_svg(svg, key, alt)


def inline_svg(svg: bytes, key: str, alt: str) -> str:
    """An SVG file as an element of a page: with the page's font, its colour in place of INK, and
    ids that start with the key, since those of several files are alike.

    Args:
        alt: what it shows.
    """
    root = ElementTree.fromstring(re.sub(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]", b"", svg))
    for element in root.iter():
        element.tag = _local(element.tag)
        for child in [c for c in element if _local(c.tag) in ("metadata", "style")]:
            element.remove(child)
        own = {_local(k): v for k, v in element.attrib.items()}
        element.attrib = {k: _attribute(k, v, key) for k, v in own.items()}
    width, height = (SCALE * float(root.attrib[k][:-2]) for k in ("width", "height"))  # "540pt"
    wide = " wide" if width > 600 else ""
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "width": f"{width:.0f}",
        "height": f"{height:.0f}",
        "class": f"drawing{wide}",
        "role": "img",
        "aria-label": alt,
    }
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """A name without its namespace; HTML knows SVG's."""
    return name.rpartition("}")[2]


def _attribute(name: str, value: str, key: str) -> str:
    """An attribute of a drawing's element as it is on the page."""
    if name == "id":
        return f"{key}-{value}"
    if name == "href" and value.startswith("#"):
        return f"#{key}-{value[1:]}"
    value = value.replace("url(#", f"url(#{key}-").replace(INK, "currentColor")
    return re.sub(r"'DejaVu Sans'[^;]*", "system-ui, sans-serif", value)


def _image_figure(draw: Callable[[], Figure], alt: str) -> str:
    """A figure of pixels."""
    uri, said = data_uri(render(draw, ["png"])["png"], "png"), escape(alt)
    return f'<figure><img src="{uri}" alt="{said}"><figcaption>{said}</figcaption></figure>'


# -- generated images ----------------------------------------------------------------------------


def _galleries(galleries: Sequence[Gallery], judge: Judge | None) -> str:
    """Every method's images, one method unfolded."""
    about = (
        "For each class and round, pairs of images from the same noise. Plain | optimised: made "
        "from the prompt as it is and after the text optimisation (random step: after steps of the "
        "same length in random directions); below them the acquisition score (higher is more "
        "wanted) before → after, mean of the pairs shown. As made | aligned: before and after the "
        "map that fits all of a run's images to the unlabeled ones."
    )
    check = "No pseudo-label check: run --mode full too."
    if judge is not None:
        check = (
            f"Pseudo-label check: ✓ where {judge.name} sees the class, else what it sees; it may "
            f"err itself."
        )
    html = [f'<p class="quiet">{about} {escape(check)}</p>']
    for i, gallery in enumerate(galleries):
        body = (
            _gallery(gallery, judge)
            if gallery.probes
            else ("<p>Its images follow no text: there are no pairs of plain and optimised.</p>")
        )
        opened = " open" if i == 0 else ""
        what = f"{_label(gallery.label)}: generated images by class and round"
        html.append(f"<details{opened}><summary>{what}</summary>\n{body}\n</details>")
    return "\n".join(html)


def _gallery(gallery: Gallery, judge: Judge | None) -> str:
    """A row for each class, a column for each round."""
    names, probes = gallery.class_names, gallery.probes
    seen = _seen(probes, judge) if judge else None
    titles = [f"round {p.round}, ε = {p.epsilon:.2g}{p.pairs and '; '}{p.pairs}" for p in probes]
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    rows = []
    for k, (name, prompt) in enumerate(zip(names[:MOST_CLASSES], gallery.prompts, strict=False)):
        cells = (
            _images_cell(probe, k, names, None if seen is None else seen[r])
            for r, probe in enumerate(probes)
        )
        title = f'<div>{escape(name)} <span class="quiet">{escape(prompt)}</span></div>'
        rows.append(f'<tr><th scope="row">{title}</th>{"".join(cells)}</tr>')
    caption = f"the run of seed {gallery.folder.config.seed}; below each class its prompt"
    if len(names) > MOST_CLASSES:
        caption += f"; the first {MOST_CLASSES} of {len(names)} classes"
    if not all(p.pairs for p in probes):
        caption += "; where ε = 0 and nothing is aligned, single images"
    html = "\n".join(
        [
            '<table class="images">',
            f"<caption><span>{escape(caption)}</span></caption>",
            f'<thead><tr><th scope="col">class</th>{head}</tr></thead>',
            "<tbody>",
            *rows,
            "</tbody></table>",
        ]
    )
    return _scrolling(html, f'aria-label="{escape(gallery.label)}: generated images"')


def _seen(probes: Sequence[ProbeImages], judge: Judge) -> np.ndarray:
    """[R, 2, K, S] int64 the class that the judge sees in each of the shown images."""
    shown = np.stack([p.images[:, :MOST_CLASSES, :SHOWN] for p in probes])
    return judge.labels(shown.reshape(-1, *shown.shape[4:])).reshape(shown.shape[:4])


def _images_cell(probe: ProbeImages, k: int, names: Sequence[str], seen: np.ndarray | None) -> str:
    """Class k's pairs in one round, what the judge sees in them, and their scores.

    Args:
        seen: [2, K, S] the judge's classes; None without a judge.
    """
    pairs = []
    for j, _ in enumerate(probe.images[0, k, :SHOWN]):
        html = []
        for side, name in enumerate(probe.sides):
            what = f"{names[k]}, round {probe.round}, {name}"
            html.append(_tile(probe.images[side, k, j], what))
            if seen is not None:
                html.append(_verdict(k, seen[side, k, j], names))
        pairs.append(f'<span class="pair">{"".join(html)}</span>')
    before, after = probe.scores[:, k, :SHOWN].mean(1)
    score = ""
    if np.isfinite([before, after]).all():
        numbers = f"{before:.4g} → {after:.4g}".replace("-", "−")
        score = f'<span class="quiet">score</span> {numbers}'
    return f'<td><div class="tiles">{"".join(pairs)}</div>{score}</td>'


def _verdict(k: int, seen: int, names: Sequence[str]) -> str:
    if seen == k:
        return '<span class="right">✓</span>'
    return f'<span class="wrong">sees {escape(names[seen])}</span>'


def _tile(pixels: np.ndarray, alt: str) -> str:
    """[H, W, C] uint8 image, enlarged by a whole number if it is small."""
    height, width, channels = pixels.shape
    if width > WIDEST:
        height, width = max(1, round(height * WIDEST / width)), WIDEST
        pixels = resize_image(pixels, (height, width, channels))
    times = max(1, round(TILE / width))
    size = f'width="{times * width}" height="{times * height}"'
    return f'<img src="{_small_uri(pixels)}" {size} alt="{escape(alt)}">'


def _small_uri(pixels: np.ndarray) -> str:
    """[H, W, C] uint8 image in few bytes: exactly if it takes no more than SMALL, else as WebP of a
    quality that looks alike; a page may hold a thousand."""
    from PIL import Image, features

    exact = png_bytes(pixels)
    if len(exact) <= SMALL or not features.check("webp"):
        return data_uri(exact, "png")
    out = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.save(out, "webp", quality=90)
    return data_uri(out.getvalue(), "webp")
