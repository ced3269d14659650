"""--class-names with --dataset: other words in the prompts, the data set's names elsewhere."""

import json

import numpy as np
import pytest

from deepal_galot.cli import main
from generators.image_store import read_manifest
from helpers import QUICK, image_hashes, rows_of

CODES = [f"c{i}" for i in range(10)]


@pytest.fixture
def coded(tmp_path, digits):
    """Digits under names that no generator knows, and the flags of a quick run on them."""
    arrays = {f"{a}_{part}": getattr(digits, f"{a}_{part}")[:200] for a in "xy"
              for part in ("train", "test")}  # fmt: skip
    np.savez(tmp_path / "coded.npz", **arrays, class_names=np.array(CODES))
    return [*QUICK, "--protocol", "demo", "--generator", "tiny", "--n-rounds", "0",
            "--dataset", str(tmp_path / "coded.npz")]  # fmt: skip


def test_words_go_into_the_prompts_and_nowhere_else(coded, tmp_path, digits, capsys):
    words = tmp_path / "words.txt"
    words.write_text(
        "\n".join(f"{c} = {n}" for c, n in zip(CODES, digits.class_names, strict=True))
    )
    renamed = [*coded, "--class-names", str(words)]
    out = tmp_path / "out"
    run = ["--output", str(out), "--template", "see a {label}", "--strategy"]
    assert main([*coded, *run, "GALOT"]) == 2
    assert (
        "does not know the classes of coded (c0, c1, c2, c3, c4, … (10))" in capsys.readouterr().err
    )
    assert main([*renamed, *run, "GALOT", "MarginSampling"]) == 0
    assert "prompts say zero for c0, one for c1, two for c2, …" in capsys.readouterr().out
    (seed,) = out.glob("coded/GALOT/*/seed0")
    assert json.loads((seed / "classifier.json").read_text())["class_names"] == CODES
    prompts = {read_manifest(f)["prompt"] for f in (out / "images").rglob("*.json")}
    assert prompts == {"see an eight" if n == "eight" else f"see a {n}" for n in digits.class_names}
    (page,) = out.glob("report/index.html")
    assert '<div>c8 <span class="quiet">see an eight</span></div>' in page.read_text()
    # What makes no prompts is the same run as without the file.
    assert main([*coded, *run, "MarginSampling"]) == 0
    assert len(rows_of(out, "MarginSampling")) == 1


def test_words_are_part_of_what_a_run_is(coded, tmp_path, digits):
    """The same words listed or paired are one run; two words exchanged are another."""
    names = list(digits.class_names)
    texts = {
        "list": "\n".join(names),
        "pairs": "\n".join(f"{c} = {n}" for c, n in zip(CODES, names, strict=True)),
        "swapped": "\n".join([names[1], names[0], *names[2:]]),
    }
    counts = []
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        args = ["--class-names", str(tmp_path / name), "--output", str(tmp_path / "out")]
        assert main([*coded, *args, "--strategy", "GALOT"]) == 0
        counts.append((len(rows_of(tmp_path / "out")), len(image_hashes(tmp_path / "out"))))
    assert counts[0] == counts[1] and counts[2] == (2, 2 * counts[0][1])


def test_no_run_makes_prompts(coded, tmp_path, digits, capsys):
    words = tmp_path / "words.txt"
    words.write_text("\n".join(digits.class_names))
    args = ["--class-names", str(words), "--strategy", "MarginSampling"]
    assert main([*coded, *args, "--output", str(tmp_path / "out")]) == 2
    assert "none of these runs makes prompts" in capsys.readouterr().err
