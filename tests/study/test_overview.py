"""The runs and studies that `mae-jax runs` finds."""

import contextlib
import errno
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from mae_jax.config.fields import study_defaults
from mae_jax.config.validation import validate
from mae_jax.rundir import contents, identity, lock
from mae_jax.rundir.predictions import Predictions
from mae_jax.runtime.errors import UserError
from mae_jax.study import label_study, overview
from mae_jax.study.validation import validate_study


def test_a_bundle_is_not_a_run(tmp_path):
    saved = {"config": {"task": "finetune"}, contents.BUNDLE: 1}
    (tmp_path / contents.CONFIG).write_text(json.dumps(saved))
    assert overview.read(tmp_path) is None
    del saved[contents.BUNDLE]
    (tmp_path / contents.CONFIG).write_text(json.dumps(saved))
    result = overview.read(tmp_path)
    assert result is not None and (result.task, result.state) == ("finetune", "not started")


GOOD = {"format": 2, "config": {"task": "finetune", "seed": 3, "data": {"label_count": 20}}}


def write(place: Path, name: str, value) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        (contents.STUDY, {"task": "study", "pretrain": 5}),
        (contents.STUDY, {"task": "sweep", "finetune": [], "pretrain": {"task": "study"}}),
        (contents.CONFIG, {"task": "finetune", "data": {"label_count": "x"}}),
        (contents.CONFIG, {"task": "finetune", "data": {"label_count": -1.5}}),
        (contents.CONFIG, {"task": "finetune", "data": {"fraction": "x"}}),
        (contents.CONFIG, {"task": "finetune", "data": 5}),
        (contents.CONFIG, {"task": ["finetune"], "init": {}}),
    ],
)
def test_a_damaged_config_does_not_hide_the_others(tmp_path, name, config):
    write(tmp_path / "good", contents.CONFIG, GOOD)
    write(tmp_path / "odd", name, {"config": config})
    table = overview.table(overview.find(tmp_path), tmp_path)
    assert "20 labels, seed 3" in table and "\nodd " in table


def test_a_later_format_is_named_with_its_writer(tmp_path):
    write(tmp_path / "good", contents.CONFIG, GOOD)
    write(tmp_path / "new", contents.CONFIG, GOOD | {"format": 7, "version": "9.1"})
    entries = overview.find(tmp_path)
    assert [entry.state for entry in entries] == ["not started", "unreadable"]
    assert "config.json has format 7, written by mae_jax 9.1, but this version" in overview.table(entries, tmp_path)
    with pytest.raises(UserError, match=r"new: config.json has format 7, written by mae_jax 9\.1, .*; update mae_jax"):
        overview.compare(tmp_path / "new", tmp_path / "good")


@pytest.mark.parametrize("name", [contents.RUN, contents.RESULTS, contents.CONFIG])
def test_a_run_whose_files_cannot_be_read_is_listed_as_that(tmp_path, monkeypatch, name):
    for run in ("bad", "good"):
        for file, value in ((contents.CONFIG, GOOD), (contents.RUN, {"a": 1}), (contents.RESULTS, {"accuracy": 0.5})):
            write(tmp_path / run, file, value)
    opened = io.open

    def failing(file, *args, **options):
        if str(file) == str(tmp_path / "bad" / name):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(file))
        return opened(file, *args, **options)

    monkeypatch.setattr(io, "open", failing)
    assert [entry.state for entry in overview.find(tmp_path)] == ["unreadable", "finished"]
    assert "Stale file handle" in overview.table(overview.find(tmp_path), tmp_path)
    with pytest.raises(OSError, match="Stale"):
        overview.compare(tmp_path / "bad", tmp_path / "good")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    write(tmp_path / "good", contents.CONFIG, GOOD)
    (tmp_path / "inner").mkdir()
    listed, wrong = os.scandir, {tmp_path / "inner"}

    def failing(path="."):
        if Path(path) in wrong:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", failing)
    assert [(e.path.name, e.state) for e in overview.find(tmp_path)] == [
        ("good", "not started"),
        ("inner", "unreadable"),
    ]
    wrong.add(tmp_path)
    with pytest.raises(OSError, match="Input/output error"):
        overview.find(tmp_path)


def test_a_study_counts_its_runs_that_have_not_begun(tiny_config, tmp_path):
    config = study_defaults(tiny_config("pretrain"), tiny_config("finetune"))
    config.fractions = (0.5, 1.0)
    (tmp_path / "study").mkdir()
    label_study.keep_study(validate_study(config), tmp_path / "study", True)
    (entry,) = overview.find(tmp_path)
    assert (entry.state, entry.finished, entry.runs) == ("stopped", 0, 5)


def test_the_runs_of_a_study_count_once_in_the_total_size(tiny_config, tmp_path):
    config = study_defaults(tiny_config("pretrain"), tiny_config("finetune"))
    study = tmp_path / "study"
    study.mkdir()
    label_study.keep_study(validate_study(config), study, True)
    cell = study / "cells" / "a"
    cell.mkdir(parents=True)
    identity.keep_config(cell, validate(tiny_config()), {})
    (cell / "large").write_bytes(b"0" * 2**20)
    size = sum(path.stat().st_size for path in study.rglob("*") if path.is_file())
    text = overview.table(overview.find(tmp_path), tmp_path)
    assert len(text.splitlines()) == 4 and text.endswith(f"2 entries, {overview.readable(size)} in total")


def test_groups_of_a_comparison_are_those_of_the_images_that_both_runs_have():
    groups = ("one", "two", "two", "three")
    some = Predictions(tuple("abcd"), np.zeros(4, int), np.zeros(4, int), np.ones(4), groups, None)
    units, words = overview._units(some, np.array([1, 2, 3]))
    assert units[0] == units[1] != units[2] and words == "2 groups of images"


def test_two_groups_do_not_make_a_difference_certain():
    number, labels = np.arange(40), np.arange(40) % 2
    names, groups = tuple(map(str, number)), ("slide 1",) * 20 + ("slide 2",) * 20
    runs = []
    for wrong in ((8, 9), (12, 14)):  # of the 20 images of each slide
        predicted = np.where(number % 20 < np.repeat(wrong, 20), 1 - labels, labels)
        runs.append(Predictions(names, labels, predicted, np.ones(40), groups, None))
    lines = overview._differences(runs, [number] * 2, 2)
    low, high = (float(x) for x in re.search(r"accuracy.*interval ([+-][\d.]+) to ([+-][\d.]+)", lines[0]).groups())
    assert low < -0.4 and 0 < high  # Student's t with one degree of freedom; the plain bootstrap gives -0.25 to -0.20
    assert lines[-1] == "  they are widened for so few groups, which say little about others"


def test_what_is_in_use_is_running_even_if_it_has_results(tmp_path):
    (tmp_path / "study/cells/a").mkdir(parents=True)
    for file, value in ((contents.CONFIG, GOOD), (contents.RUN, {"a": 1}), (contents.RESULTS, {"accuracy": 0.5})):
        write(tmp_path / "study/cells/a", file, value)
    write(tmp_path / "study", contents.STUDY, {"format": 2, "config": {"task": "study"}})
    for used, states in (
        ("none", ["finished", "finished"]),
        ("study", ["running", "finished"]),
        ("study/cells/a", ["running", "running"]),
    ):
        with lock.held(tmp_path / used):
            assert [entry.state for entry in overview.find(tmp_path)] == states


def test_a_run_that_ends_while_it_is_read_is_not_called_stopped(tmp_path, monkeypatch):
    write(tmp_path, contents.CONFIG, GOOD)
    write(tmp_path, contents.SAVED, {})
    read = contents.peek_object
    with contextlib.ExitStack() as run:
        run.enter_context(lock.held(tmp_path))

        def ends_after(path):
            content = read(path)
            run.close()
            return content

        monkeypatch.setattr(contents, "peek_object", ends_after)
        assert [entry.state for entry in overview.find(tmp_path)] == ["running"]
