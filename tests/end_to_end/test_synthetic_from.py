"""Any classifier on a finished run's generated images (the paper's Table 2)."""

import shutil

import pytest
import torch

from deepal_galot import registry
from deepal_galot.cli import main
from deepal_galot.plan import make_plan
from deepal_galot.request import Request
from generators.tiny import Tiny
from helpers import QUICK, image_hashes, only_run, plugin, rows_of

pytestmark = pytest.mark.xdist_group("made")  # its fixture is worth sharing

SHORT = ["--seeds", "0", "--epochs", "2", "--min-steps", "0", "--strategy", "GALOT"]


def run(output, *args):
    assert main([*map(str, args), "--output", str(output)]) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A GALOT run's output, to be copied by those who damage it."""
    output = tmp_path_factory.mktemp("made")
    run(output, *QUICK, "--strategy", "GALOT", "--oversample", "1.2")
    return output


@pytest.fixture
def no_loading(monkeypatch):
    """Loading the generator fails."""

    def refuse(self, config, device):
        raise AssertionError("the generator was loaded")

    monkeypatch.setattr(Tiny, "__init__", refuse)


def test_another_classifier_on_the_same_images(made, tmp_path, no_loading, capsys):
    source, theirs = only_run(made)
    before = image_hashes(made)
    run(tmp_path, *SHORT, "--synthetic-from", source.path, "--classifier", "resnet18")
    folder, rows = only_run(tmp_path)
    assert folder.config.classifier == "resnet18" and folder.config.template == (
        source.config.template
    )
    assert [r["images_key"] for r in rows] == [r["images_key"] for r in theirs]
    assert [r["images"] for r in rows] == [r["images"] for r in theirs] == [20, 30]
    assert [r["labels"] for r in rows] == [10, 15]
    assert [(r["images_made"], r["ascent_images"]) for r in rows] == [(0, 0), (0, 0)]
    assert [r["seconds_stored"] for r in folder.rows()] == [0, 0]  # the other run's
    assert [r["epsilon"] for r in rows] == [r["epsilon"] for r in theirs]
    assert [r["accuracy"] for r in rows] != [r["accuracy"] for r in theirs]
    assert image_hashes(made) == before and not image_hashes(tmp_path)
    assert f"synthetic_from={source.path}" in capsys.readouterr().out


def test_the_table_says_that_seeds_share_the_images(made, tmp_path, capsys):
    source, _ = only_run(made)
    run(tmp_path, *SHORT, "--synthetic-from", source.path)
    assert "every seed trains on the same run's images" in capsys.readouterr().out


def test_the_same_recipe_is_the_same_run(made, tmp_path, no_loading):
    """Same images, same picks, same classifier: image for image what the source trained on."""
    source, theirs = only_run(made)
    run(tmp_path, *SHORT, "--synthetic-from", source.path)
    folder, rows = only_run(tmp_path)
    free = ("images_made", "ascent_images")
    assert [{k: v for k, v in r.items() if k not in free} for r in rows] == [
        {k: v for k, v in r.items() if k not in free} for r in theirs
    ]
    weights = [(f.path / "classifier.safetensors").read_bytes() for f in (folder, source)]
    assert weights[0] == weights[1]
    assert [p.tolist() for p in folder.picks()] == [p.tolist() for p in source.picks()]


def test_lost_images_are_made_again_alike(made, tmp_path):
    copy, out = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(made, copy)
    source, _ = only_run(copy)
    before = image_hashes(copy)
    for shard in sorted((copy / "images").rglob("*.npz"))[::3]:
        shard.unlink()
    shutil.rmtree(next((copy / "images").iterdir()))
    assert len(image_hashes(copy)) < len(before)
    run(out, *SHORT, "--synthetic-from", source.path)
    assert image_hashes(copy) == before
    run(tmp_path / "intact", *SHORT, "--synthetic-from", only_run(made)[0].path)
    assert only_run(out)[1] == only_run(tmp_path / "intact")[1]


def test_images_that_this_machine_would_make_otherwise(made, tmp_path, capsys, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    shutil.rmtree(copy / "images")
    monkeypatch.setattr(Tiny, "batch_size", 8)
    args = [
        *SHORT,
        "--synthetic-from",
        str(only_run(copy)[0].path),
        "--output",
        str(tmp_path / "o"),
    ]
    assert main(args) == 2
    assert "tiny would make others" in capsys.readouterr().err.splitlines()[-1]


def test_generated_images_alone_and_fewer_rounds(made, tmp_path, no_loading):
    source, theirs = only_run(made)
    args = ["--mode", "gal", "--n-rounds", "0", "--synthetic-from", source.path]
    run(tmp_path, *SHORT, *args, "--dataset", "Digits")
    _, rows = only_run(tmp_path)
    assert [(r["labels"], r["images"], r["images_key"]) for r in rows] == [
        (0, 20, theirs[0]["images_key"])
    ]


def test_another_source_is_another_run(made, tmp_path, no_loading):
    """Also where its configuration is the same and only its text states are others."""
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    names = set()
    for output in (made, copy):
        source, _ = only_run(output)
        if output == copy:
            state = source.load("text", 1)
            source.save("text", 1, state | {"c": state["c"] + 1e-3})
        names.add(planned_folder(tmp_path, source))
    assert len(names) == 2


def planned(tmp_path, source, *names):
    """Runs of these strategies beside --synthetic-from."""
    flags = {"synthetic_from": str(source.path)}
    request = Request(names, registry.datasets.get("Digits"), (0,), None, flags, tmp_path,
                      tmp_path, torch.device("cpu"))  # fmt: skip
    return make_plan(request).runs


def planned_folder(tmp_path, source):
    """Where a run on its images would be recorded."""
    (run,) = planned(tmp_path, source, "GALOT")
    return run.folder(tmp_path)


def test_beside_the_source_in_one_table(made, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    source, _ = only_run(copy)
    galot = f"GALOT:synthetic_from={source.path}"
    run(copy, *QUICK, "--oversample", "1.2", "--strategy", "GALOT", galot)
    out = capsys.readouterr().out
    assert f"synthetic_from={source.path}" in out
    assert out.count("what the text optimisation of") == 1  # asked of the source alone


def test_dry_run_names_the_source(made, tmp_path, capsys, no_loading):
    source, _ = only_run(made)
    run(tmp_path, *SHORT, "--synthetic-from", source.path, "--dry-run")
    out = capsys.readouterr().out
    assert f"The generated images are those of {source.path}." in out and " 0/2 " in out


DIGITS = "zero one two three four five six seven eight nine"
FAULTS = {
    "a folder of seeds": "no run in it; give a run's seed folder",
    "unfinished": "unfinished, 1 of 2 rounds are done",
    "rows by hand": "does not say which images are its own",
    "baseline": "this run generated no images",
    "borrowed": "name that one",
    "other classes": "classes are zero, one, two, three, four, … (10), those of names zero, two",
    "other shape": "its images are 8×8×1, those of names 8×8×3",
    "too few rounds": "has 1 round after round 0, this run wants 2: lower --n-rounds",
    "other epsilon": "its images were made with epsilon=5.0; leave out epsilon=1.0",
    "other template": "leave out template={label}",
    "full size": "is for images that are made from a text; this run takes those of",
}


def with_fault(fault, source, tmp_path):
    """(the path to name, further arguments), after damage to the source where it needs that."""
    path, file, names = source.path, source.path / "rounds.jsonl", tmp_path / "names.txt"
    if fault == "a folder of seeds":
        path = path.parent
    elif fault == "unfinished":
        file.write_text(file.read_text().splitlines(keepends=True)[0])
    elif fault == "rows by hand":
        file.write_text(file.read_text().replace("images_key", "something"))
        (path / "seals.json").unlink()
    elif fault == "baseline":
        run(tmp_path / "b", *QUICK, "--strategy", "RandomSampling")
        path = only_run(tmp_path / "b")[0].path
    elif fault == "borrowed":
        run(tmp_path / "b", *SHORT, "--synthetic-from", path)
        path = only_run(tmp_path / "b")[0].path
    names.write_text(("zero two" if fault == "other classes" else DIGITS).replace(" ", "\n"))
    no_data = ["--class-names", names, "--image-size", "8", "--mode", "gal"]
    return path, {
        "other classes": no_data, "other shape": no_data, "too few rounds": ["--n-rounds", "2"],
        "other epsilon": ["--epsilon", "1"], "full size": ["--save-full-size", "1"],
        "other template": ["--strategy", "GALOTBasic"],
    }.get(fault, [])  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_a_source(made, tmp_path, capsys, fault):
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    path, more = with_fault(fault, only_run(copy)[0], tmp_path)
    capsys.readouterr()
    command = [*SHORT, "--synthetic-from", path, *more, "--output", tmp_path / "out"]
    assert main(list(map(str, command))) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: --synthetic-from" if fault != "full size" else "error: --save")
    assert FAULTS[fault] in last
    assert not rows_of(tmp_path / "out")


OWN = """
from generators.tiny import Tiny
from query_strategies.random_sampling import RandomSampling

class Mine(RandomSampling):
    pass

class Drawn(Tiny):
    pass
"""


@pytest.mark.parametrize(("given", "field"), [
    (["--base-sampler", "Mine"], "base sampler of that run: unknown strategy 'Mine'"),
    (["--base-sampler", "Mine", "--generator", "Drawn"],
     "generator of that run: unknown generator 'Drawn'"),
])  # fmt: skip
@pytest.mark.usefixtures("no_report")
def test_a_source_with_a_class_of_ones_own(tmp_path, capsys, given, field):
    """Before, a name was unknown that nobody had typed."""
    own = ["--plugin", plugin(tmp_path, OWN)]
    run(tmp_path / "made", *QUICK, "--strategy", "GALOT:epsilon=0", *own, *given)
    source, _ = only_run(tmp_path / "made")
    args = [*SHORT, "--synthetic-from", source.path]
    assert main([*map(str, args), "--output", str(tmp_path / "out")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"error: --synthetic-from {source.path}: the {field}"), last
    assert "(a class of your own needs --plugin FILE)" in last
    run(tmp_path / "out", *args, *own)
    if len(given) == 2:  # whoever names another needs no file
        run(tmp_path / "other", *args, "--base-sampler", "MarginSampling")


@pytest.mark.usefixtures("no_report")
def test_a_base_sampler_comes_with_its_settings(tmp_path):
    """Before, labels were bought with its defaults."""
    text = OWN.replace("    pass", "    settings = {'width': 1}", 1)
    text += "\nclass Other(Mine):\n    settings = {'depth': 1}\n"
    own = ["--plugin", plugin(tmp_path, text)]
    made = [*QUICK, *own, "--strategy", "GALOT:epsilon=0,base_sampler=Mine,width=2"]
    run(tmp_path / "made", *made)
    source, _ = only_run(tmp_path / "made")
    for name, settings in (("Mine", (("width", 2),)), ("MarginSampling", ())):
        given = ["--base-sampler", name] if name != "Mine" else []
        run(tmp_path / name, *SHORT, *own, "--synthetic-from", source.path, *given)
        folder, _ = only_run(tmp_path / name)
        assert folder.config.base_sampler == name and folder.config.settings == settings
    settings = [r.config.settings for r in planned(tmp_path, source, "GALOT", "Mine", "Other")]
    assert settings == [(("width", 2),), (), ()]  # not those that use no images


def test_other_numbers_of_labels_are_refused(made, tmp_path, capsys):
    """The images' number goes with the source's labels."""
    source, _ = only_run(made)
    args = ["--strategy", "GALOT", "--n-init", "9", "--output", str(tmp_path / "o")]
    assert main([*args, "--synthetic-from", str(source.path)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "go with 10 labels, this run would have 9: leave out --n-init" in line
