"""The report's page of real runs in a real browser: sorting, folding, widths, contrasts."""

import pytest

from deepal_galot.cli import main
from helpers import QUICK

pytestmark = pytest.mark.xdist_group("page")  # its fixture is worth sharing


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The page that a campaign leaves, with a judge of pseudo-labels."""
    output = tmp_path_factory.mktemp("results")
    arms = ["MarginSampling", "EntropySampling", "GALOT", "GALOT:mode=full"]
    few = ["--seeds", "0", "1", "2", "--epochs", "1"]  # three, for a win matrix
    assert main([*QUICK, *few, "--strategy", *arms, "--output", str(output)]) == 0
    return output / "report" / "index.html"


@pytest.fixture
def opened(open_page, file):
    """Opens the page."""
    return lambda **settings: open_page(file, **settings)


def column(page, name):
    """The values of a column of the accuracy table from the top; None where a cell is empty."""
    return page.evaluate(
        """(name) => {
          const table = document.querySelector("table.accuracy");
          const head = [...table.tHead.rows[0].cells].map((c) => c.textContent);
          return [...table.tBodies[0].rows].map((row) => {
            const cell = row.cells[head.indexOf(name)];
            return cell.textContent.trim() ? Number(cell.dataset.value) : null;
          });
        }""",
        name,
    )


def header(page, name):
    return page.locator("table.accuracy th").filter(has_text=name).first


def ordered(values, *, down):
    """Whether numbers are in order, and empty cells last."""
    numbers = [v for v in values if v is not None]
    return len(numbers) > 1 and values == sorted(numbers, reverse=down) + [None] * (
        len(values) - len(numbers)
    )


def test_a_click_on_a_header_sorts_by_its_numbers(opened):
    page = opened()
    before = column(page, "average")
    header(page, "average").locator("button").click()
    values = column(page, "average")
    assert ordered(values, down=True) and sorted(map(str, values)) == sorted(map(str, before))
    assert header(page, "average").get_attribute("aria-sort") == "descending"
    assert page.inner_text("#said") == "sorted by average, descending"
    header(page, "average").locator("button").click()
    assert ordered(column(page, "average"), down=False)
    assert header(page, "average").get_attribute("aria-sort") == "ascending"
    header(page, "made").locator("button").click()
    assert ordered(column(page, "made"), down=True)
    assert header(page, "average").get_attribute("aria-sort") is None


def test_the_keyboard_sorts_too(opened):
    page = opened()
    header(page, "strategy").locator("button").focus()
    page.keyboard.press("Enter")
    names = page.locator("table.accuracy tbody th").all_inner_texts()
    assert names == sorted(names, key=str.casefold) and len(names) == 4
    assert header(page, "strategy").get_attribute("aria-sort") == "ascending"
    for _ in range(4):  # 10, 15, 1,347, average
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "average"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Space")
    assert ordered(column(page, "average"), down=True)


def test_words_and_numbers_in_one_column(opened):
    """Labels needed: a number, then "> 15", whatever the runs gave; the other way when reversed."""
    page = opened()
    page.evaluate("""() => {
      const cells = [...document.querySelectorAll("table.labels tbody td:nth-child(2)")];
      for (const [i, text] of ["> 15", "12", "9"].entries()) {
        cells[i].textContent = text;
        delete cells[i].dataset.value;
        if (!text.startsWith(">")) cells[i].dataset.value = text;
      }
    }""")
    shown = page.locator("table.labels tbody td:nth-child(2)")
    button = page.locator("table.labels thead button").nth(1)
    button.click()
    assert shown.all_inner_texts() == ["> 15", "12", "9"]
    button.click()
    assert shown.all_inner_texts() == ["9", "12", "> 15"]


def test_the_gallery_folds_by_keyboard(opened):
    page = opened()
    gallery = page.locator("details").first
    assert gallery.get_attribute("open") is not None
    gallery.locator("summary").focus()
    page.keyboard.press("Enter")
    assert gallery.locator("img").first.is_visible() is False
    page.keyboard.press("Enter")
    assert gallery.locator("img").first.is_visible()
    drawn = page.evaluate("[...document.images].every((i) => i.naturalWidth === 8)")
    assert drawn and gallery.locator("img").count() == 10 * 2 * 4
    assert "a small_cnn trained on all real labels" in page.inner_text("main")


def test_the_skip_link_comes_first_and_leads_past_the_sections(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.locator(".skip").bounding_box()["height"] > 20
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href")).count() == 1


@pytest.mark.parametrize("width", [320, 360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(opened, width, scheme):
    page = opened(viewport={"width": width, "height": 640}, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert page.evaluate(CONTRASTS) == []
    seen = page.evaluate("[...document.querySelectorAll('body, th, a, td, text')].length")
    assert seen > 100
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_what_is_wide_scrolls_by_keyboard_under_its_first_column(opened):
    page = opened(viewport={"width": 360, "height": 640})
    box = page.locator(".scroll:has(table.accuracy)")
    box.focus()
    for _ in range(50):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(20)  # it scrolls smoothly
        if box.evaluate("(e) => e.scrollLeft") > 50:
            break
    assert box.evaluate("(e) => e.scrollLeft") > 50
    left = page.locator("table.accuracy tbody th").first.bounding_box()["x"]
    assert left == pytest.approx(box.bounding_box()["x"], abs=1)


# Visible elements whose own text has a contrast below 4.5 with what is behind it, or that are a
# legend's line or marker with one below 3.
CONTRASTS = """() => {
  const parts = (color) => {
    const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((v, i) => a * v + (1 - a) * under[i]);
  const behind = (e) => {
    if (!e) return [255, 255, 255];
    const color = parts(getComputedStyle(e).backgroundColor);
    return color[3] === 1 ? color : over(color, behind(e.parentElement));
  };
  const linear = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) =>
    0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const contrast = (color, e) => {
    const under = behind(e);
    const [a, b] = [over(parts(color), under), under].map(luminance);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const low = [];
  for (const e of document.body.querySelectorAll("*")) {
    if (!e.checkVisibility() || e.matches("script")) continue;
    const style = getComputedStyle(e);
    const words = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    const ink = e instanceof SVGElement ? style.fill : style.color;
    if (words && contrast(ink, e) < 4.5) low.push(e.outerHTML);
    if (e.matches(".legend path") && contrast(style.stroke, e) < 3) low.push(e.outerHTML);
    if (e.matches(".legend polygon") && contrast(style.fill, e) < 3) low.push(e.outerHTML);
  }
  return low;
}"""
