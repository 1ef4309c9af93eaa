"""Tuning: the same settings for every arm and number of labels, and a choice on validation images alone."""

import json

import numpy as np
import pytest

from mae_jax.config.fields import study_defaults
from mae_jax.config.loading import flatten
from mae_jax.rundir import contents, predictions
from mae_jax.runtime.errors import UserError
from mae_jax.study import cells as grid
from mae_jax.study import label_study, tuning
from mae_jax.study.validation import validate_study
from mae_jax.train import loop

TUNE = ("optim.base_lr=0.01;0.001", "optim.weight_decay=0.05;0.3")


@pytest.fixture
def config(tiny_config):
    study = study_defaults(tiny_config("pretrain"), tiny_config("finetune"))
    study.fractions, study.seeds, study.subset_seeds, study.tune = (0.5, 1.0), (3, 4), (5, 6), TUNE
    return study


def differing(run, other):
    theirs = flatten(other)
    return {key: value for key, value in flatten(run).items() if value != theirs[key] and key != "name"}


def test_each_level_tries_the_same_settings_which_alone_differ(config, tmp_path):
    config.step_matched, config.evaluations = 1.0, ("finetune", "lbfgs")
    study = validate_study(config)
    cells = dict(grid.cells(study, tmp_path))
    tried: dict[str, list] = {}
    for level, setting, (place, run) in grid.tuning(study, tmp_path):
        first = cells[tmp_path / "cells" / f"{level}-seed3"]
        changed = {key: value for key, value in setting.items() if value != flatten(first)[key]}
        assert differing(run, first) == changed | {"tuned": "tried"}
        assert place.parent == tmp_path / "tuning" / level  # deeper than a report looks
        tried.setdefault(level, []).append(setting)
    assert list(tried) == [
        f"{budget}-{init}" for budget in ("50pct", "100pct", "50pct-as100pct") for init in ("scratch", "mae")
    ]
    settings = [{"optim.base_lr": rate, "optim.weight_decay": decay} for rate in (0.01, 0.001) for decay in (0.05, 0.3)]
    assert all(each == settings for each in tried.values())
    chosen = {"50pct-mae": {"optim.base_lr": 0.001, "tuned": "words"}}
    after = dict(grid.cells(study, tmp_path, chosen))
    changed = {place.name: differing(after[place], cells[place]) for place in cells}
    expected = {"optim.base_lr": 0.001, "tuned": "words"}
    assert {name: change for name, change in changed.items() if change} == {
        f"50pct-mae-seed{seed}": expected for seed in (3, 4)
    }
    assert len(list(grid.untuned(study, tmp_path, chosen))) == 5 * 2


@pytest.mark.parametrize(("tune", "message"), [
    (("data.fraction=0.1",), "tune: 'data.fraction=0.1': data.fraction cannot be tuned; use a field of optim"),
    (("train.epochs=1;2",), "train.epochs cannot be tuned"),
    (("optim.base_lr=fast",), "tune: 'optim.base_lr=fast': optim.base_lr=fast is not a valid float"),
    (("optim.rate=1",), "tune: 'optim.rate=1': optim.rate is not known"),
    (("optim.schedule=linear",), "name each field of numbers, and each value, once"),
    (("optim.b1=0.9;0.9",), "name each field of numbers, and each value, once"),
    (("optim.b1=0.9", "optim.b1=0.8"), "name each field of numbers, and each value, once"),
    (("optim.layer_decay=0.5;2",), "optim.layer_decay=2.0 is out of range"),
])  # fmt: skip
def test_what_cannot_be_tuned_is_refused(config, tune, message):
    config.tune = tune
    with pytest.raises(UserError) as error:
        validate_study(config)
    assert message in str(error.value)


def test_an_arm_does_not_set_what_is_tuned_and_there_are_validation_images(config):
    config.inits = ("scratch", "fast=scratch:optim.base_lr=0.1")
    with pytest.raises(UserError, match="inits: 'fast=.*' sets optim.base_lr, which tune=.* chooses; leave it out"):
        validate_study(config)
    config.inits, config.finetune.data.val_fraction, config.finetune.data.val_split = ("scratch",), 0.0, "none"
    with pytest.raises(UserError, match="chooses on validation images, but finetune.data.val_fraction=0"):
        validate_study(config)
    config.finetune.data.val_fraction, config.evaluations = 0.1, ("lbfgs",)
    with pytest.raises(UserError, match="is for finetune, but evaluations="):
        validate_study(config)


def written(place, right, confidence=0.6, test_right=0):
    """A run of which the first `right` of 10 validation images, and `test_right` test images, are classified right."""
    place.mkdir(parents=True)
    contents.write_json(place / contents.RUN, {"classes": ["a", "b"]})
    for file, n in ((contents.VALIDATION, right), (contents.PREDICTIONS, test_right)):
        labels = np.arange(10) % 2
        given = np.where(np.arange(10) < n, labels, 1 - labels)
        p = np.where(np.eye(2)[given] > 0, confidence, 1 - confidence)
        predictions.write_predictions(place / file, [str(i) for i in range(10)], [""] * 10, labels, p, ["a", "b"])


def test_the_best_on_validation_images_is_chosen_whatever_the_test_images_say(config, tmp_path):
    config.fractions, config.inits = (1.0,), ("scratch", "mae")
    study = validate_study(config)
    runs = list(grid.tuning(study, tmp_path))
    for (_, _, (place, _)), right, confidence in zip(runs, (4, 8, 8, 8) * 2, (0.6, 0.6, 0.9, 0.6) * 2, strict=True):
        written(place, right, confidence, test_right=10 - right)
    lost = {runs[4][2][0], runs[5][2][0]}
    tuned = tuning.choose(study, tmp_path, lost, leader=True)
    # Of three equal scores, the one with the lowest loss.
    assert tuned["100pct-scratch"]["optim.base_lr"] == 0.001 and tuned["100pct-scratch"]["optim.weight_decay"] == 0.05
    assert tuned["100pct-scratch"]["tuned"] == (
        "optim.base_lr=0.001, optim.weight_decay=0.05; macro F1 0.800 on validation images, the best of 4 settings "
        "tried with seed 3"
    )
    assert tuned["100pct-mae"]["tuned"].endswith("with seed 3 (2 of them did not finish)")
    assert tuned["100pct-mae"]["optim.base_lr"] == 0.001
    assert tuning.chosen(tmp_path) == tuned
    saved = json.loads((tmp_path / tuning.FILE).read_text())["100pct-scratch"]["tried"]
    assert [round(each["accuracy"], 3) for each in saved] == [0.4, 0.8, 0.8, 0.8]
    assert tuning.choose(study, tmp_path, {place for _, _, (place, _) in runs}, leader=True) == tuned  # it stays


def test_a_level_of_which_no_run_finished_has_no_choice(config, tmp_path):
    config.fractions, config.inits = (1.0,), ("scratch",)
    study = validate_study(config)
    places = {place for _, _, (place, _) in grid.tuning(study, tmp_path)}
    assert tuning.choose(study, tmp_path, places, leader=True) == {}
    assert [place.name for place, _ in grid.untuned(study, tmp_path, {})] == [
        "100pct-scratch-seed3",
        "100pct-scratch-seed4",
    ]


@pytest.mark.slow
def test_a_study_tunes_trains_resumes_and_reports(config, tmp_path, monkeypatch, capsys):
    config.fractions, config.inits, config.tune = (1.0,), ("scratch",), ("optim.base_lr=0.01;0.001",)
    label_study.run(config, tmp_path)
    tuned = tuning.chosen(tmp_path)["100pct-scratch"]
    for seed in (3, 4):
        saved = contents.read_config(tmp_path / "cells" / f"100pct-scratch-seed{seed}" / contents.CONFIG)["config"]
        assert (saved["optim"]["base_lr"], saved["tuned"]) == (tuned["optim.base_lr"], tuned["tuned"])
    assert "the best of 2 settings tried with seed 3" in (tmp_path / "report" / "index.html").read_text()
    assert "tuned: 100pct-scratch: optim.base_lr=" in capsys.readouterr().out
    ran = []
    original = loop.Loop.run
    monkeypatch.setattr(loop.Loop, "run", lambda self: ran.append(self.label) or original(self))
    label_study.run(config, tmp_path)
    assert ran == []
    config.tune = ()
    with pytest.raises(UserError, match="holds a run with another config"):
        label_study.run(config, tmp_path)
