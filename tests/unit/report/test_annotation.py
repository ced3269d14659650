"""The page on which people mark images, the files that it saves, and the table made of them."""

import base64
import hashlib
import io
import json
import tempfile
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from deepal_galot.errors import UserError
from deepal_galot.report.annotation import (
    Annotation,
    annotation_page,
    image_id,
    marked_table,
    read_marks,
)
from finished_runs import texts

HOSTILE = ("</script><b>x", "\"quoted\" 'twice' & <!-- <script>", "قطة", "cat 🐈 \\u003c", "$data")
IDS = st.text("0123456789abcdef", min_size=16, max_size=16)
MARKS = st.dictionaries(IDS, st.booleans())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@dataclass(frozen=True)
class Made:
    """What a method made, in place of a Gallery that reads a run: images of one brightness each."""

    label: str
    values: tuple[int, ...]
    y: tuple[int, ...]
    class_names: tuple[str, ...] = ("cat", "dog")
    shape: tuple[int, int, int] = (2, 3, 1)

    kept = True

    def training_images(self):
        x = np.empty((len(self.values), *self.shape), np.uint8)
        x[:] = np.reshape(self.values, (-1, 1, 1, 1))
        return x, np.array(self.y, np.int64)


def id_of(value, name, shape=(2, 3, 1)):
    return image_id(np.full(shape, value, np.uint8), name)


class Read(HTMLParser):
    """The tags of a document in order, and their attributes as (tag, name, value)."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, k, v) for k, v in attributes]


def data_of(page):
    return json.loads(page.split('id="data">')[1].split("</script>")[0])


def shown(page):
    return [(image["shows"], image["id"]) for image in data_of(page)["images"]]


# -- the page ------------------------------------------------------------------------------------


def test_the_page_has_the_first_of_each_class_once():
    one = Made("one", (1, 2, 3, 4, 5), (0, 0, 0, 1, 1))
    two = Made("two", (1, 9, 4), (0, 0, 0))  # 1 is shared; 4 is a cat here
    expected = [("cat", id_of(v, "cat")) for v in (1, 2, 9)] + [
        ("dog", id_of(v, "dog")) for v in (4, 5)
    ]
    page = annotation_page([one, two], 2, "Toy")
    assert sorted(shown(page)) == sorted(expected)
    assert "<bdi>cat</bdi>: 3</li><li><bdi>dog</bdi>: 2" in page and "5 different images" in page
    assert sorted(shown(annotation_page([one, two], 9, "Toy"))) == sorted(
        [*expected, ("cat", id_of(3, "cat")), ("cat", id_of(4, "cat"))]
    )


@pytest.mark.parametrize("shape", [(5, 3, 1), (3, 4, 3)])
def test_the_images_are_the_methods_pixels(shape):
    made = Made("one", (0, 255, 7), (0, 1, 1), shape=shape)
    found = data_of(annotation_page([made], 5, "Toy"))["images"]
    x, y = made.training_images()
    expected = {image_id(i, made.class_names[k]): i for i, k in zip(x, y, strict=True)}
    assert {image["id"] for image in found} == expected.keys()
    for image in found:
        kind, content = image["src"].split(",")
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
        assert kind == "data:image/png;base64"
        assert np.array_equal(pixels.reshape(shape), expected[image["id"]])


def test_the_same_images_give_the_same_page_mixed_and_blind():
    one = Made("method_one", tuple(range(40)), (0,) * 20 + (1,) * 20)
    two = Made("method_two", tuple(range(100, 140)), (0,) * 20 + (1,) * 20)
    page = annotation_page([one, two], 20, "Toy")
    assert page == annotation_page([one, two], 20, "Toy") == annotation_page([two, one], 20, "Toy")
    assert "method_" not in page
    first = {id_of(v, name) for v in range(40) for name in ("cat", "dog")}
    of_first = [i in first for _, i in shown(page)]
    assert 10 < sum(of_first[:40]) < 30  # of 40 each, about half are in either half
    cats = [name == "cat" for name, _ in shown(page)]
    assert 10 < sum(cats[:40]) < 30


def test_the_page_remembers_marks_under_its_own_images():
    pages = [annotation_page([Made("one", (v, 5), (0, 1))], 1, "Toy") for v in (1, 2)]
    assert len({data_of(page)["key"] for page in pages}) == 2


def test_an_image_is_known_by_pixels_shape_and_class():
    pixels = np.arange(6, dtype=np.uint8)
    ids = {image_id(pixels.reshape(shape), name)
           for shape in ((2, 3, 1), (3, 2, 1), (1, 2, 3)) for name in ("cat", "dog")}  # fmt: skip
    assert len(ids) == 6
    header = b'[[2, 3, 1], "cat"]\n'  # the files of marks that people have depend on it
    assert (
        image_id(pixels.reshape(2, 3, 1), "cat")
        == (hashlib.sha256(header + bytes(range(6))).hexdigest()[:16])
    )
    turned = np.ascontiguousarray(pixels.reshape(3, 2, 1)).transpose(1, 0, 2)  # not contiguous
    assert image_id(turned, "cat") == image_id(turned.copy(), "cat")


def test_class_names_and_titles_stay_text():
    made = Made("one", (1, 2, 3, 4, 5), (0, 1, 2, 3, 4), HOSTILE)
    plain = Made("one", (1, 2, 3, 4, 5), (0, 1, 2, 3, 4), tuple("abcde"))
    page = annotation_page([made], 1, HOSTILE[0])
    assert sorted(image["shows"] for image in data_of(page)["images"]) == sorted(HOSTILE)
    read = Read(page)
    assert read.tags == Read(annotation_page([plain], 1, "Toy")).tags
    assert read.tags.count("script") == 2


def test_the_page_reaches_no_network():
    page = annotation_page([Made("one", (1, 2), (0, 1))], 1, "Toy")
    assert "http:" not in page and "https:" not in page and "url(" not in page
    read = Read(page)
    (policy,) = (v for _, k, v in read.attributes if k == "content" and "default-src" in v)
    assert "default-src 'none'; img-src data:;" in policy and "unsafe" not in policy
    links = {(tag, v) for tag, k, v in read.attributes if k in ("href", "src", "action", "srcset")}
    assert links == {("link", "data:,")}
    assert not [k for _, k, _ in read.attributes if k.startswith("on") or k == "style"]
    for text in (page.split("<style>")[1].split("</style>")[0],
                 page.rsplit("<script>", 1)[1].split("</script>")[0]):  # fmt: skip
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


@pytest.mark.parametrize(
    ("made", "n", "says"),
    [
        ([], 3, "--annotate: no finished run here makes images"),
        ([Made("one", (), ())], 3, "--annotate: no finished run here makes images"),
        ([Made("one", (1,), (0,))], 0, "--annotate 0: at least 1"),
        ([Made("one", (1,), (0,))], -4, "--annotate -4: at least 1"),
    ],
)
def test_a_page_without_images_is_refused(made, n, says):
    with pytest.raises(UserError, match=says):
        annotation_page(made, n, "Toy")


# -- the files of marks --------------------------------------------------------------------------


def saved(annotator, marks):
    """As the page saves; the browser's test has the page itself do it."""
    content = {"schema": 1, "annotator": annotator, "marks": dict(sorted(marks.items()))}
    return (json.dumps(content, indent=1) + "\n").encode()


def read_bytes(content):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "annotations.json"
        file.write_bytes(content)
        return read_marks([file])


@given(st.text(), MARKS)
def test_what_was_saved_is_read(annotator, marks):
    assert read_bytes(saved(annotator, marks)) == [Annotation(annotator.strip(), marks)]


@given(st.binary() | JSON.map(lambda content: json.dumps(content).encode()))
@example(b"[" * 100_000)
@example(b"9" * 5000)
@example(b"\xef\xbb\xbf{}")
def test_anything_else_is_refused(content):
    with pytest.raises(UserError, match="annotations.json: ") as error:
        read_bytes(content)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@given(
    st.sampled_from(["schema", "annotator", "marks", "id", "mark", "gone"]),
    JSON,
    MARKS.filter(bool),
)
def test_one_wrong_part_is_refused(part, wrong, marks):
    content = {"schema": 1, "annotator": "A", "marks": dict(marks)}
    if part == "gone":
        del content[sorted(content)[len(marks) % 3]]
    elif part == "id":
        content["marks"][f"{wrong} "] = True
    elif part == "mark":
        content["marks"][min(marks)] = 1 if isinstance(wrong, bool) else wrong
    else:
        fine = {"schema": type(wrong) is int and wrong == 1, "annotator": isinstance(wrong, str),
                "marks": wrong == {}}  # fmt: skip
        content[part] = None if fine[part] else wrong
    with pytest.raises(UserError, match="annotations.json: is not a file of marks"):
        read_bytes(json.dumps(content).encode())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "cannot be read as marks"),
        ("[]", "it is not a JSON object"),
        ('{"schema": 2, "annotator": "", "marks": {}}', "its schema is 2, not 1"),
        ('{"schema": true, "annotator": "", "marks": {}}', "its schema is True, not 1"),
        ('{"schema": 1, "marks": {}}', "its annotator is not text"),
        ('{"schema": 1, "annotator": "", "marks": []}', "its marks are not a JSON object"),
        ('{"schema": 1, "annotator": "", "marks": {"0123456789ABCDEF": true}}',
         "'0123456789ABCDEF' is not the id of an image"),
        ('{"schema": 1, "annotator": "", "marks": {"0123456789abcdef\\n": true}}',
         "is not the id of an image"),
        ('{"schema": 1, "annotator": "", "marks": {"0123456789abcdef": 1}}',
         "the mark of 0123456789abcdef is neither true nor false"),
    ],
)  # fmt: skip
def test_the_error_says_what_is_wrong(content, says):
    with pytest.raises(UserError, match=f"annotations.json: .*{says}"):
        read_bytes(content.encode())


def test_files_that_are_not_there(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UserError, match=f"{path}: cannot be read as marks"):
            read_marks([path])


def test_a_file_named_twice_is_one_persons(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_bytes(saved("", {"0" * 16: True}))
    (tmp_path / "b.json").write_bytes(saved("B", {"0" * 16: False}))
    monkeypatch.chdir(tmp_path)
    found = read_marks([tmp_path / "a.json", Path("b.json"), Path("a.json")])
    assert found == [Annotation("", {"0" * 16: True}), Annotation("B", {"0" * 16: False})]


# -- the table -----------------------------------------------------------------------------------


def test_one_persons_table_by_hand():
    made = [Made("one", (1, 2, 3, 4), (0, 0, 0, 1)), Made("two", (1, 5, 6), (0, 0, 1))]
    marks = {id_of(1, "cat"): True, id_of(2, "cat"): False, id_of(3, "cat"): False,
             id_of(4, "dog"): True, id_of(5, "cat"): True, id_of(6, "dog"): False,
             "f" * 16: True}  # fmt: skip
    table = marked_table(made, [Annotation("A", marks)])
    assert table.name == "annotated"
    assert table.title == (
        "% of generated images that are what their text says, judged by a person"
    )
    assert table.header == ("images of", "cat", "dog", "all", "images")
    assert texts(table) == [["one", "33", "100", "50", "4"], ["two", "100", "0", "67", "3"]]
    assert [row[3].value for row in table.rows] == pytest.approx([50, 200 / 3])
    assert [row[4].value for row in table.rows] == [4, 3]


def test_two_persons_table_by_hand():
    made = [Made("one", (1, 2, 3), (0, 0, 1)), Made("two", (1, 4), (0, 1)), Made("no", (9,), (0,))]
    a = {id_of(1, "cat"): True, id_of(2, "cat"): True, id_of(4, "dog"): False}
    b = {id_of(1, "cat"): True, id_of(2, "cat"): False, id_of(3, "dog"): True}
    table = marked_table(made, [Annotation("A", a), Annotation("B", b)])
    # of method one: 1 yes yes, 2 yes no, 3 yes; of method two: 1 yes yes, 4 no
    assert texts(table) == [["one", "75", "100", "80", "3"], ["two", "100", "0", "67", "2"]]
    assert table.title == (
        "% of generated images that are what their text says, judged by 2 people, who marked 4 of "
        "5 different images; on 50 % of the 2 images that several marked, all agree"
    )


def test_files_under_one_name_are_one_persons():
    made = [Made("one", (1, 2), (0, 1))]
    first, second = {id_of(1, "cat"): True}, {id_of(1, "cat"): False, id_of(2, "dog"): True}
    files = [Annotation("A", first), Annotation("A", second)]
    table = marked_table(made, files)
    assert texts(table) == [["one", "0", "100", "50", "2"]] and table.title.endswith("by a person")
    table = marked_table(made, [Annotation("", a.marks) for a in files])
    assert texts(table) == [["one", "50", "100", "67", "2"]]
    assert "by 2 people; on 0 % of the 1 images" in table.title


def test_identical_images_of_one_method_count_once():
    table = marked_table(
        [Made("one", (1, 1, 1, 2), (0, 0, 0, 0))],
        [Annotation("", {id_of(1, "cat"): True, id_of(2, "cat"): False})],
    )
    assert texts(table) == [["one", "50", "", "50", "2"]]


def test_no_table_without_marks_of_these_images():
    made = [Made("one", (1,), (0,))]
    marks = {id_of(1, "dog"): True, id_of(1, "cat", (3, 2, 1)): True}
    for annotations in ([], [Annotation("A", {})], [Annotation("A", marks)]):
        assert marked_table(made, annotations) is None
    assert marked_table([], [Annotation("A", marks)]) is None


@given(st.data())
def test_any_table_equals_counting_one_by_one(data):
    images = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=6)
    made = [list(data.draw(images)) for _ in range(2)]
    galleries = [Made(str(m), *zip(*of, strict=True)) for m, of in enumerate(made)]
    votes = data.draw(st.lists(st.dictionaries(
        st.tuples(st.integers(0, 3), st.integers(0, 1)), st.booleans()), max_size=3))  # fmt: skip
    names = ("cat", "dog")
    annotations = [Annotation("", {id_of(v, names[k]): m for (v, k), m in person.items()})
                   for person in votes]  # fmt: skip
    table = marked_table(galleries, annotations)
    expected = []
    for m, of in enumerate(made):
        said = [(k, v, p[v, k]) for v, k in sorted(set(of)) for p in votes if (v, k) in p]
        if not said:
            continue
        shares = [[right for c, _, right in said if c == k] for k in (0, 1)]
        shares.append([right for *_, right in said])
        cells = [100 * sum(s) / len(s) if s else None for s in shares]
        expected.append([str(m), *cells, len({(k, v) for k, v, _ in said})])
    found = [] if table is None else [
        [row[0].text, *(c.value for c in row[1:])] for row in table.rows
    ]  # fmt: skip
    assert [r[0] for r in found] == [r[0] for r in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[1:] == [None if v is None else pytest.approx(v) for v in theirs[1:]]
