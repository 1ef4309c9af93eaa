"""Cross-validation chooses the epoch: which images, the pooled scores, the choice, and resuming after a kill."""

import dataclasses
import json
import multiprocessing
import os
import signal

import numpy as np
import pytest

from mae_jax.config.fields import DataFields, changed
from mae_jax.config.schedule import resolve
from mae_jax.config.validation import validate
from mae_jax.data import sources, splits, subsets
from mae_jax.evaluation.classification_scores import classification
from mae_jax.rundir import contents
from mae_jax.rundir.predictions import read_predictions
from mae_jax.runtime.errors import Stopped, UserError
from mae_jax.train import cross_validation, loop

FOLDS = {"data.val_of": "fraction", "data.val_folds": 3, "data.val_fraction": 0.25, "train.select": "macro_f1"}


@pytest.fixture
def config(tiny_config):
    fields = {"data.label_count": 18, "train.epochs": 3.0, "train.batch_size": 8, "optim.base_lr": 0.1}
    return validate(tiny_config(**(FOLDS | fields)))


def rows(workdir):
    lines = [json.loads(line) for line in (workdir / contents.METRICS).read_text().splitlines()]
    return {line["step"]: line for line in lines if "val/f1" in line}


def test_each_image_of_the_fraction_validates_once_and_never_where_its_group_trains(config):
    all_labels = splits.labeled(config.data)
    assert all_labels.folds == 3 and len(all_labels.train_idx) == 18 and len(all_labels.val_idx) == 0
    parts = [splits.labeled(config.data, fold=fold) for fold in range(3)]
    for part in parts:
        assert sorted([*part.train_idx, *part.val_idx]) == all_labels.train_idx.tolist() and part.folds == 3
        assert np.ptp([np.bincount(p.train.labels[p.val_idx], minlength=4).sum() for p in parts]) <= 2
    assert sorted(i for part in parts for i in part.val_idx) == all_labels.train_idx.tolist()
    groups = tuple(f"patient {i % 5}" for i in range(len(all_labels.train)))
    train = dataclasses.replace(all_labels.train, groups=groups)
    fold = splits.folds_of(train, all_labels.train_idx, config.data)
    for group in set(groups):
        assert len({f for f, i in zip(fold, all_labels.train_idx, strict=True) if groups[i] == group}) <= 1
    one = dataclasses.replace(all_labels.train, groups=("a",) * len(all_labels.train))
    with pytest.raises(UserError, match=r"data.val_folds=3 needs images of two groups or more"):
        splits.folds_of(one, all_labels.train_idx, config.data)


def test_only_fractions_up_to_a_limit_are_cross_validated():
    some = DataFields(val_of="fraction", val_folds=5, val_folds_up_to=0.1, fraction=0.1)
    assert (some.folds, some.folds_of(0.2, 0), dataclasses.replace(some, val_folds_up_to=0.0).folds_of(1.0, 0)) == (
        5,
        0,
        5,
    )
    counted = dataclasses.replace(some, val_folds_up_to=50.0, fraction=1.0)
    assert (counted.folds_of(1.0, 50), counted.folds_of(1.0, 51)) == (5, 0)


def test_updates_are_matched_to_those_of_a_fraction_that_holds_images_out(tiny_config):
    data = validate(tiny_config(**FOLDS, **{"data.fraction": 0.3, "data.val_folds_up_to": 0.3})).data
    few, everything = splits.labeled(data), splits.labeled(changed(data, {"fraction": 1.0}))
    assert few.folds == 3 and everything.folds == 0 and len(everything.val_idx) > 0
    assert splits.n_training(data, few, share=1.0) == len(everything.train_idx)
    assert splits.n_training(data, few) == len(few.train_idx)


def test_pooled_predictions_are_those_of_the_model_that_lacks_the_image(config, tmp_path):
    resolved = resolve(config, 18, 1)
    steps = cross_validation.evaluation_steps(resolved)
    assert steps == [3, 6, 9]  # 18 images in batches of 8, 3 epochs
    source = sources.synthetic("Train", 60, 16, 0)
    images = np.sort(np.random.default_rng(0).permutation(60)[:18])
    fold = np.arange(18) % 3
    rng = np.random.default_rng(1)
    truth = {step: {"loss": rng.random(18), "probabilities": rng.random((18, 4))} for step in steps}
    for number in range(3):
        place = cross_validation.directory_of(tmp_path, number)
        place.mkdir(parents=True)
        for step in steps:
            cross_validation.keep(place, step, {k: v[fold == number] for k, v in truth[step].items()} | {"more": rng})
        assert not cross_validation.is_finished(tmp_path, number)
        cross_validation.finish(place, source, images[fold == number], resolved)
        assert cross_validation.is_finished(tmp_path, number)
    pooled = cross_validation.pooled(tmp_path, source, images, resolved)
    for step in steps:
        for name, values in truth[step].items():
            np.testing.assert_array_equal(pooled[step][name], values)
    for other in (images[1:], images + 1):
        with pytest.raises(UserError, match="folds was made from other images or for another number of updates"):
            cross_validation.pooled(tmp_path, source, other, resolved)
    longer = dataclasses.replace(resolved, steps=12)
    with pytest.raises(UserError, match="trained for 9 updates, but this run has 12; a cross-validated run cannot be"):
        cross_validation.refuse_other_steps(tmp_path, longer)
    cross_validation.refuse_other_steps(tmp_path, resolved)


@pytest.mark.parametrize(("fields", "message"), [
    ({"data.val_folds": 1}, "data.val_folds=1 leaves nothing to train on; use 0 for none, or 2 and more"),
    ({"data.val_of": "all"}, "data.val_folds=3 validates on the images of the fraction, but data.val_of=all: set it"),
    ({"train.select": "last"}, "data.val_folds=3 chooses the epoch, but train.select=last: set it to macro_f1"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(tiny_config, fields, message):
    with pytest.raises(UserError) as error:
        validate(tiny_config(**(FOLDS | fields)))
    assert message in str(error.value)


def test_the_epoch_with_the_best_pooled_score_is_tested_and_no_fold_is(config, tmp_path, monkeypatch):
    opened = []
    build = loop.build

    def spied(*args, **named):
        task = build(*args, **named)
        opened.append((named.get("fold"), task.resolved, task.config))
        return task

    monkeypatch.setattr(loop, "build", spied)
    results = loop.run(config, tmp_path)
    assert [fold for fold, _, _ in opened] == [None, 0, 1, 2]
    horizon = {(r.steps, r.warmup_steps, r.eval_every, r.peak_lr) for _, r, _ in opened}
    assert len(horizon) == 1  # so that the same step is the same point of the schedule
    assert all(c.train.select == "last" and c.seed == config.seed for fold, _, c in opened if fold is not None)

    all_labels = splits.labeled(config.data)
    labels, classes = all_labels.train.labels[all_labels.train_idx], all_labels.train.classes
    resolved = opened[0][1]
    pooled = cross_validation.pooled(tmp_path, all_labels.train, all_labels.train_idx, resolved)
    curve = {
        step: classification(labels, values["probabilities"].argmax(1), classes)["f1"]
        for step, values in pooled.items()
    }
    losses = {step: float(values["loss"].mean()) for step, values in pooled.items()}
    chosen = max(curve, key=lambda step: (curve[step], -losses[step]))
    info = contents.read_object(tmp_path / contents.RUN)
    assert (info["selected_step"], info["folds"], info["select"], info["n_train"]) == (chosen, 3, "macro_f1", 18)
    assert {step: row["val/f1"] for step, row in rows(tmp_path).items()} == pytest.approx(curve)
    assert results["n_train"] == results["n_validation"] == 18 and results["last_epoch"]["step"] == resolved.steps

    written, _ = read_predictions(tmp_path / contents.VALIDATION, classes)
    assert list(written.images) == [all_labels.train.names[i] for i in all_labels.train_idx]
    np.testing.assert_allclose(written.probabilities, pooled[chosen]["probabilities"], atol=1e-6)
    left = sorted(path.name for path in (tmp_path / contents.FOLDS).iterdir())
    assert left == ["0.npz", "1.npz", "2.npz"]  # no model of a fold, and nothing about the test images
    again = loop.run(config, tmp_path)
    assert again == results and len(opened) == 4


@pytest.mark.slow
@pytest.mark.parametrize("where", [(1, 6), (None, 6)])
def test_a_run_that_stops_in_a_fold_or_after_them_resumes_to_the_same_bits(config, tmp_path, monkeypatch, where):
    uncut, cut = tmp_path / "uncut", tmp_path / "cut"
    loop.run(config, uncut)
    fold, step = where
    evaluate = loop.Loop.evaluate

    def stop(self, state, at, metrics, last):
        evaluate(self, state, at, metrics, last)
        if at == step and (self.workdir.name == str(fold) if fold is not None else self.task.folds):
            self.signals_received.append(15)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Loop, "evaluate", stop)
        with pytest.raises(Stopped, match="step 7 of 9 is saved"):
            loop.run(config, cut)
    assert (cut / contents.FOLDS / "0.npz").exists() and not (cut / contents.RESULTS).exists()
    loop.run(config, cut)
    for name in (contents.PREDICTIONS, contents.VALIDATION, "folds/0.npz", "folds/1.npz", "folds/2.npz"):
        assert (cut / name).read_bytes() == (uncut / name).read_bytes(), name
    first, second = (contents.read_object(place / contents.RESULTS) for place in (uncut, cut))
    assert first == second and rows(uncut).keys() == rows(cut).keys()


def killed(config, workdir, fold, step):
    """Runs until SIGKILL ends the process, when the model without `fold` was evaluated after `step` updates."""
    evaluate = loop.Loop.evaluate

    def kill(self, state, at, metrics, last):
        evaluate(self, state, at, metrics, last)
        if at == step and self.workdir.name == str(fold):
            os.kill(os.getpid(), signal.SIGKILL)

    loop.Loop.evaluate = kill
    loop.run(config, workdir)


@pytest.mark.slow
@pytest.mark.parametrize("where", [(1, 3), (1, 9)])
def test_a_run_that_is_killed_in_a_fold_ends_with_the_same_bits(config, tmp_path, where):
    uncut, cut = tmp_path / "uncut", tmp_path / "cut"
    loop.run(config, uncut)
    process = multiprocessing.get_context("spawn").Process(target=killed, args=(config, cut, *where))
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL
    assert (cut / contents.FOLDS / "0.npz").exists() and not (cut / contents.RESULTS).exists()
    loop.run(config, cut)
    for name in (contents.PREDICTIONS, contents.VALIDATION, "folds/0.npz", "folds/1.npz", "folds/2.npz"):
        assert (cut / name).read_bytes() == (uncut / name).read_bytes(), name
    first, second = (contents.read_object(place / contents.RESULTS) for place in (uncut, cut))
    assert first == second and rows(uncut).keys() == rows(cut).keys()


def test_folds_of_a_fraction_are_stratified():
    labels = np.repeat(np.arange(4), (3, 6, 9, 12))
    fold = subsets.folds(labels, [""] * 30, 3, 0)
    assert [np.bincount(labels[fold == f], minlength=4).tolist() for f in range(3)] == [[1, 2, 3, 4]] * 3
