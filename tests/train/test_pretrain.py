"""The task pretrain: what it evaluates, returns and prints, with a network whose answers are given."""

import numpy as np
import pytest

from mae_jax.config.validation import validate
from mae_jax.evaluation import reconstruction_sheets
from mae_jax.rundir.metrics_log import MetricsLog
from mae_jax.step import sharding
from mae_jax.step.objectives.reconstruction import Reconstruction
from mae_jax.train import pretrain


@pytest.fixture
def make(monkeypatch):
    """A task whose network has the image's index as its loss; records what is drawn."""
    drawn = []

    def predictor(config, spec):
        def predict(params, source, indices):
            values = np.asarray(indices, np.float32)
            return {"loss": values, "visible_loss": 2 * values, "spam": 0 * values}

        return predict

    monkeypatch.setattr(pretrain, "predictor", predictor)
    monkeypatch.setattr(reconstruction_sheets, "finish", lambda *arguments: drawn.append(arguments))

    def make(config):
        return pretrain.pretrain(validate(config), sharding.make_mesh(1), None, None), drawn

    return make


def test_errors_are_means_over_the_held_out_images_and_the_results_have_them(make, tiny_config, tmp_path):
    task, drawn = make(tiny_config("pretrain"))
    trained = task.indices[0]
    held = np.setdiff1d(np.arange(40), trained)
    assert 0 < len(held) < 20
    scores = {"val/loss": held.mean(), "val/visible_loss": 2 * held.mean(), "val/spam": 0}
    assert dict(task.evaluate({}, 0, tmp_path)) == pytest.approx(scores)
    assert task.finish({}, 0, tmp_path) == pytest.approx(scores | {"n_train": len(trained)})
    ((spec, _, pairs, _, workdir, leader),) = drawn
    assert spec == task.spec and workdir == tmp_path and leader
    assert [(len(source), part.tolist()) for source, part in pairs] == [(40, held.tolist())]
    assert (task.classes, task.subset, task.score) == ((), None, None)


def test_without_held_out_images_there_is_nothing_to_evaluate_or_show(make, tiny_config, tmp_path):
    task, _ = make(tiny_config("pretrain", **{"data.val_fraction": 0.0}))
    assert dict(task.evaluate({}, 0, tmp_path)) == {} and task.finish({}, 0, tmp_path) == {"n_train": 40}
    options = {"first_step": 0, "evaluated": True, "steps": 2, "tensorboard": False, "profile": False}
    with MetricsLog(tmp_path, **options) as log:
        task.show({}, 1, log)
    assert not (tmp_path / "images").exists()


def test_the_start_says_how_many_images_each_source_gives(make, tiny_config):
    task, _ = make(tiny_config("pretrain", **{"mae.mask_ratio": 0.5}))
    n = len(task.indices[0])
    assert task.about["images"] == f"{n} for training, {40 - n} held out"
    assert task.about["images per epoch and source"] == f"synthetic {n}" and task.about["mask ratio"] == 0.5
    assert task.mixture == () and task.spec.objective == Reconstruction(0.5, True)


def test_with_epoch_images_a_run_on_more_images_has_as_many_updates(make, tiny_config):
    def updates(images, epoch_images):
        fields = {"data.synthetic_unlabelled": images, "train.epoch_images": epoch_images, "train.epochs": 3.0}
        schedule = make(tiny_config("pretrain", **fields))[0].resolved
        return schedule.steps, schedule.warmup_steps, schedule.eval_every

    few, more = updates(40, 0), updates(80, 0)
    assert more[0] > few[0]
    assert updates(40, 40) == updates(80, 40) == few
