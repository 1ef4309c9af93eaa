"""Labels that an encoder selects: a run gets the images that `mae-jax select` would name, and resumes with them."""

import numpy as np
import pytest

from mae_jax.config.fields import changed
from mae_jax.config.validation import validate
from mae_jax.data import splits
from mae_jax.evaluation import selection
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.step import sharding
from mae_jax.train import build, labeling, loop


@pytest.fixture(scope="module")
def pretrained(tiny_config, tmp_path_factory):
    place = tmp_path_factory.mktemp("labeling") / "pretrain"
    loop.run(validate(tiny_config("pretrain", **{"train.epochs": 1.0})), place)
    return place


@pytest.fixture
def config(tiny_config, pretrained):
    fields = {"data.subset": "typical", "data.label_count": 9, "init": "mae", "init_from": str(pretrained)}
    return validate(tiny_config(**fields))


def chosen(config, cache=None):
    task = build.build(config, sharding.make_mesh(1), cache=cache)
    return task.indices[0], task


@pytest.mark.slow
def test_an_encoder_selects_the_labels_from_all_images_that_do_not_validate(config, pretrained, monkeypatch):
    cache, calls = splits.DataCache(), []
    for name in ("typical", "coreset"):
        original = selection.FUNCTIONS[name]
        monkeypatch.setitem(selection.FUNCTIONS, name, lambda *given, f=original: calls.append(given) or f(*given))
    indices, task = chosen(config, cache)
    features, size, labeled, seed = calls[0]
    assert (size, len(labeled), seed) == (9, 0, 0)
    pool = np.setdiff1d(np.arange(60), splits.labeled(config.data).val_idx)
    assert len(features) == len(pool) < 60
    np.testing.assert_array_equal(indices, pool[np.sort(selection.typical(features, 9, labeled, 0))])
    assert task.subset["method"] == "typical" and sum(task.subset["actual"].values()) == 9
    monkeypatch.setattr(labeling, "predictor", None)  # the features are cached
    other, _ = chosen(changed(config, {"data.subset": "coreset"}), cache)
    assert len(other) == 9 and other.tolist() != indices.tolist()
    # The features of a given encoder are those of the run's own encoder if it is the same; here for another start.
    given = {"init": "scratch", "init_from": "", "data.subset_from": str(pretrained)}
    monkeypatch.undo()
    np.testing.assert_array_equal(chosen(changed(config, given))[0], indices)
    # Probes label the same images.
    assert chosen(changed(config, {"task": "lbfgs"}))[0].tolist() == indices.tolist()


@pytest.mark.slow
def test_a_run_with_few_classes_ends_with_scores(config, tmp_path):
    few = changed(config, {"data.label_count": 2, "train.balance": "loss", "train.epochs": 1.0})
    results = loop.run(few, tmp_path / "run")
    assert results["n_train"] == 2 and 0 <= results["accuracy"] <= 1
    saved = contents.read_json(tmp_path / "run" / "subset.json")
    assert saved["method"] == "typical" and 0 in saved["actual"].values()
    probe = changed(config, {"task": "lbfgs", "data.label_count": 1, "optim.warmup_epochs": 0.0})
    assert loop.run(probe, tmp_path / "probe")["n_train"] == 1


def test_no_encoder_is_needed_for_other_draws(tiny_config):
    for method in ("stratified", "random"):
        config = validate(tiny_config(**{"data.subset": method}))
        assert labeling.selector(config, sharding.make_mesh(1), None) is None


def test_an_encoder_that_is_missing_is_refused_by_its_field(tiny_config):
    with pytest.raises(UserError, match="data.subset=typical selects by the features of a trained encoder, but init="):
        validate(tiny_config(**{"data.subset": "typical"}))
    config = validate(tiny_config(**{"data.subset": "typical", "data.subset_from": "/nowhere.npz"}))
    with pytest.raises(UserError, match="subset_from"):
        labeling.selector(config, sharding.make_mesh(1), None)
