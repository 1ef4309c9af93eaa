"""Bundles: they predict like their run, and damaged or strange ones are refused."""

import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mae_jax
from mae_jax import models
from mae_jax.config.validation import validate
from mae_jax.predict import bundle, exporting
from mae_jax.rundir import saved_runs
from mae_jax.runtime.errors import UserError
from mae_jax.step import from_config
from mae_jax.weights import reader

CLASSES = ("Eosinophil", "Lymphocyte")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["finetune", "linear_probe", "lbfgs", "knn", "pretrain"])
def test_a_bundle_predicts_like_its_run(predict_dir, tmp_path, task):
    out = tmp_path / "bundle"
    exporting.export_bundle(predict_dir / task, out)
    images = predict_dir / "cells" / "TestA"
    run, model = mae_jax.load(predict_dir / task), mae_jax.load(out)
    np.testing.assert_array_equal(model.embed(images), run.embed(images))
    if task != "pretrain":
        np.testing.assert_array_equal(model.predict(images).probabilities, run.predict(images).probabilities)
        assert model.temperature == run.temperature and model.classes == CLASSES
    card, about = (out / "README.md").read_text(), (out / "config.json").read_text()
    assert "mae_jax.load(" in card and str(predict_dir) not in card + about
    assert (r"pretrain (trained by mae\_jax on cells)" in card) == (task in ("linear_probe", "lbfgs"))
    weights = reader.read(out)  # init=PATH reads it like this
    np.testing.assert_array_equal(weights.params["encoder"]["cls_token"], model.params["encoder"]["cls_token"])
    damaged = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(damaged[:-8])
    with pytest.raises(UserError, match=r"load: .*model\.safetensors cannot be read"):
        mae_jax.load(out)


@pytest.fixture
def written(tiny_config, tmp_path):
    """A bundle of a classifier with random weights, its config and its parameters."""
    paths = {"data.source": "folder", "data.dir": "/home/someone/cells/", "data.labels": "/a/b.csv,c/d.csv"}
    config = validate(tiny_config(**paths, **{"data.external": "x=/secret/y", "init_from": "/runs/mine/"}))
    shape = from_config.shape_of(config, 2)
    like = jax.eval_shape(partial(models.init, "vit", shape), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), like)
    about = {"task": "finetune", "classes": list(CLASSES), "temperature": 1.5, "run": "mine"}
    folder = tmp_path / "bundle"
    folder.mkdir()
    bundle.write(folder, params, config, about, None, "# card")
    return folder, config, params


def test_a_bundle_is_read_as_it_was_written(written):
    folder, config, params = written
    assert saved_runs.is_bundle(folder) and not saved_runs.is_bundle(folder.parent)
    result = bundle.read(folder, "load")
    assert (result.classes, result.temperature, result.probe) == (CLASSES, 1.5, None)
    assert result.shape == from_config.shape_of(config, 2) and result.config.seed == config.seed
    assert jax.tree.structure(result.params) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, result.params, params)
    assert (folder / "README.md").read_text() == "# card"


def test_a_bundle_says_how_images_are_prepared_and_names_no_folder_of_this_machine(written):
    folder, config, _ = written
    text = (folder / "config.json").read_text()
    saved = json.loads(text)
    assert saved["preprocessing"]["image_size"] == 16 and saved["preprocessing"]["mean"] == list(config.data.mean)
    data = saved["config"]["data"]
    assert (data["dir"], data["labels"], data["external"]) == ("cells", "b.csv,d.csv", "")
    assert saved["config"]["init_from"] == "mine" and "someone" not in text and "secret" not in text


def changed(folder, **values):
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(saved | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({bundle.KEY: 2}, "mae_jax_bundle is 2; this version of mae_jax reads 1: update mae_jax"),
        ({"config": {"task": "other"}}, "contains no config of a run; export the run again"),
        ({"classes": "ab"}, "classes is 'ab'; it should be a list of names"),
        ({"classes": ["a", "b", "c"]}, "does not fit the config next to it: head/bias (2,), head/kernel (16, 2)"),
        *[
            ({"temperature": t}, f"temperature is {t!r}; it should be a number above 0, or null")
            for t in (0, "1", True)
        ],
    ],
)
def test_what_a_bundle_says_of_itself_is_checked(written, values, message):
    changed(written[0], **values)
    with pytest.raises(UserError) as error:
        bundle.read(written[0], "load")
    assert str(error.value).startswith("load: ") and message in str(error.value)


def test_arrays_that_are_missing_or_not_finite_are_refused(written):
    folder = written[0]
    arrays = load_file(folder / bundle.ARRAYS)
    save_file({name: array for name, array in arrays.items() if name != "head/bias"}, folder / bundle.ARRAYS)
    with pytest.raises(UserError, match="head/bias missing; export the run again"):
        bundle.read(folder, "load")
    save_file(arrays | {"head/bias": np.array([0, np.nan], np.float32)}, folder / bundle.ARRAYS)
    with pytest.raises(UserError, match="contains numbers that are not finite"):
        bundle.read(folder, "load")


@pytest.mark.slow
def test_a_bundle_of_a_run_whose_best_epoch_is_not_the_last(predict_dir, tmp_path):
    shutil.copytree(predict_dir / "finetune", tmp_path / "run")
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    (best,) = (tmp_path / "run" / "best").glob("*.npz")
    about |= {"selected_step": int(best.stem), "steps": int(best.stem) + 1, "select": "best"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    exporting.export_bundle(tmp_path / "run", tmp_path / "bundle")
    images = predict_dir / "cells" / "TestA"
    run, model = mae_jax.load(tmp_path / "run"), mae_jax.load(tmp_path / "bundle")
    np.testing.assert_array_equal(model.predict(images).probabilities, run.predict(images).probabilities)
