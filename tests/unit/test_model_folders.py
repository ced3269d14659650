"""Folders of models: what of them is read anew, and what cannot be used, each in one line."""

import shutil

import pytest

from deepal_galot.cli import main
from generators.diffusion import DiffusionGenerator
from generators.tiny import Tiny


@pytest.fixture
def model(tmp_path):
    """A copy of the embedded pipeline."""
    return shutil.copytree(Tiny.source, tmp_path / "model")


def refused(capsys, *args) -> str:
    """The one line with which the command ends."""
    code = main([str(a) for a in args])
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_each_command_of_a_process_reads_the_folder_anew(model, monkeypatch, capsys):
    """Before, a second command of a notebook drew images of changed weights and stored them as
    those of the weights of the first; without the folder it ended in `[Errno 2]`."""
    hashes = []
    own = DiffusionGenerator.at(model)
    monkeypatch.setattr("deepal_galot.cli._run", lambda args: hashes.append(own.content_hash()))
    main([])
    file = model / "scheduler" / "scheduler_config.json"
    file.write_text(file.read_text() + " ")
    main([])
    assert len(set(hashes)) == 2
    shutil.rmtree(model)
    assert f"--generator {model}: no such folder" in refused(capsys)
