"""The tasks lbfgs and knn: features that name the class give perfect scores, and each is computed once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.config.unused import used
from mae_jax.config.validation import validate
from mae_jax.data import splits
from mae_jax.data.splits import DataCache
from mae_jax.evaluation import feature_files, probes
from mae_jax.models.params import digest
from mae_jax.predict import loading
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.progress import Progress
from mae_jax.step import sharding
from mae_jax.train import loop, probe

PARAMS = {"encoder": {"kernel": jnp.arange(6, dtype=jnp.float32).reshape(2, 3)}}


@pytest.fixture
def computed(monkeypatch):
    """Features are the class in one-hot form. Returns the numbers of the images whose features were computed."""
    seen = []

    def predictor(config, spec):
        def predict(params, source, indices, step):
            assert params is PARAMS
            seen.append((len(source), indices.tolist()))
            return {"features": np.eye(5, dtype=np.float32)[source.labels[indices]]}

        return predict

    monkeypatch.setattr(probe, "predictor", predictor)
    return seen


@pytest.mark.parametrize(("task", "kind"), [("lbfgs", probes.Logistic), ("knn", probes.Neighbours)])
def test_features_that_name_the_class_classify_every_image(tiny_config, tmp_path, computed, task, kind):
    config = validate(tiny_config(task, **{"probe.neighbours": (1, 2)}))
    built = probe.probe(config, sharding.make_mesh(1), None, None)
    assert (built.resolved.steps, built.resolved.warmup_steps) == (0, 0) and list(built.evaluate({}, 0, tmp_path)) == []
    results = built.finish(PARAMS, 0, tmp_path)
    assert results["accuracy"] == results["f1"] == 1 and results["chosen"]["val_accuracy"] == 1
    assert (results["n"], results["n_train"]) == (23, len(built.indices[0]))
    pairs = [index for n, indices in computed for index in [(n, i) for i in indices]]
    assert len(pairs) == len(set(pairs))  # no feature twice
    classifier, encoder = probes.load(tmp_path / contents.PROBE, "x", 5)
    assert isinstance(classifier, kind) and encoder == digest(jax.tree.map(np.asarray, PARAMS["encoder"]))


def test_runs_that_share_a_cache_share_features_of_one_encoder_alone(tiny_config, tmp_path, computed):
    cache = DataCache()

    def run(name, task="knn", **fields):
        computed.clear()
        config = validate(tiny_config(task, **{"probe.neighbours": (1,)} | fields))
        probe.probe(config, sharding.make_mesh(1), None, cache).finish(PARAMS, 0, tmp_path / name)
        return len(computed)

    assert run("a") > 0
    assert run("b", "lbfgs") == run("c", **{"data.fraction": 0.5}) == 0
    assert run("d", seed=1) > 0  # other random weights
    assert run("e", **{"data.mean": (0.1, 0.1, 0.1)}) > 0  # other inputs


def test_a_cross_validation_needs_no_features_of_validation_images(tiny_config, tmp_path, computed):
    config = validate(tiny_config("lbfgs", **{"probe.folds": 2, "data.val_fraction": 0.0}))
    built = probe.probe(config, sharding.make_mesh(1), None, None)
    results = built.finish(PARAMS, 0, tmp_path)
    assert results["accuracy"] == 1 and not (tmp_path / contents.VALIDATION).exists()
    assert [len(indices) for _, indices in computed] == [len(built.indices[0]), 23]


def features_of(source, file, change=lambda x: x):
    """A file of features for the images of several sources, in one-hot form."""
    names = [name for each in source for name in each.names]
    labels = np.concatenate([each.labels for each in source])
    np.savez(file, names=np.array(names), features=change(np.eye(5, dtype=np.float32)[labels]))
    return str(file)


@pytest.mark.parametrize("task", ["lbfgs", "knn"])
def test_features_from_a_file_need_no_network(tiny_config, tmp_path, task):
    data = splits.labeled(validate(tiny_config(task)).data)
    file = features_of([data.train, data.test], tmp_path / "bloom.npz")
    (tmp_path / "bloom.npz.json").write_text('{"seen": ["Synthetic cells"]}')
    fields = {"init": "features", "init_from": file, "init_name": "bloom", "probe.neighbours": (1,)}
    lines = []
    progress = Progress(0.0)
    progress.say = lines.append
    results = loop.run(validate(tiny_config(task, **fields)), tmp_path / "run", progress)
    assert results["accuracy"] == 1 and results["n"] == 23
    info = contents.read_json(tmp_path / "run" / contents.RUN)
    assert (info["init"], info["seen"], info["seen_tests"]) == (
        "bloom", ["Synthetic cells"], {"TestA": ["Synthetic cells"]}
    )  # fmt: skip
    text = "\n".join(lines)
    assert f"no steps: features of {file}" in text and "parameters" not in text
    assert "warning: the encoder may have been trained on images of TestA: its data are Synthetic cells" in text
    assert not (tmp_path / "run" / "parameters.txt").exists()
    with pytest.raises(UserError, match="RUN_DIR=.* classifies features of .*bloom.npz, and has no network"):
        loading.of_run(tmp_path / "run")


def test_runs_that_share_a_cache_read_a_file_once(tiny_config, tmp_path, monkeypatch):
    data, cache, asked = splits.labeled(validate(tiny_config("knn")).data), DataCache(), []
    file = features_of([data.train, data.test], tmp_path / "x.npz")
    read = feature_files.read
    monkeypatch.setattr(feature_files, "read", lambda *rest: asked.append(rest) or read(*rest))
    for number, task in enumerate(("knn", "lbfgs")):
        config = validate(tiny_config(task, init="features", init_from=file))
        probe.probe(config, sharding.make_mesh(1), None, cache).finish({}, 0, tmp_path / str(number))
    assert asked == [(file, "init_from")]


def test_a_file_that_lacks_a_test_image_is_refused_before_anything_is_fitted(tiny_config, tmp_path):
    data = splits.labeled(validate(tiny_config("knn")).data)
    file = features_of([data.train], tmp_path / "x.npz")
    config = validate(tiny_config("knn", init="features", init_from=file))
    with pytest.raises(UserError, match="has no features of 23 of 83 images: "):
        probe.probe(config, sharding.make_mesh(1), None, None)


@pytest.mark.parametrize("task", ["finetune", "linear_probe", "pretrain"])
def test_what_trains_a_network_takes_no_features_from_a_file(tiny_config, task):
    with pytest.raises(UserError, match=f"init=features has no network to train, so task={task} is not possible; use "):
        validate(tiny_config(task, init="features", init_from="x.npz"))


@pytest.mark.parametrize("init", ["histogram", "nucleus"])
def test_features_that_need_no_network_are_classified(tiny_config, tmp_path, init):
    cache = DataCache()
    for task in ("lbfgs", "knn"):
        fields = {"init": init, "data.synthetic_size": 64, "data.synthetic_train": 200, "data.synthetic_test": 100}
        config = validate(tiny_config(task, **fields))
        assert not any(key.startswith("model.") for key in used(config))
        results = probe.probe(config, sharding.make_mesh(1), None, cache).finish({}, 0, tmp_path / task)
        assert results["n"] == 100 and results["chosen"]["val_accuracy"] > 0
        # Generated cells differ in their nuclei and not in their colors.
        assert init == "histogram" or results["accuracy"] > results["majority_rate"] + 0.05
    with pytest.raises(UserError, match=f"init={init} has no network to train"):
        validate(tiny_config("finetune", init=init))
