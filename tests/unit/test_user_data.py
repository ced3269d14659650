"""--dataset PATH: an image folder or an .npz, and every way in which one can be wrong."""

import io
import os
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from deepal_galot.datasets.base import DatasetSpec
from deepal_galot.datasets.user_data import dataset_at, is_path, results_name
from deepal_galot.errors import UserError
from deepal_galot.images import read_image

RNG = np.random.default_rng(0)


def load(path, image_size=None) -> DatasetSpec:
    return dataset_at(path, image_size)().load(Path("unused"))


def save(file, size=(10, 9), mode="RGB", level=None):
    """A noise image, or one of a single level; size is (width, height)."""
    pixels = RNG.integers(0, 256, (size[1], size[0], 3), np.uint8)
    if level is not None:
        pixels[:] = level
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(file)
    return file


@pytest.fixture
def folder(tmp_path):
    """Two classes, three train images each and one test image each."""
    root = tmp_path / "my photos"
    for k, name in enumerate(("cats", "black_dogs")):
        for i in range(3):
            save(root / "train" / name / f"{i}.png", level=100 * k + i)
        save(root / "test" / name / "0.jpg", level=100 * k)
    return root


# -- what counts as a path, and its name ---------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "path"),
    [("Digits", False), ("digits", False), ("nothing", False), ("photos", True), ("mnist", False),
     ("./Digits", True), ("x/y", True), ("a.npz", True), ("A.NPZ", True), ("/", True)],
)  # fmt: skip
def test_what_is_a_path(tmp_path, monkeypatch, source, path):
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "Digits", "MNIST"):  # a registered name wins over a folder
        (tmp_path / name).mkdir()
    assert is_path(source) is path


@pytest.mark.parametrize(
    ("path", "name"),
    [("photos", "photos"), ("a/b c/", "b_c"), ("a/.npz", "npz"), ("x.v2.npz", "x.v2"),
     ("x.v2", "x.v2"), ("..hidden", "hidden"), ("Ünïcode-1+2", "Ünïcode-1+2"),
     ("images", "images-data"), ("exhibits", "exhibits-data"),
     ("Report.npz", "Report-data"), ("./CIFAR10", "CIFAR10-data"), ("digits.npz", "digits-data"),
     ("***", "data"), ("/", "data")],
)  # fmt: skip
def test_its_name_is_a_folder_of_the_results(path, name):
    assert results_name(Path(path)) == name


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1))
@settings(max_examples=200, deadline=None)
def test_any_name_is_one_harmless_folder(text):
    name = results_name(Path("some") / text)
    assert name and Path(name).parts == (name,) and name not in (".", "..")
    assert name.casefold() not in ("images", "report", "exhibits", "digits")


def test_the_folder_in_which_one_stands(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert dataset_at(".").name == "my_photos" and dataset_at("train/..").name == "my_photos"


# -- image folders ------------------------------------------------------------------------------


def test_an_image_folder(folder):
    cls = dataset_at(folder)
    assert (cls.name, cls.class_names) == ("my_photos", ("black dogs", "cats"))  # before loading
    spec = cls().load(Path("unused"))
    assert spec.x_train.shape == (6, 9, 10, 3) and spec.x_test.shape == (2, 9, 10, 3)
    assert spec.y_train.tolist() == [0, 0, 0, 1, 1, 1] and spec.y_test.tolist() == [0, 1]
    assert spec.x_train[:, 0, 0, 0].tolist() == [100, 101, 102, 0, 1, 2]
    assert spec.class_names == cls.class_names and spec.name == "my_photos"
    assert spec.mean[0] == pytest.approx(51 / 255)


def test_sizes_that_differ_are_resized_by_the_projects_own_path(folder):
    big = save(folder / "train" / "cats" / "big.png", size=(40, 20))
    with pytest.raises(UserError, match=r"big.png: is 40×20 pixels, .*10×9: give --image-size N"):
        load(folder)
    spec = load(folder, 16)
    assert spec.image_shape == (16, 16, 3)
    from deepal_galot.images import load_image

    assert (spec.x_train[6] == load_image(big, (16, 16, 3))).all()
    assert load(folder, 12).content_hash != spec.content_hash


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_photos_stand_upright(tmp_path, mode):
    """Before, as the sensor saw them: phones say how they were held in the EXIF orientation."""
    seen = np.arange(12).reshape(3, 4) * (5000 if mode == "I;16" else 20)
    held = Image.fromarray(seen.astype(np.uint16 if mode == "I;16" else np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90° clockwise to stand upright
    held.save(tmp_path / "held.png", exif=exif)
    held.save(tmp_path / "plain.png")
    pixels = [read_image(tmp_path / f"{name}.png") for name in ("held", "plain")]
    assert (pixels[0] == np.rot90(pixels[1], -1)).all() and pixels[0].shape[:2] == (4, 3)


def test_an_orientation_that_cannot_be_read_is_none(tmp_path):
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    image.save(tmp_path / "odd.png", exif=b"Exif\0\0no TIFF header")
    assert (read_image(tmp_path / "odd.png")[..., 0] == np.asarray(image)).all()


def test_grey_if_every_image_is(tmp_path):
    for part in ("train", "test"):
        for name, mode in (("a", "L"), ("b", "1"), ("b", "LA")):
            save(tmp_path / part / name / f"{mode}.png", mode=mode)
    deep = np.full((9, 10), 257 * 77, np.uint16)
    Image.fromarray(deep).save(tmp_path / "train" / "a" / "deep.png")
    spec = load(tmp_path)
    assert spec.image_shape == (9, 10, 1)
    assert (spec.x_train[1] == 77).all()
    save(tmp_path / "test" / "b" / "colour.png")
    mixed = load(tmp_path)
    assert mixed.image_shape == (9, 10, 3)
    assert (mixed.x_train == spec.x_train).all()  # grey fills all three channels


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_seen_on_white(folder, mode):
    image = Image.new("RGBA", (10, 9), (0, 0, 0, 255))
    image.paste((200, 0, 0, 0), (0, 0, 5, 9))  # what lies under full transparency is not seen
    image.convert(mode).save(folder / "train" / "cats" / "zz.png")
    x = load(folder).x_train[-1]
    assert (x[:, :5] == 255).all() and (x[:, 5:] == 0).all()


def test_what_is_left_out_and_what_is_followed(folder, tmp_path):
    plain = load(folder).content_hash
    for file in (".DS_Store", "train/.DS_Store", "train/cats/.DS_Store", "train/cats/._0.png",
                 "train/cats/notes.txt", "notes.png.txt"):  # fmt: skip
        (folder / file).write_bytes(b"x")
    (folder / "train" / ".cache").mkdir()
    save(folder / "val" / "cats" / "0.png")
    (folder / "train" / "cats").rename(tmp_path / "elsewhere")
    (folder / "train" / "cats").symlink_to(tmp_path / "elsewhere")
    assert load(folder).content_hash == plain


def test_a_class_may_have_no_test_images(folder):
    (folder / "test" / "cats" / "0.jpg").unlink()
    assert load(folder).y_test.tolist() == [0]
    (folder / "test" / "cats").rmdir()
    assert load(folder).y_test.tolist() == [0]


def test_names_in_any_script(folder):
    (folder / "train" / "cats").rename(
        folder / "train" / unicodedata.normalize("NFD", "köttur__猫")
    )
    (folder / "test" / "cats").rename(folder / "test" / unicodedata.normalize("NFD", "köttur__猫"))
    assert load(folder).class_names == ("black dogs", "köttur 猫")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: os.rename(f / "train", f / "Training"), "train: no such folder; an image"),
        (lambda f: os.rename(f / "test", f / "valid"), "test: no such folder; an image"),
        (lambda f: save(f / "test" / "mice" / "0.png"), "test/mice: there is no such class in"),
        (lambda f: (f / "train" / "mice").mkdir(), r"train/mice: no images in it \(.bmp, "),
        (lambda f: [p.unlink() for p in (f / "test").rglob("*.jpg")], "test: no images in it"),
        (lambda f: os.rename(f / "train" / "cats", f / "train" / "black dogs"), "the same name"),
        (lambda f: os.rename(f / "train" / "cats", f / "train" / "__"), "text on one line"),
        (lambda f: os.rename(f / "train" / "cats", f / "cats"), "1 class; a classifier needs 2"),
        (lambda f: save(f / "train" / "0.png"), r"0.png: is in no class"),
        (lambda f: save(f / "train" / "cats" / "more" / "0.png"), "more: a folder inside a class"),
        (lambda f: (f / "train" / "cats" / "0.png").write_bytes(b""), "0.png: cannot be read as"),
        (lambda f: (f / "train" / "cats" / "z.jpg").symlink_to("gone"), "z.jpg: cannot be read"),
        (lambda f: save(f / "test" / "cats" / "0.jpg", (9, 9)), "0.jpg: is 9×9 pixels"),
    ],
)
def test_a_wrong_folder(folder, change, says):
    change(folder)
    with pytest.raises(UserError, match=says):
        load(folder)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".webp", ".tif", ".bmp"])
def test_a_truncated_image_is_named(folder, suffix):
    file = save(folder / "train" / "cats" / f"broken{suffix}", (64, 64))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=f"broken{suffix}: cannot be read as an image"):
        load(folder, 8)


def test_sizes_that_cannot_be_used(tmp_path):
    for part in ("train", "test"):
        for name in ("a", "b"):
            save(tmp_path / part / name / "0.png", (7, 20))
    with pytest.raises(UserError, match="no side may be below 8 pixels"):
        load(tmp_path)
    assert load(tmp_path, 8).image_shape == (8, 8, 3)
    for file in tmp_path.rglob("*.png"):
        save(file, (1025, 8))
    with pytest.raises(UserError, match="is 1025×8 pixels; give --image-size N"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "says"),
    [("gone", "no such folder or .npz"), ("gone.npz", "no such folder or .npz"),
     ("notes.txt", "neither a folder nor an .npz"), ("x.npz", "damaged or not an .npz file$")],
)  # fmt: skip
def test_a_path_to_nothing_useful(tmp_path, name, says):
    for file in ("notes.txt", "x.npz"):
        (tmp_path / file).write_text("hello")
    with pytest.raises(UserError, match=says):
        dataset_at(tmp_path / name)


# -- .npz ---------------------------------------------------------------------------------------


def arrays(**more):
    y = np.array([0, 1, 2, 1, 0, 2])
    x = RNG.integers(0, 256, (6, 8, 9, 3), np.uint8)
    return {"x_train": x, "y_train": y, "x_test": x[:3], "y_test": y[:3]} | more


def npz(folder, **given):
    np.savez(folder / "set.npz", **given)
    return folder / "set.npz"


def test_an_npz(tmp_path):
    given = arrays(class_names=np.array(["cat", "grey dog ", "mouse"]))
    file = npz(tmp_path, **given)
    assert dataset_at(file).class_names == ("cat", "grey dog", "mouse")
    spec = load(file)
    assert (spec.name, spec.image_shape) == ("set", (8, 9, 3))
    assert (spec.x_train == given["x_train"]).all() and (spec.y_test == [0, 1, 2]).all()
    del given["class_names"]
    given |= {"x_train": given["x_train"][..., 0], "x_test": given["x_test"][..., 0]}
    spec = load(npz(tmp_path, **given))
    assert spec.class_names == ("0", "1", "2") and spec.image_shape == (8, 9, 1)


@pytest.mark.parametrize(
    ("given", "says"),
    [(["X", "y", "X_test", "y_test"], r"lacks \['x_train', 'y_train', 'x_test'\]"),
     (["y_train"], r"holds \['y_train'\], lacks \['x_train', 'x_test', 'y_test'\]"),
     ([], r"holds \[\], lacks \['x_train', 'y_train', 'x_test', 'y_test'\]")],
)  # fmt: skip
def test_all_arrays_that_an_npz_lacks_are_named(tmp_path, given, says):
    """Before, only y_train, which is read first."""
    with pytest.raises(UserError, match=says):
        dataset_at(npz(tmp_path, **dict.fromkeys(given, np.zeros(4, int))))


@pytest.mark.parametrize(
    ("key", "kind", "hint"),
    [("x_train", int, r"save x.astype\('uint8'\)$"),
     ("x_test", float, r"of floats from 0 to 255, save x.round\(\).astype\('uint8'\)$"),
     ("x_train", bool, r"save x.astype\('uint8'\) \* 255$"),
     ("y_train", float, r"save y.astype\(int\)")],
)  # fmt: skip
def test_the_hint_is_one_that_mends(tmp_path, key, kind, hint):
    given = arrays()
    given[key] = given[key].astype(kind)
    with pytest.raises(UserError, match=hint):
        load(npz(tmp_path, **given))


@pytest.mark.parametrize(
    ("of", "hint"),
    [(lambda x: x / 255, r"of floats in \[0, 1\], save \(x \* 255\).round\(\).astype\('uint8'\)$"),
     (lambda x: np.float16(x), r"of floats from 0 to 255, save x.round\(\).astype\('uint8'\)$"),
     (lambda x: x / 127.5 - 1, r"values run from -1 to 1; scale them to 0 … 255, then round them$"),
     (lambda x: x * np.uint16(257), r"values run from 0 to 65535; scale them to 0 … 255"),
     (lambda x: x - np.int64(9), r"values run from -9 to 246; scale them to 0 … 255"),
     (lambda x: np.where(x > 9, x, np.nan), r"some values are not finite; mend them"),
     (lambda x: x.astype("U3"), r"<U3 .*: save numbers from 0 to 255$"),
     (lambda x: np.zeros((0, 8, 9, 3)), r"float64 .*: save numbers from 0 to 255$")],
)  # fmt: skip
def test_the_hint_suits_the_values(tmp_path, of, hint):
    """Before, floats from 0 to 255 were to be multiplied by 255."""
    x = RNG.permutation(np.resize(np.arange(256, dtype=np.uint8), 6 * 8 * 9 * 3))
    with pytest.raises(UserError, match=hint):
        load(npz(tmp_path, **arrays(x_train=of(x.reshape(6, 8, 9, 3)))))


def test_any_layout_and_integer_type_of_the_same_numbers_is_the_same_data(tmp_path):
    given = arrays()
    hashes = set()
    for order, kind in (("C", np.int64), ("F", np.uint8), ("F", ">i4"), ("C", np.uint64)):
        x = {k: np.asarray(v, order=order) for k, v in given.items() if k[0] == "x"}
        y = {k: v.astype(kind) for k, v in given.items() if k[0] == "y"}
        hashes.add(load(npz(tmp_path, **x, **y)).content_hash)
    assert len(hashes) == 1


NAMES = "class_names must be"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"y_train": np.array([0, 1, 3, 1, 0, 3])}, r"1 of 4 classes have no train images \(2\)"),
        ({"y_train": np.array([1, 2, 3, 1, 2, 3])}, r"1 of 4 classes have no train images \(0\)"),
        ({"y_train": np.array([0, 1, 10**9, 1, 0, 2])}, "labels run up to 1000000000, but 6"),
        ({"y_train": np.array([0, 1, 2**64 - 1, 1, 0, 2], np.uint64)}, "labels run up to 184467"),
        ({"y_train": np.array([0, 1, -1, 1, 0, 2])}, "run from -1 to 2, but they count from 0"),
        ({"y_train": np.zeros(6, int)}, "1 class; a classifier needs 2"),
        ({"y_train": np.zeros(0, int)}, "0 classes; a classifier needs 2"),
        ({"y_train": np.ones((6, 1), int)}, r"save y.ravel\(\)"),
        ({"y_train": np.ones(6)}, "whole-number labels, not float64"),
        ({"y_train": np.array([True, False] * 3)}, "whole-number labels, not bool"),
        ({"y_train": np.int64(3)}, "whole-number labels"),
        ({"y_test": np.array([0, 1, 3])}, "labels run from 0 to 3, but there are 3 classes"),
        ({"y_test": np.array([0, 1])}, r"need \[3\] whole-number labels"),
        ({"x_train": np.zeros((6, 3, 8, 9), np.uint8)}, "channels come first"),
        ({"x_train": np.zeros((6, 1, 8, 9), np.uint8)}, "channels come first"),
        ({"x_train": np.zeros((6, 8, 9, 3), np.float32)}, "must be uint8"),
        ({"x_train": np.zeros((6, 8, 9, 4), np.uint8)}, "transparency"),
        ({"x_train": np.zeros((6, 72), np.uint8)}, "grey images may leave out"),
        ({"x_train": np.zeros((6, 8, 7, 3), np.uint8)}, "no side may be below 8"),
        ({"x_train": np.zeros((6, 8, 8, 3), np.uint8)}, "train images are .8, 8, 3., test images"),
        ({"x_test": np.zeros((0, 8, 9, 3), np.uint8)}, "test part: no images"),
        ({"class_names": np.array([b"a", b"b", b"c"])}, NAMES),
        ({"class_names": np.array([1, 2, 3])}, NAMES),
        ({"class_names": np.array("abc")}, NAMES),
        ({"class_names": np.array(["a", "b", "a "])}, "two classes have the same name: a"),
        ({"class_names": np.array(["a", "b", ""])}, "text on one line, not ''"),
        ({"class_names": np.array(["a", "b", "c\nd"])}, "text on one line"),
        ({"class_names": np.array(["a", "b"])}, "labels run from 0 to 2, but there are 2 classes"),
        ({"class_names": np.array(list("abcd"))}, r"1 of 4 classes have no train images \(d\)"),
        ({"class_names": np.array(["a", None, "b"])}, "Python objects"),
    ],
)  # fmt: skip
def test_a_wrong_npz(tmp_path, more, says):
    with pytest.raises(UserError, match=says):
        load(npz(tmp_path, **arrays(**more)))


def test_arrays_have_a_size(tmp_path):
    with pytest.raises(UserError, match="--image-size 8: .*set.npz holds arrays"):
        dataset_at(npz(tmp_path, **arrays()), 8)


DTYPES = st.sampled_from(["u1", "i8", ">u2", "f4", "?", "U3", "S2", "O", "c8", "M8[s]"])
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 6, 8, 9]), max_size=5).map(tuple)


@st.composite
def changed_arrays(draw):
    """A good .npz in which some arrays are replaced, reshaped, retyped or gone."""
    given = arrays(class_names=np.array(["a", "b", "c"]))
    for key in draw(st.sets(st.sampled_from(sorted(given)), max_size=3)):
        kind = draw(st.sampled_from(["gone", "other", "labels", "retyped"]))
        if kind == "gone":
            del given[key]
        elif kind == "other":
            given[key] = np.zeros(draw(SHAPES), draw(DTYPES))
        elif kind == "labels":
            numbers = st.lists(st.integers(-2, 2**63 - 1) | st.integers(0, 3), max_size=7)
            given[key] = np.array(draw(numbers), np.int64)
        elif given[key].dtype.kind != "U":
            given[key] = given[key].astype(draw(DTYPES))
    return given


def spec_or_user_error(file):
    try:
        spec = load(file)
    except UserError as error:
        assert str(error) and len(str(error)) < 1000
        return
    assert isinstance(spec, DatasetSpec) and spec.x_train.dtype == np.uint8
    assert set(spec.y_train.tolist()) == set(range(spec.n_classes))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@given(changed_arrays())
@settings(max_examples=150, deadline=None)
def test_any_arrays_give_a_data_set_or_one_clear_line(scratch, given):
    spec_or_user_error(npz(scratch, **given))


def as_bytes(compress):
    buffer = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, **arrays())
    return buffer.getvalue()


WHOLE = {False: as_bytes(False), True: as_bytes(True)}


@given(st.booleans(), st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=9)), max_size=4),
       st.floats(0.3, 1))  # fmt: skip
@settings(max_examples=150, deadline=None)
@example(True, [], 0.999)
def test_any_damage_gives_a_data_set_or_one_clear_line(scratch, compress, patches, keep):
    content = bytearray(WHOLE[compress])
    for place, patch in patches:
        start = int(place * len(content))
        content[start : start + len(patch)] = patch
    file = scratch / "damaged.npz"
    file.write_bytes(content[: round(keep * len(content))] if keep < 0.9 else content)
    spec_or_user_error(file)


def test_what_a_library_says_of_a_damaged_file_is_cut_short(tmp_path):
    """zipfile quotes the file's name as the header has it, here of 65,535 bytes."""
    content = bytearray(as_bytes(False))
    content[26:28] = b"\xff\xff"  # the first file's length of name
    file = tmp_path / "set.npz"
    file.write_bytes(content)
    spec_or_user_error(file)


def test_a_flipped_bit_is_found(tmp_path):
    """The zip's checksum covers the pixels."""
    file = npz(tmp_path, **arrays())
    content = bytearray(file.read_bytes())
    content[600] ^= 1
    assert zlib.crc32(content) != zlib.crc32(file.read_bytes())
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged or not an .npz"):
        load(file)
