"""Finished runs of given accuracies, for tests of the report."""

from pathlib import Path

from deepal_galot.report.comparison import of_exhibit
from deepal_galot.report.exhibit import Exhibit, ExhibitArm
from deepal_galot.results import RunFolder
from helpers import small_config


def finished(output, accuracies, settings=None, content=None, row=None, remark="", **fields):
    """A finished run with the given accuracies, and further columns in every row."""
    fields |= {"n_rounds": len(accuracies) - 1}
    config = small_config(**fields)
    content = {"data": "d"} | (content or {})
    folder = RunFolder.create(output, config, content, settings or {}, remark)
    for r, accuracy in enumerate(accuracies):
        folder.append({
            "round": r, "budget": config.budget(r), "labels": config.budget(r), "images": 0,
            "accuracy": accuracy, "balanced_accuracy": accuracy, "steps": 1,
            "images_made": 0, "ascent_images": 0, "query_seconds": 1.0, "train_seconds": 2.0,
            "extra_train_seconds": 0.0, "generate_seconds": 0.0, "seconds_stored": 0.0,
            **(row or {}),
        })  # fmt: skip
    return folder


def runs(output, settings, accuracy, dataset="Digits"):
    """Finished runs of one method: [S, R] accuracies, and the settings in its label."""
    own = {k: str(v) for k, v in settings.items() if k != "strategy"}
    fields = {"dataset": dataset, **settings}
    return [
        finished(output, of_seed, own, {"data": dataset}, seed=seed, **fields)
        for seed, of_seed in enumerate(accuracy)
    ]


def texts(table):
    """A table's words."""
    return [[cell.text for cell in row] for row in table.rows]


def exhibit_of(tmp_path, runs, arms, **fields):
    """An exhibit of finished runs and its comparison."""
    arms = tuple(
        ExhibitArm(label, Path(*run.path.parts[-4:-1]).as_posix(), paper)
        for run, (label, paper) in zip(runs, arms, strict=True)
    )
    exhibit = Exhibit("table4", "ε", "curves", runs[0].config.dataset, arms, **fields)
    return exhibit, of_exhibit(exhibit, runs)
