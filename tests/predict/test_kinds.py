"""What is at a path that names a model, and what a command says of one that it cannot use."""

import json

import pytest

from mae_jax.predict import kinds
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """A folder with run/, bundle/, study/cells/a/, weights/, one.npz and other/."""
    for name in ("run", "bundle", "study/cells/a", "weights", "other"):
        (tmp_path / name).mkdir(parents=True)
    run = {"config": {"task": "finetune"}}
    (tmp_path / "run" / contents.CONFIG).write_text(json.dumps(run))
    (tmp_path / "bundle" / contents.CONFIG).write_text(json.dumps(run | {contents.BUNDLE: 1}))
    (tmp_path / "bundle" / "model.safetensors").write_bytes(b"")
    for name in (contents.RUN, contents.PREDICTIONS, contents.RESULTS):
        (tmp_path / "study/cells/a" / name).write_text("{}")
    (tmp_path / "weights" / contents.CONFIG).write_text("{}")
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"")
    (tmp_path / "one.npz").write_bytes(b"")
    (tmp_path / "other" / "notes.txt").write_text("")
    return tmp_path


def test_each_place_has_its_kind(folder):
    names = ("run", "bundle", "study", "weights", "one.npz")
    expected = [kinds.RUN, kinds.BUNDLE, kinds.STUDY, kinds.WEIGHTS, kinds.WEIGHTS]
    assert [kinds.kind_of(folder / name, "X") for name in names] == expected


def test_a_place_without_a_model_is_refused(folder):
    with pytest.raises(UserError, match=r"X=.*other holds no run \(no config.json\), no bundle and no file of weights"):
        kinds.kind_of(folder / "other", "X")
    with pytest.raises(UserError, match="X=.*missing does not exist; name a run directory, a bundle, or weights"):
        kinds.kind_of(folder / "missing", "X")
    with pytest.raises(UserError, match=r"X=.*notes.txt: files ending in .txt are not supported"):
        kinds.kind_of(folder / "other" / "notes.txt", "X")


def test_a_study_is_used_with_all_alone(folder, capsys):
    study = folder / "study"
    with pytest.raises(UserError, match="X=.*study contains 1 run; name one of them: cells/a"):
        kinds.kind_of_model(study, "X")
    assert kinds.kind_of_model(folder / "run", "X") == kinds.RUN
    assert kinds.runs_of(study, every_run=True) == [study / "cells/a"] and kinds.runs_of(folder / "run", False) == []
    with pytest.raises(UserError, match="is a study; name one of its runs listed above, or use --all"):
        kinds.runs_of(study, every_run=False)
    assert f"  {study / 'cells/a'}" in capsys.readouterr().out
    with pytest.raises(UserError, match="--all requires a study's directory, which .*run is not"):
        kinds.runs_of(folder / "run", every_run=True)
