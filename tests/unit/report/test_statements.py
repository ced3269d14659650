"""What a report says in sentences."""

import dataclasses
import os

import pytest

from deepal_galot.report import table_formats, tables
from deepal_galot.report.comparison import compare
from deepal_galot.report.statements import headline, statements
from deepal_galot.report.write import write_report
from deepal_galot.results import RunFolder, find_runs
from finished_runs import exhibit_of, finished, runs
from helpers import small_config

pytestmark = pytest.mark.usefixtures("quick_pictures")


def test_the_recipe_is_said(tmp_path):
    """Before, tables of several recipes stood side by side and nothing told how they differ."""
    for epochs in (30, 2):
        for seed in range(3):
            finished(tmp_path, [0.5, 0.6], seed=seed, epochs=epochs, min_steps=0)
    budget = "; 10 labels, then 5 a round"
    assert {statements(c)[0] for c in compare(find_runs(tmp_path))} == {
        f"training: small_cnn, protocol demo with min_steps=0{budget}",
        f"training: small_cnn, protocol demo with epochs=2,min_steps=0{budget}",
    }


def test_the_recipe_of_an_exhibit_is_what_its_arms_share(tmp_path):
    """Before, a table of one epoch looked like any other."""
    galot, own = {"strategy": "GALOT", "mode": "al+gal"}, {"steps": "2"}
    runs = [finished(tmp_path, [0.5, 0.6], own | {"epsilon": str(e)}, epochs=1, min_steps=0,
                     batch_size=b, epsilon=float(e), steps=2, **galot)
            for e, b in ((0, 4), (1, 8))]  # fmt: skip
    _, comparison = exhibit_of(tmp_path, runs, [("a", None), ("b", None)])
    first = "training of all: small_cnn, protocol demo with epochs=1,min_steps=0; 10 labels, then 5"
    assert statements(comparison)[0] == f"{first} a round"
    assert comparison.shared == own
    other = finished(tmp_path, [0.5, 0.6], n_init=11, classifier="ResNet18")
    _, comparison = exhibit_of(tmp_path, [*runs, other], [(x, None) for x in "abc"])
    assert statements(comparison)[0] == "training of all: protocol demo with min_steps=0"


def test_epochs_that_min_steps_overrides_are_said_to_be_more(tmp_path):
    """Before, "with epochs=10" read as if there had been ten."""

    def line(*runs):
        return statements(compare(runs)[0])[0]

    def run(strategy="MarginSampling", **fields):
        return finished(tmp_path, [0.5, 0.6], strategy=strategy, epochs=10, batch_size=5, **fields)

    ten_epochs = 10 * 3  # steps of the last round, 15 images
    more, enough = run(min_steps=ten_epochs + 1), run(min_steps=ten_epochs)
    said = "(min_steps=31 asks for more epochs in every round)"
    assert f"with epochs=10,min_steps=31,batch_size=5 {said}; " in line(more)
    assert "asks for more" not in line(enough)
    galot = run("GALOT", mode="al+gal", min_steps=31, row={"images": 1})  # 16 images
    assert "asks for more" not in line(more, galot)


def test_without_a_label_none_is_said_to_be_bought(tmp_path):
    row = {"labels": 0, "images": 10}
    run = finished(tmp_path, [0.5, 0.6], row=row, strategy="GALOT", mode="gal")
    line = statements(compare([run])[0])[0]
    assert line.endswith("; |L| = 10, then 5 more a round; no labels")


def test_the_data_are_said(tmp_path):
    """Before, tables of folders that are called alike stood side by side and nothing told how
    they differ."""
    for content, path in (("a", "x/photos"), ("b", "y/photos"), ("c", None)):
        run = finished(tmp_path, [0.5, 0.6], content={"data": content})
        run.save_environment({"data": {"pool": 1500, "test": 30, "path": path}})
    first, second, third = (statements(c)[1] for c in compare(find_runs(tmp_path)))
    said = "data: 1,500 images to label, 30 to test on"
    assert {first, second, third} == {said, f"{said}, of x/photos", f"{said}, of y/photos"}
    for (smallest, largest, shape), line in (
        (
            (4, 1200, [8, 9, 1]),
            "1,500 images to label (4 to 1,200 a class), 30 to test on, 8×9 grey",
        ),
        ((15, 15, [32, 32, 3]), "1,500 images to label (15 a class), 30 to test on, 32×32 RGB"),
    ):
        sizes = {"smallest_class": smallest, "largest_class": largest, "shape": shape}
        (run.path / "env.json").unlink()
        run.save_environment({"data": {"pool": 1500, "test": 30, "path": "z"} | sizes})
        assert statements(compare([run])[0])[1] == f"data: {line}, of z"
    later = finished(tmp_path, [0.5, 0.6], content={"data": "c"}, strategy="BALD")
    later.save_environment({"data": {"pool": 1500, "test": 30, "path": None}})
    (run.path / "env.json").unlink()  # as of an older version
    assert statements(compare([run, later])[0])[1] == said
    for damaged in ("7", '{"data": {}}', '{"data": 7}', '{"data": {"pool": [], "test": 1}}'):
        (run.path / "env.json").write_text(f'{{"parts": [{damaged}]}}')
        assert not any("data:" in line for line in statements(compare([run])[0]))


def test_a_control_is_not_asked_for_where_it_would_not_be_shown(tmp_path):
    run = finished(tmp_path, [0.5, 0.7], strategy="GALOT", mode="al+gal")
    _, comparison = exhibit_of(tmp_path, [run], [("GALOT", None)])
    assert not any("is not known" in line for line in statements(comparison))
    assert any("is not known" in line for line in statements(compare([run])[0]))


def test_a_sign_in_a_template_makes_no_methods_alike(tmp_path):
    for n in (1, 2):
        template = f"number #{n} {{label}}"
        fields = {"strategy": "GALOT", "mode": "al+gal", "template": template}
        finished(tmp_path, [0.5, 0.6], {"template": template}, **fields)
    (comparison,) = compare(find_runs(tmp_path))
    assert not any("played last" in line for line in statements(comparison))


def test_methods_that_are_called_alike_are_told_apart(tmp_path):
    """As versions of a plug-in's file are, and runs whose ε rises over more rounds."""
    own = [{"plugin Mine": "a"}, {"plugin Mine": "b"}]
    runs = [finished(tmp_path, [0.5, 0.6], content=c, seed=s) for c in own for s in range(3)]
    fields = {"strategy": "GALOT", "mode": "al+gal"}
    runs += [finished(tmp_path, [0.5] * n, **fields) for n in (2, 3)]
    for i, run in enumerate(runs):
        os.utime(run.path / "rounds.jsonl", (i, i))
    (comparison,) = compare(runs)
    labels = [c.label for c in comparison.curves]  # in the order of their hashes
    second, longer = (
        next(c.label for c in comparison.curves if c.folders[-1].path == runs[i].path)
        for i in (5, 7)
    )
    lines = [line for line in statements(comparison) if "played last" in line]
    assert lines == [
        f"{labels[0]}, {labels[1]} differ in the plugin Mine; {second} was played last",
        f"{labels[2]}, {labels[3]} differ in n_rounds; {longer} was played last",
    ]


def test_what_a_run_does_not_read_tells_no_methods_apart(tmp_path):
    """Before, versions of a plug-in that ran beside other settings of GALOT were said to differ in
    these."""
    unread = {"n_synthetic": 2.0, "ascent_steps": 3}
    finished(tmp_path, [0.5, 0.6], content={"plugin Mine": "a"})
    finished(tmp_path, [0.5, 0.6, 0.7], content={"plugin Mine": "b"}, **unread)
    (comparison,) = compare(find_runs(tmp_path))
    (line,) = [line for line in statements(comparison) if "played last" in line]
    assert " differ in the plugin Mine; " in line


def test_the_control_is_shown_or_asked_for(tmp_path):
    galot = {"strategy": "GALOT", "mode": "al+gal"}
    two = {"n_synthetic": "2"}
    runs = [finished(tmp_path, [0.5, 0.7], two, n_synthetic=2.0, **galot)]
    text = write_report(runs, tmp_path)
    assert 'adds is not known: run "GALOT:epsilon=0,n_synthetic=2" too' in text
    assert "all GALOT with n_synthetic=2" in text
    control = {"epsilon": "0"} | two
    runs.append(finished(tmp_path, [0.5, 0.6], control, epsilon=0.0, n_synthetic=2.0, **galot))
    text = write_report(runs, tmp_path)
    assert "text optimisation adds: GALOT − GALOT:epsilon=0: +5.00 points" in text
    assert "is not known" not in text and "its direction adds" not in text
    aside = {"direction": "random"} | two
    random = {"direction": "random", "n_synthetic": 2.0}
    runs.append(finished(tmp_path, [0.5, 0.62], aside, **random, **galot))
    text = write_report(runs, tmp_path)
    assert "a random direction adds: GALOT:direction=random − GALOT:epsilon=0: +1.00 points" in text
    assert "its direction adds: GALOT − GALOT:direction=random: +4.00 points" in text
    assert text.count("its direction adds") == 1
    del runs[-1]
    kept = {"text_target": "max_loss", "oversample": "2", "keep": "acquisition"}
    fields = {"text_target": "max_loss", "oversample": 2.0, "keep": "acquisition"}
    chosen = finished(tmp_path, [0.5, 0.8], kept | two, n_synthetic=2.0, **fields, **galot)
    text = write_report([*runs, chosen], tmp_path)  # what is kept is not kept by margin
    assert 'run "GALOT:epsilon=0,text_target=max_loss,oversample=2,keep=acquisition' in text
    runs.append(finished(tmp_path, [0.5, 0.9], two, {"generator": "w"}, n_synthetic=2.0, **galot))
    (comparison,) = compare(runs)
    assert len({c.label for c in comparison.curves}) == 3
    # The same settings with other weights: not its control.
    unknown = [line for line in statements(comparison) if "is not known" in line]
    assert len(unknown) == 1 and comparison.curves[2].label in unknown[0]


def test_each_method_is_compared_with_its_own_base_sampler(tmp_path):
    """Before, of several base samplers one was the baseline, and differences of the others' methods
    from it were all that was said."""

    def run(accuracy, strategy, settings=None, **fields):
        return finished(tmp_path, [0.5, accuracy], settings, strategy=strategy, **fields)

    def lines(*runs):
        return [x for x in statements(compare(runs)[0]) if "own base sampler" in x]

    bald, margin = run(0.6, "BALD"), run(0.7, "MarginSampling")
    own = {"mode": "al+gal", "base_sampler": "BALD"}
    of_bald, alone = run(0.9, "GALOT", **own), run(0.9, "GALOT", **own | {"mode": "gal"})
    of_margin = run(0.8, "GALOT", {"base_sampler": "MarginSampling"}, mode="al+gal")
    assert lines(bald, of_bald) == lines(margin, of_bald) == lines(margin, bald, alone) == []
    (line,) = lines(bald, margin, of_bald, of_margin)  # the baseline is BALD
    assert line.startswith("above its own base sampler: GALOT:base_sampler=MarginSampling − Margin")
    assert "Sampling: +5.00 points of average, n = 1 seed" in line
    (chosen,) = compare([bald, margin, of_bald, of_margin])
    chosen = dataclasses.replace(chosen, baseline=chosen.curves[-1].label)  # as an experiment's
    assert chosen.reference.uses_generated_images
    assert not any("own base sampler" in x for x in statements(chosen))
    versions = [run(a, "Mine", content={"plugin Mine": v}) for v, a in (("a", 0.6), ("b", 0.7))]
    own = {"mode": "al+gal", "base_sampler": "Mine", "content": {"plugin Mine": "b"}}
    (line,) = lines(bald, of_bald, *versions, run(0.9, "GALOT", **own))
    assert line.endswith(": +10.00 points of average, n = 1 seed")


def test_a_control_is_asked_for_without_what_it_does_not_read(tmp_path):
    settings = {"ascent_steps": "3", "n_synthetic": "2", "eta": "0.5"}
    fields = {"ascent_steps": 3, "n_synthetic": 2.0, "eta": 0.5}
    run = finished(tmp_path, [0.5, 0.7], settings, strategy="GALOT", mode="al+gal", **fields)
    (line,) = [x for x in statements(compare([run])[0]) if "is not known" in x]
    assert line.endswith('run "GALOT:epsilon=0,n_synthetic=2" too')


def test_images_of_another_run_ask_for_no_control(tmp_path):
    galot = {"strategy": "GALOT", "mode": "al+gal"}
    for source, asked in ((None, True), ("results/Digits/GALOT/0/seed0", False)):
        run = finished(tmp_path / str(asked), [0.5, 0.7], synthetic_from=source, **galot)
        assert any("is not known" in x for x in statements(compare([run])[0])) is asked


def test_what_a_strategy_measures_itself_is_averaged(tmp_path):
    run = finished(tmp_path, [0.5], row={"own_svm_accuracy": 0.3})
    longer = RunFolder.create(tmp_path, small_config(n_rounds=1), {"data": "d"}, {})
    longer.append(run.rows()[0] | {"round": 1, "own_svm_accuracy": 0.5})
    lines = statements(compare([RunFolder.open(longer.path)])[0])
    assert "MarginSampling: svm accuracy 40.0 % (average)" in lines


def test_blank_images_are_noted_where_there_were_any(tmp_path):
    def lines(retried, failed):
        counts = {"images_retried": retried, "images_failed": failed}
        run = finished(tmp_path / str(counts), [0.5, 0.6], row=counts)
        (comparison,) = compare([run])
        assert f",{retried},{failed}," in table_formats.csv_of_rows(comparison).decode()
        return [line for line in statements(comparison) if "blank" in line]

    assert lines(0, 0) == []
    again = "MarginSampling: 6 generated images came out blank and were drawn again"
    assert lines(3, 0) == [again]
    assert lines(3, 1) == [again + "; 2 stayed blank and are left out"]
    run = finished(tmp_path / "mute", [0.5, 0.6], row={"ascent_failed": 4})
    (line,) = [line for line in statements(compare([run])[0]) if "not finite" in line]
    assert line.startswith("MarginSampling: 8 images of the text optimisation, or their gradients")


def test_two_seeds_claim_no_spread(tmp_path):
    runs = [finished(tmp_path, [0.5, 0.6], seed=s) for s in (0, 1)]
    runs += [finished(tmp_path, [0.49, 0.59], strategy="RandomSampling", seed=s) for s in (0, 1)]
    (comparison,) = compare(runs)
    text = write_report(runs, tmp_path)
    assert "±" not in text and "fewer than 3 seeds: no spread" in text
    assert "test accuracy in %, mean over n seeds" in text
    page = tmp_path / "report" / "index.html"
    assert "Mean over n seeds; the table" in page.read_text()
    third = [finished(tmp_path, [0.5, 0.6], seed=2)]
    said = write_report(runs + third, tmp_path)
    assert "fewer than 3 seeds of RandomSampling: no spread can be claimed" in said
    assert "Mean over n seeds, bands of one standard error; the table" in page.read_text()
    assert tables.win_table(comparison) is None


def test_a_single_fit_on_all_labels_does_not_take_the_spread_away(two_methods, tmp_path):
    full = finished(tmp_path, [0.9], strategy="FullySupervised", mode="full")
    (comparison,) = compare([*two_methods[1], full])
    assert not any("fewer than 3 seeds" in line for line in statements(comparison))


def test_other_devices_are_said(tmp_path):
    runs = [finished(tmp_path, [0.5], seed=s) for s in range(3)]
    for run, torch_version in zip(runs, ("2.11", "2.11", "2.15"), strict=True):
        run.save_environment({"device_name": "x", "versions": {"torch": torch_version}})
    text = "\n".join(statements(compare(runs)[0]))
    assert "of different machines or versions: x with torch 2.11; x with torch 2.15" in text
    assert "different machines" not in "\n".join(statements(compare(runs[:2])[0]))
    runs[0].save_environment({"device_name": "y", "versions": {"torch": "2.11"}})  # its later part
    runs[0].save_environment({"device_name": "x", "versions": {"torch": "2.11"}})
    assert "x with torch 2.11; y with torch 2.11" in "\n".join(statements(compare(runs[:2])[0]))


@pytest.mark.parametrize(
    ("accuracies", "says"),
    [
        (
            [[[0.9]] * 3, [[0.5], [0.5], [0.5]]],
            "they are apart (+40.00 ± 0.00 (95 % interval) points of average, n = 3 seeds).",
        ),
        (
            [[[0.9], [0.1], [0.5]], [[0.1], [0.8], [0.45]]],
            "Their common seeds do not tell them apart (+5.00 ±",
        ),
        ([[[0.9], [0.8]], [[0.5], [0.5]]], "nothing says whether they differ"),
        ([[[0.9]], [[0.5]]], "nothing says whether they differ"),
    ],
)
def test_the_headline_claims_no_more_than_the_seeds_show(tmp_path, accuracies, says):
    names = ("MarginSampling", "RandomSampling")
    folders = []
    for name, accuracy in zip(names, accuracies, strict=True):
        of_method = [[a[0], a[0]] for a in accuracy]
        folders += runs(tmp_path, {"strategy": name}, of_method)
    (comparison,) = compare(folders)
    text = headline(comparison)
    assert text.startswith("Highest average accuracy: MarginSampling, ") and says in text
    assert headline(dataclasses.replace(comparison, curves=comparison.curves[:1])) == ""


def test_the_best_of_many_is_said_to_be_picked(tmp_path):
    folders = []
    for i, name in enumerate(("MarginSampling", "RandomSampling", "EntropySampling")):
        folders += runs(
            tmp_path, {"strategy": name}, [[0.1 * i, 0.1 * i + 0.01 * s] for s in (1, 2, 3)]
        )
    (comparison,) = compare(folders)
    assert "not corrected for picking the best of 3" in headline(comparison)
