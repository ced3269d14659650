"""A person marks generated images of real runs in a real browser; the report counts the marks."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from deepal_galot.cli import main
from deepal_galot.report.annotation import annotation_page, image_id, marked_table, read_marks
from deepal_galot.report.comparison import compare
from deepal_galot.report.gallery import gallery_of
from deepal_galot.results import find_runs
from helpers import QUICK

pytestmark = pytest.mark.xdist_group("annotation")  # its fixture is worth sharing

N = 2  # images a class of each of two methods


def expect(locator):
    """playwright's assertions, which wait."""
    from playwright.sync_api import expect

    return expect(locator)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Two methods that make images on Digits; with ε = 0 the images are others."""
    output = tmp_path_factory.mktemp("results")
    assert main([*QUICK, "--strategy", "GALOT", "GALOT:epsilon=0", "--output", str(output)]) == 0
    (found,) = compare(find_runs(output))
    return found


@pytest.fixture(scope="module")
def galleries(comparison):
    return [gallery_of(curve) for curve in comparison.curves]


@pytest.fixture(scope="module")
def file(galleries, tmp_path_factory):
    """The page on disk."""
    path = tmp_path_factory.mktemp("page") / "annotate.html"
    path.write_text(annotation_page(galleries, N, "Digits"), encoding="utf-8")
    return path


@pytest.fixture
def opened(open_page, file):
    """Opens the page, or another one."""
    return lambda path=file, **settings: open_page(path, **settings)


def images_of(page):
    return json.loads(page.text_content("#data"))["images"]


def place(page):
    """(place of the image that is shown, how many there are, what was said of it)."""
    found = re.fullmatch(r"(\d+) of (\d+)(?:, you said (yes|no))?", page.inner_text("#place"))
    return int(found[1]), int(found[2]), found[3]


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def sign(page, name):
    page.fill("#annotator", name)
    press(page, "Enter")  # leaves the field, so that keys answer


def saved(page, folder, name="annotations.json"):
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "annotations.json"
    download.value.save_as(folder / name)
    (annotation,) = read_marks([folder / name])
    return annotation


def test_nothing_tells_which_method_made_an_image(galleries, file):
    text = file.read_text(encoding="utf-8")
    for gallery in galleries:
        assert gallery.label not in text
        assert not any(part in text for part in gallery.folder.path.parts[-3:-1])
        assert str(gallery.folder.path) not in text


def test_keys_answer_and_go_back(opened, tmp_path):
    page = opened()
    ids = [image["id"] for image in images_of(page)]
    assert place(page) == (1, len(ids), None)
    press(page, "ArrowRight", "n", "Y", "ArrowLeft")
    assert place(page)[0] == 5
    press(page, "Backspace", "u")
    assert place(page) == (3, len(ids), "yes")
    press(page, "n")
    assert place(page)[0] == 5  # the fourth has its mark still
    press(page, "Control+y", "x", "ArrowUp")
    assert place(page)[0] == 5
    page.click("#yes")
    page.click("#no")
    page.click("#back")
    assert place(page) == (6, len(ids), "no")
    said = [True, False, False, False, True, False]
    assert saved(page, tmp_path).marks == dict(zip(ids, said, strict=False))
    content = (tmp_path / "annotations.json").read_text(encoding="utf-8")
    assert list(json.loads(content)["marks"]) == sorted(ids[:6]) and content.count("\n") == 12


def test_a_key_that_is_held_answers_once(opened):
    page = opened()
    page.keyboard.down("y")
    page.keyboard.down("y")
    page.keyboard.down("y")
    assert place(page)[0] == 2


def test_the_shown_image_and_question_are_the_marked_ones(opened):
    page = opened()
    for number, image in enumerate(images_of(page)[:3], 1):
        assert page.get_attribute("#image", "src") == image["src"]
        assert page.get_attribute("#image", "alt") == f"generated image {number}"
        assert page.inner_text("#question") == f"Does this image show: {image['shows']}?"
        press(page, "y")


def test_typing_a_name_answers_nothing(opened, tmp_path):
    page = opened()
    page.click("#annotator")
    page.keyboard.type(" yun nyu")
    press(page, "ArrowLeft", "Backspace", "ArrowRight", "Enter")
    assert place(page)[0] == 1
    press(page, "y")
    assert place(page)[0] == 2
    annotation = saved(page, tmp_path)
    assert annotation.annotator == "yun nu" and len(annotation.marks) == 1


def test_closing_the_tab_loses_nothing(opened, tmp_path):
    page = opened()
    sign(page, "Ann")
    press(page, "y", "n", "y")
    page.reload()
    assert place(page)[0] == 4 and page.input_value("#annotator") == "Ann"
    other = page.context.new_page()
    page.close()
    other.goto(page.url)
    press(other, "Backspace")
    assert place(other) == (3, place(other)[1], "yes")
    assert list(saved(other, tmp_path).marks.values()).count(True) == 2


def test_a_browser_that_keeps_nothing_says_so(opened, tmp_path):
    page = opened(
        before="Object.defineProperty(window, 'localStorage', {get() { throw new Error('none'); }})"
    )
    assert "keeps nothing" in page.inner_text("#message")
    press(page, "y", "n")
    assert place(page)[0] == 3 and len(saved(page, tmp_path).marks) == 2


def test_to_the_end_by_two_people_and_into_the_table(opened, tmp_path, galleries):
    rng, said = np.random.default_rng(0), []
    for name in ("Ann", "Ben"):
        page = opened()
        sign(page, name)
        ids = [image["id"] for image in images_of(page)]
        said.append(dict(zip(ids, rng.random(len(ids)) < 0.6, strict=True)))
        for i in ids:
            press(page, "y" if said[-1][i] else "n")
        assert not page.is_visible("#marking")
        assert page.inner_text("#summary") == f"{len(ids)} of {len(ids)} marked."
        assert "--report --annotations annotations.json" in page.inner_text("pre")
        assert page.evaluate("document.activeElement.id") == "done"
        assert saved(page, tmp_path, f"{name}.json").annotator == name
    table = marked_table(galleries, read_marks([tmp_path / "Ann.json", tmp_path / "Ben.json"]))
    for row, gallery in zip(table.rows, galleries, strict=True):
        x, y = gallery.training_images()
        first = [i for k in range(10) for i in np.flatnonzero(y == k)[:N]]
        ids = {image_id(x[i], gallery.class_names[y[i]]) for i in first}
        right = [marks[i] for marks in said for i in ids]
        assert row[0].text == gallery.label
        assert row[-2].value == pytest.approx(100 * np.mean(right)) and row[-1].value == len(ids)
    agreed = np.mean([said[0][i] == said[1][i] for i in said[0]])
    assert "judged by 2 people" in table.title
    assert f"on {100 * agreed:.0f} % of the {len(said[0])} images" in table.title


def test_back_from_the_end(opened):
    page = opened()
    n = len(images_of(page))
    press(page, *["y"] * n, "n", "y")
    assert page.is_visible("#done")
    press(page, "Backspace")
    assert place(page) == (n, n, "yes") and page.evaluate("document.activeElement.id") == "now"
    press(page, "n")
    assert page.is_visible("#done")
    page.reload()
    assert page.is_visible("#done")
    press(page, "u")
    assert place(page) == (n, n, "no")


def test_marks_are_loaded_elsewhere(opened, tmp_path):
    page = opened()
    sign(page, "Ann")
    press(page, "y", "n", "y")
    before = saved(page, tmp_path)
    elsewhere = opened()
    elsewhere.set_input_files("#load", tmp_path / "annotations.json")
    expect(elsewhere.locator("#message")).to_contain_text("3 of")
    assert place(elsewhere)[0] == 4 and elsewhere.input_value("#annotator") == "Ann"
    press(elsewhere, "y")
    after = saved(elsewhere, tmp_path, "more.json")
    assert after.annotator == "Ann" and after.marks.items() > before.marks.items()


def test_loaded_marks_join_those_of_the_page(opened, tmp_path):
    page = opened()
    ids = [image["id"] for image in images_of(page)]
    press(page, "y")
    marks = {"f" * 16: True, ids[3]: False, ids[1]: True}  # one is of another page
    content = {"schema": 1, "annotator": "", "marks": marks}
    (tmp_path / "other.json").write_text(json.dumps(content))
    page.set_input_files("#load", tmp_path / "other.json")
    expect(page.locator("#message")).to_contain_text(f"3 of {len(ids)} marked")
    assert place(page)[0] == 3
    press(page, "n")
    assert place(page)[0] == 5
    press(page, "Backspace")  # to what was answered last, not to the fourth
    assert place(page) == (3, len(ids), "no")
    assert saved(page, tmp_path).marks == marks | {ids[0]: True, ids[2]: False}
    found = json.loads((tmp_path / "annotations.json").read_text())["marks"]
    assert list(found) == sorted(found)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no JSON", "bad.json is not a file of marks"),
        ("null", "bad.json is not a file of marks"),
        ('{"schema": 1, "annotator": "", "marks": {"__proto__": true}}', "is not a file of marks"),
        ('{"schema": 1, "annotator": "Ben", "marks": {}}', "These are marks of Ben"),
    ],
)
def test_files_that_are_not_loaded(opened, tmp_path, content, says):
    page = opened()
    sign(page, "Ann")
    press(page, "y")
    (tmp_path / "bad.json").write_text(content)
    page.set_input_files("#load", tmp_path / "bad.json")
    expect(page.locator("#message")).to_contain_text(says)
    assert place(page)[0] == 2 and page.input_value("#annotator") == "Ann"


def test_start_again_asks_first(opened):
    page = opened()
    sign(page, "Ann")
    press(page, "y", "n")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.click("#again")
    assert place(page)[0] == 3
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#again")
    assert place(page)[0] == 1 and page.input_value("#annotator") == ""
    page.reload()
    assert place(page)[0] == 1


def test_class_names_are_text(opened, tmp_path):
    names = ("</script><img src=x onerror=alert(1)>", "“قطة” & \u2192 \\u003c", "🐈" * 40, "w" * 80)
    x, y = np.arange(4, dtype=np.uint8).repeat(12).reshape(4, 2, 2, 3), np.arange(4)
    made = SimpleNamespace(class_names=names, kept=True, training_images=lambda: (x, y))
    path = tmp_path / "hostile.html"
    path.write_text(annotation_page([made], 1, "<i>" + names[3]), encoding="utf-8")
    page, asked = opened(path=path, viewport={"width": 360, "height": 640}), set()
    page.click("summary")
    for _ in names:
        asked.add(page.inner_text("#name"))
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        press(page, "y")
    assert asked == set(names) and page.is_visible("#done")


@pytest.mark.parametrize("width", [320, 360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read_and_touched(opened, width, scheme):
    page = opened(viewport={"width": width, "height": 640}, color_scheme=scheme)
    page.click("summary")
    for ended in (False, True):
        if ended:
            press(page, *["y"] * len(images_of(page)))
            assert page.is_visible("#done")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for box in page.locator("button:visible, input:visible, summary").all():
            assert box.bounding_box()["height"] >= 44
        low = page.evaluate(CONTRASTS)
        assert low == []


# Visible elements with text of their own whose contrast with what is behind them is below 4.5.
CONTRASTS = """() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) =>
    0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = parts(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  return [...document.body.querySelectorAll("*")].filter((e) => {
    if (!e.checkVisibility() || e.matches("script")) return false;
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) return false;
    const [a, b] = [parts(getComputedStyle(e).color), behind(e)].map(luminance);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
  }).map((e) => e.outerHTML);
}"""
