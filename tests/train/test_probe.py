"""The tasks lbfgs and knn: features that name the class give perfect scores, and each is computed once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.config.validation import validate
from mae_jax.data.splits import DataCache
from mae_jax.evaluation import probes
from mae_jax.models.params import digest
from mae_jax.rundir import contents
from mae_jax.step import sharding
from mae_jax.train import probe

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
    assert (built.resolved.steps, built.resolved.warmup_steps) == (0, 0) and list(built.evaluate({})) == []
    results = built.finish(PARAMS, tmp_path)
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
        probe.probe(config, sharding.make_mesh(1), None, cache).finish(PARAMS, tmp_path / name)
        return len(computed)

    assert run("a") > 0
    assert run("b", "lbfgs") == run("c", **{"data.fraction": 0.5}) == 0
    assert run("d", seed=1) > 0  # other random weights
    assert run("e", **{"data.mean": (0.1, 0.1, 0.1)}) > 0  # other inputs


def test_a_cross_validation_needs_no_features_of_validation_images(tiny_config, tmp_path, computed):
    config = validate(tiny_config("lbfgs", **{"probe.folds": 2, "data.val_fraction": 0.0}))
    built = probe.probe(config, sharding.make_mesh(1), None, None)
    results = built.finish(PARAMS, tmp_path)
    assert results["accuracy"] == 1 and not (tmp_path / contents.VALIDATION).exists()
    assert [len(indices) for _, indices in computed] == [len(built.indices[0]), 23]
