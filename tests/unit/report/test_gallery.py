"""What a report shows of a run's images, from the folders alone."""

import shlex
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from deepal_galot.borrowed_galot import BorrowedGalot
from deepal_galot.cli import main
from deepal_galot.errors import UserError
from deepal_galot.report.annotation import Annotation
from deepal_galot.report.comparison import compare
from deepal_galot.report.gallery import ProbeImages, galleries_of, gallery_of, sheet
from deepal_galot.report.pseudo_labels import Judge
from deepal_galot.report.section import make_sections
from deepal_galot.report.write import write_report
from deepal_galot.results import find_runs
from helpers import QUICK, small_config

pytestmark = pytest.mark.xdist_group("gallery")  # its fixture is worth sharing


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """GALOT, its control and a judge on Digits."""
    output = tmp_path_factory.mktemp("results")
    arms = ["GALOT", "GALOT:epsilon=0,oversample=2", "GALOT:epsilon=0,align=pool"]
    arms += ["GALOT:direction=random", "GALOT:mode=full"]
    assert main([*QUICK, "--strategy", *arms, "--output", str(output)]) == 0
    return output


def test_the_images_are_those_that_the_last_round_trained_on(results):
    (comparison,) = compare(find_runs(results))
    galleries = {
        (g.folder.config.oversample, g.folder.config.direction): g
        for g in filter(None, map(gallery_of, comparison.curves))
        if not g.folder.config.aligns
    }
    galot, oversampled = galleries[1, "sign"], galleries[2, "sign"]
    x, y = galot.training_images()
    assert len(x) == galot.folder.rows()[-1]["images"] == 30 and x.dtype == np.uint8
    assert np.bincount(y).tolist() == [3] * 10
    kept, row = oversampled.training_images()[0], oversampled.folder.rows()[-1]
    assert len(kept) == row["images"] == 30 and row["images_made"] == 60 - 40  # 40 in round 0
    assert [p.epsilon for p in galot.probes] == [2.5, 5.0]
    assert galot.probes[0].images.shape[:3] == (2, 10, 4)
    assert np.isnan(oversampled.probes[0].scores).all()
    assert galot.prompts[3] == "a handwritten digit three"


def test_pairs_are_of_what_changes_the_images(results):
    """Before, where nothing does, each image stood beside itself, called optimised."""
    (comparison,) = compare(find_runs(results))
    for gallery in filter(None, map(gallery_of, comparison.curves)):
        config = gallery.folder.config
        moved = "random step" if config.direction == "random" else "optimised"
        pairs = f"plain | {moved}" if config.epsilon else "as made | aligned" * config.aligns
        figure = sheet(gallery)
        assert {ax.get_xlabel() for ax in figure.axes} == {f"pairs: {pairs}" if pairs else ""}
        picture = figure.axes[0].images[0].get_array()
        column = 8 + max(1, 8 // 16) if pairs else 8 + max(2, 8 // 4)  # to the next image
        first, second = picture[:8, :8], picture[:8, column : column + 8]
        probes = gallery.probes[0].images[:, 0, :, :, :, 0]
        assert np.array_equal(first, probes[0, 0])
        assert np.array_equal(second, probes[1, 0] if pairs else probes[0, 1])


@pytest.mark.parametrize("shape", [(16, 16, 3), (8, 32, 1)])
@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_no_gap_is_left_between_the_title_and_the_images(epsilon, shape):
    """Before, long class names made the images small, and the picture stayed as high."""
    names = [f"class {i}" for i in range(6)] + ["a class of an animal that stands on end"]
    images = np.random.default_rng(0).integers(0, 256, (2, 7, 4, *shape), np.uint8)
    probes = [ProbeImages(0, epsilon, False, False, images, np.zeros((2, 7, 4)))]
    config = small_config(
        strategy="GALOT", mode="al+gal", template="a realistic photo of a {label}"
    )
    folder = SimpleNamespace(config=config)
    gallery = SimpleNamespace(label="GALOT", probes=probes, class_names=names, folder=folder)
    figure = sheet(gallery)
    figure.draw_without_rendering()
    (axes,), inch = figure.axes, figure.dpi
    above = figure._suptitle.get_window_extent()
    assert 0 < above.y0 - axes.title.get_window_extent().y1 < 0.3 * inch
    assert axes.get_tightbbox().y0 < 0.4 * inch
    labels = axes.get_yticklabels()
    assert all(x.get_window_extent().x0 >= 0 for x in labels)
    assert labels[-1].get_text() == "a class of an … on end"


def test_the_page_names_the_two_of_a_pair(results, tmp_path):
    write_report(find_runs(results), tmp_path)
    html = (tmp_path / "report/index.html").read_text()
    for pair in (("plain", "optimised"), ("plain", "random step"), ("as made", "aligned")):
        assert f"; pairs: {' | '.join(pair)}</th>" in html
        assert all(f'alt="zero, round 0, {name}"' in html for name in pair)


def test_the_judge_is_the_fully_supervised_run_and_its_table_counts_its_answers(results):
    folders = find_runs(results)
    (section,) = make_sections(compare(folders), folders)
    assert section.judge.folder.config.mode == "full"
    (table,) = [t for t in section.tables if t.name == "pseudo_labels"]
    x, y = section.galleries[0].training_images()
    right = section.judge.labels(x) == y
    row = table.rows[0]
    assert row[table.header.index("all")].value == pytest.approx(100 * right.mean())
    assert row[table.header.index("three")].value == pytest.approx(100 * right[y == 3].mean())
    assert row[-1].value == len(y) and "trained on all real labels" in table.title


def test_a_runs_images_are_read_once_a_section(results, monkeypatch):
    """Whether they are judged, marked, or only asked about."""
    folders, read = find_runs(results), Counter()
    make = BorrowedGalot.make_images

    def counted(self, logits, round):
        read[self.journal.path] += 1
        return make(self, logits, round)

    monkeypatch.setattr(BorrowedGalot, "make_images", counted)
    (comparison,) = compare(folders)
    make_sections([comparison], folders, marks=[Annotation("A", {"0" * 16: True})])
    assert set(read.values()) == {1} and len(read) == 4  # the runs that generate


def test_the_judge_sees_the_images_of_every_seed(results, tmp_path, monkeypatch):
    """Before: those of the lowest seed stood for all. Here the judge errs in as many images of a
    run as its seed says."""
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    flags = [*QUICK, "--strategy", "GALOT:epsilon=0,oversample=2", "--seeds", "0", "1", "2"]
    assert main([*flags, "--output", str(tmp_path)]) == 0
    folders = find_runs(tmp_path)
    (comparison,) = compare(folders)
    (curve,) = [c for c in comparison.curves if len(c.folders) == 3]
    answers = {}
    for seed, gallery in zip(curve.seeds, galleries_of(curve), strict=True):
        x, y = gallery.training_images()
        answers[x.tobytes()] = np.where(np.arange(30) < seed, -1, y)
    monkeypatch.setattr(Judge, "labels", lambda self, x: answers.get(x.tobytes(), np.zeros(len(x))))
    (section,) = make_sections([comparison], folders)
    (table,) = [t for t in section.tables if t.name == "pseudo_labels"]
    (row,) = [row for row in table.rows if row[0].text == curve.label]
    shares = [100 * (30 - seed) / 30 for seed in (0, 1, 2)]
    everything = row[table.header.index("all")]
    assert row[-1].value == 90
    assert everything.value == pytest.approx(np.mean(shares))
    assert everything.error == pytest.approx(np.std(shares, ddof=1) / 3**0.5)


def test_the_command_for_marks_can_be_pasted(results, tmp_path, capsys):
    output = tmp_path / "my results"
    shutil.copytree(results, output)
    assert main(["--annotate", "1", "--output", str(output)]) == 0
    command = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(command)[2:5] == ["--report", "--output", str(output)]


def test_a_report_is_written_although_the_images_are_gone(results, tmp_path):
    shutil.copytree(results / "Digits", tmp_path / "Digits")
    folders = find_runs(tmp_path)
    text = write_report(folders, tmp_path)
    (line,) = [x for x in text.splitlines() if "are gone from the store" in x]
    assert "GALOT" in line and "GALOT:epsilon=0,oversample=2" in line
    (comparison,) = compare(folders)
    gallery = next(filter(None, map(gallery_of, comparison.curves)))
    assert not gallery.kept and gallery.probes
    with pytest.raises(UserError, match="images of its last round are gone"):
        gallery.training_images()
    assert main(["--annotate", "1", "--output", str(tmp_path)]) == 2


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("aligned", [False, True])
def test_a_pair_is_called_what_its_images_are(aligned, random):
    """Before, two aligned images were called plain and optimised, and so was a random step."""
    one, two = np.zeros((1, 1, 2, 2, 1), np.uint8), np.ones((1, 1, 2, 2, 1), np.uint8)
    differ, same, scores = np.stack([one, two]), np.stack([one, one]), np.zeros((2, 1, 1))
    name = "random step" if random else "optimised"
    moved = ProbeImages(0, 1.0, aligned, random, differ, scores)
    assert moved.sides == (("aligned", f"aligned, {name}") if aligned else ("plain", name))
    still = ProbeImages(0, 0.0, aligned, random, differ if aligned else same, scores)
    assert still.sides == (("as made", "aligned") if aligned else ("plain",))
    # The map changes nothing:
    assert ProbeImages(0, 0.0, True, random, same, scores).pairs == ""
