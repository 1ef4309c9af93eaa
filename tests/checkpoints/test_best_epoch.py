"""Selection of the best epoch on validation images, which is the same for resumed and uninterrupted runs."""

import errno
import json
import os
import signal
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.checkpoints.best_epoch import BestEpoch
from mae_jax.config import validation
from mae_jax.evaluation import per_image
from mae_jax.rundir import contents
from mae_jax.runtime import files as runtime_files
from mae_jax.runtime.errors import Stopped, UserError
from mae_jax.runtime.progress import Progress
from mae_jax.step import sharding
from mae_jax.train import loop
from mae_jax.train.build import build


def params(value: float):
    return {"encoder": {"kernel": jnp.full((2, 3), float(value))}, "head": {"bias": jnp.full(3, -float(value))}}


def offer(best: BestEpoch, step: int, accuracy: float, loss: float) -> None:
    best.offer(step, {"val/accuracy": accuracy, "val/loss": loss}, params(step))


def files(best: BestEpoch) -> set[str]:
    return {path.name for path in best.directory.iterdir() if path.suffix != ".digest"}


def test_accuracy_decides_then_loss_and_never_nan(tmp_path):
    best = BestEpoch(tmp_path, keep=1)
    chosen = []
    for step, accuracy, loss in [(1, 0.6, 0.9), (2, 0.6, 0.8), (3, 0.6, 0.8), (4, 0.9, np.nan), (5, 0.5, 0.1)]:
        offer(best, step, accuracy, loss)
        chosen.append(best.step)
        best.position()
    assert chosen == [1, 2, 2, 2, 2]
    loaded = best.load(params(0.0))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), loaded, params(2.0)))
    assert files(best) == {"2.npz"}


def test_the_best_epoch_of_a_checkpoint_is_kept_and_later_ones_are_removed(tmp_path):
    best = BestEpoch(tmp_path, keep=2)
    assert best.position() is None
    saved = {}
    for step, accuracy in [(1, 0.5), (2, 0.6), (3, 0.7), (4, 0.8)]:
        offer(best, step, accuracy, 1.0)
        saved[step] = best.position()
    assert files(best) == {"1.npz", "2.npz", "3.npz", "4.npz"}
    again = BestEpoch(tmp_path, keep=2)
    again.resume(saved[3])
    assert again.step == 3 and files(again) == {"1.npz", "2.npz", "3.npz"}
    offer(again, 4, 0.65, 1.0)
    assert again.step == 3
    (tmp_path / "best" / "3.npz").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"3.npz cannot be read .* restore it from a backup"):
        again.load(params(0.0))
    (tmp_path / "best" / "3.npz").unlink()
    with pytest.raises(UserError, match=r"3.npz is missing: it holds the best epoch"):
        BestEpoch(tmp_path, keep=2).resume(saved[3])
    again.resume(None)  # without a checkpoint the run starts again
    assert files(again) == set()


def test_a_file_is_checked_against_its_digest_which_those_of_earlier_versions_do_not_have(tmp_path):
    best = BestEpoch(tmp_path, keep=1)
    offer(best, 7, 0.5, 1.0)
    path, digest = best.directory / "7.npz", best.directory / "7.npz.digest"
    arrays = dict(np.load(path))
    name = next(iter(arrays))
    np.savez(path, **arrays | {name: arrays[name] + 1})  # whole, but not what was written
    with pytest.raises(UserError, match=r"7.npz cannot be read \(it differs from what was written \(SHA-256\)\)"):
        best.load(params(0.0))
    digest.write_text("[1")
    with pytest.raises(UserError, match=r"7.npz.digest is damaged"):
        best.load(params(0.0))
    digest.unlink()
    best.load(params(0.0))
    offer(best, 7, 0.6, 1.0)  # a file that is replaced has the digest of the new one
    best.load(params(0.0))
    BestEpoch(tmp_path, keep=1).resume(None)
    assert not list(best.directory.iterdir())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("head/bias", lambda a: a.astype(np.int32), "head/bias is int32 instead of float32"),
        ("head/bias", lambda a: a.astype(np.float16), "head/bias is float16 instead of float32"),
        ("head/bias", lambda a: a.astype("U8"), "head/bias is <U8 instead of float32"),
        ("encoder/kernel", lambda a: a.T, r"encoder/kernel has the shape \(3, 2\) instead of \(2, 3\)"),
        ("encoder/kernel", lambda a: a * np.nan, "encoder/kernel has values that are not finite"),
        ("encoder/kernel", lambda a: None, "the file has no encoder/kernel"),
        ("more", lambda a: np.zeros(2), "the file has more, which the network does not have"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_and_not_cast(tmp_path, name, change, message):
    best = BestEpoch(tmp_path, keep=1)
    offer(best, 1, 0.5, 1.0)
    with np.load(tmp_path / "best" / "1.npz") as saved:
        arrays = dict(saved)
    (tmp_path / "best" / "1.npz.digest").unlink()  # as earlier versions had none
    changed = arrays | {name: change(arrays.get(name))}
    np.savez(tmp_path / "best" / "1.npz", **{key: value for key, value in changed.items() if value is not None})
    with pytest.raises(UserError, match=rf"best/1.npz cannot be read \(.*{message}\); restore it from a backup"):
        best.load(params(0.0))


def test_a_member_that_is_not_an_array_is_named(tmp_path):
    best = BestEpoch(tmp_path, keep=1)
    offer(best, 1, 0.5, 1.0)
    (tmp_path / "best" / "1.npz.digest").unlink()  # as earlier versions had none
    with zipfile.ZipFile(tmp_path / "best" / "1.npz", "a") as archive:
        archive.writestr("head/scale", b"text")
    with pytest.raises(UserError, match=r"1.npz cannot be read \('head/scale' is not an array\); restore it"):
        best.load(params(0.0))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE])
def test_a_storage_error_does_not_advise_to_remove_the_run(tmp_path, monkeypatch, number):
    best = BestEpoch(tmp_path, keep=1)
    offer(best, 1, 0.5, 1.0)

    def fail(path, *args, **options):
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(runtime_files, "open", fail, raising=False)
        with pytest.raises(OSError, match=os.strerror(number)):
            best.load(params(0.0))
    for call in ("stat", "scandir"):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, fail)
            with pytest.raises(OSError, match=os.strerror(number)):
                BestEpoch(tmp_path, keep=1).resume({"step": 1, "score": [0.5, -1.0]})
    assert files(best) == {"1.npz"}


@pytest.mark.slow
def test_a_resumed_run_tests_the_same_best_epoch(tmp_path, tiny_config, monkeypatch):
    config = tiny_config(**{"train.select": "best"})
    rates = iter([0.9, 0.3, 0.8, 0.5])  # accuracies in place of those of a validation
    accuracy = {}

    def classifier(values, labels, original=per_image.classifier):
        result = dict(original(values, labels))
        key = round(result["loss"], 9)
        accuracy.setdefault(key, next(rates, 0.0))
        yield from (result | {"accuracy": accuracy[key]}).items()

    monkeypatch.setattr(per_image, "classifier", classifier)
    loop.run(config, tmp_path / "whole")
    info = contents.read_json(tmp_path / "whole" / contents.RUN)
    assert (info["select"], info["selected_step"], info["steps"]) == ("best", 4, 8)

    original = Progress.update

    def update(self, done, text):
        original(self, done, text)
        if done == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "update", update)
        with pytest.raises(Stopped):
            loop.run(config, tmp_path / "broken")
    loop.run(config, tmp_path / "broken")
    for name in (contents.PREDICTIONS, contents.VALIDATION, contents.METRICS):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    config.train.select = "last"
    loop.run(config, tmp_path / "last")
    assert not (tmp_path / "last" / "best").exists()
    assert (tmp_path / "last" / contents.PREDICTIONS).read_bytes() != (
        tmp_path / "whole" / contents.PREDICTIONS
    ).read_bytes()


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        ("pretrain", {}, "train.select=best is only for classifiers"),
        ("finetune", {"data.val_fraction": 0.0}, "train.select=best needs validation images"),
        ("finetune", {"train.select": "first"}, "train.select=first is not allowed; use one of last, best"),
    ],
)
def test_a_select_that_does_not_fit_is_refused(tiny_config, task, fields, message):
    config = tiny_config(task, **({"train.select": "best"} | fields))
    with pytest.raises(UserError, match=message):
        validation.validate(config)


SCORED = [  # accuracy, macro F1 and loss of four epochs: each is best in another one
    {"accuracy": 0.5, "f1": 0.5, "loss": 0.9},
    {"accuracy": 0.9, "f1": 0.5, "loss": 1.0},
    {"accuracy": 0.8, "f1": 0.7, "loss": 1.1},
    {"accuracy": 0.8, "f1": 0.6, "loss": 0.8},
]


@pytest.mark.parametrize(("select", "step"), [("best", 2), ("accuracy", 2), ("macro_f1", 3), ("loss", 4)])
def test_the_epoch_is_chosen_by_the_score_that_is_named(tmp_path, select, step):
    best = BestEpoch(tmp_path, 2, select)
    for number, values in enumerate(SCORED, 1):
        best.offer(number, {f"val/{name}": value for name, value in values.items()}, params(float(number)))
    assert best.step == step


def scored_by(monkeypatch, scores) -> None:
    """Replaces validation: it returns these values of macro F1 one after another, whatever the network."""
    known = {}

    def classifier(values, labels, original=per_image.classifier):
        result = dict(original(values, labels))
        key = round(result["loss"], 9)
        known.setdefault(key, scores[len(known)])
        yield from (result | {"f1": known[key]}).items()

    monkeypatch.setattr(per_image, "classifier", classifier)


def test_training_stops_after_evaluations_without_gain(tmp_path, tiny_config, monkeypatch):
    config = tiny_config(**{"train.select": "macro_f1", "train.patience": 2, "train.epochs": 6.0})
    scored_by(monkeypatch, [0.3, 0.6, 0.5, 0.55, 0.9, 0.9])
    loop.run(config, tmp_path / "run")
    info = contents.read_json(tmp_path / "run" / contents.RUN)
    assert (info["selected_step"], info["steps"], info["stopped_early"]) == (8, 16, True)  # 4 updates an epoch
    assert info["epochs"] == 4.0
    rows = (tmp_path / "run" / contents.METRICS).read_text().splitlines()
    assert max(json.loads(row)["step"] for row in rows) == 16
    assert loop.run(config, tmp_path / "run")["n"] == 23  # it stays finished


def test_a_run_killed_after_an_early_stop_has_the_same_results(tmp_path, tiny_config, monkeypatch):
    config = tiny_config(**{"train.select": "macro_f1", "train.patience": 1, "train.epochs": 6.0})
    scored_by(monkeypatch, [0.6, 0.5, 0.9, 0.9, 0.9, 0.9])
    loop.run(config, tmp_path / "run")
    for name in (contents.RESULTS, contents.RUN, contents.PREDICTIONS):
        (tmp_path / "run" / name).rename(tmp_path / name)
    loop.run(config, tmp_path / "run")
    assert (tmp_path / "run" / contents.PREDICTIONS).read_bytes() == (tmp_path / contents.PREDICTIONS).read_bytes()
    info = contents.read_json(tmp_path / "run" / contents.RUN)
    assert (info["selected_step"], info["steps"], info["stopped_early"]) == (4, 8, True)


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        ("finetune", {"train.patience": 3}, "train.patience=3 needs train.select=accuracy, macro_f1 or loss"),
        ("pretrain", {"train.balance": "loss"}, "train.balance=loss is only for finetune and linear_probe"),
        ("knn", {"train.balance": "sampler"}, "train.balance=sampler is only for finetune and linear_probe"),
        ("knn", {"train.select": "loss"}, "train.select=loss selects an epoch, but knn has none"),
    ],
)
def test_choices_that_make_no_sense_are_refused(tiny_config, task, fields, message):
    with pytest.raises(UserError, match=message):
        validation.validate(tiny_config(task, **fields))


def test_class_weights_are_those_of_the_labels_that_are_used(tiny_config):
    task = build(tiny_config(**{"train.balance": "loss"}), sharding.make_mesh(1))
    counts = list(task.subset["actual"].values())
    assert task.spec.objective.class_weights == pytest.approx([sum(counts) / (5 * n) for n in counts])
    assert build(tiny_config(), sharding.make_mesh(1)).spec.objective.class_weights == ()
