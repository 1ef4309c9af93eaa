"""Loading a run, a bundle or weights: which model it is, and its temperature."""

import csv

import jax
import numpy as np
import pytest

import mae_jax
from mae_jax.config.validation import validate
from mae_jax.predict import loading
from mae_jax.rundir import contents
from mae_jax.rundir.predictions import write_predictions
from mae_jax.runtime.errors import UserError
from mae_jax.step import from_config
from mae_jax.step.objectives.classification import Classification

CLASSES = ("Eosinophil", "Lymphocyte")


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_calibrated_probabilities_have_the_lowest_loss_on_validation_images(predict_dir):
    model = mae_jax.load(predict_dir / "finetune")
    rows = rows_of(predict_dir / "finetune" / contents.VALIDATION)
    result = model.predict([predict_dir / "cells" / row["image"] for row in rows])
    labels = [CLASSES.index(row["label"]) for row in rows]

    def loss(temperature):
        logits = np.log(result.probabilities.astype(np.float64)) / temperature
        return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels])

    best = model.temperature
    assert loss(best) <= min(loss(best * 1.01), loss(best / 1.01), loss(1.0))
    log_likelihood = np.log(result.calibrated[np.arange(len(labels)), labels]).mean()
    np.testing.assert_allclose(-log_likelihood, loss(best), rtol=1e-6)


@pytest.mark.slow
def test_remote_addresses_are_refused_and_the_home_directory_is_expanded(predict_dir, monkeypatch, tmp_path):
    for place in ("s3://bucket/run", "gs://bucket/run"):
        with pytest.raises(UserError, match=r"load=\w+://bucket/run: \w+:// addresses are neither read nor written"):
            mae_jax.load(place)
    monkeypatch.setenv("HOME", str(predict_dir))
    assert mae_jax.load("~/knn").origin == str(predict_dir / "knn")


def test_a_temperature_is_that_of_the_validation_predictions(tmp_path):
    assert loading.temperature_of(tmp_path, CLASSES) is None
    p = np.array([[0.99, 0.01], [0.99, 0.01], [0.01, 0.99], [0.01, 0.99]])
    labels = np.array([0, 1, 1, 1])
    write_predictions(tmp_path / contents.VALIDATION, list("abcd"), [""] * 4, labels, p, CLASSES)
    # three answers in four are right, so the best odds are 3 to 1 in place of 99 to 1
    assert loading.temperature_of(tmp_path, CLASSES) == pytest.approx(np.log(99) / np.log(3), rel=1e-3)
    assert loading.temperature_of(tmp_path, ()) is None  # an encoder
    (tmp_path / contents.VALIDATION).write_text("image,label,prediction,confidence\na,Eosinophil,Eosinophil,0.9\n")
    assert loading.temperature_of(tmp_path, CLASSES) is None  # without probabilities
    with pytest.raises(UserError, match="'Eosinophil'"):
        loading.temperature_of(tmp_path, ("a", "b"))


@pytest.mark.parametrize(("norm", "pool"), [("norm", "cls"), ("fc_norm", "mean")])
def test_an_encoder_is_wrapped_as_a_classifier_with_its_own_norm(tiny_config, norm, pool):
    config = validate(tiny_config("pretrain"))
    spec = loading.spec_of(config, from_config.shape_of(config))
    assert (spec.objective, spec.mesh.size) == (Classification(), len(jax.devices()))
    encoder = {"x": 1} | ({"norm": 2} if norm == "norm" else {})
    params = {"encoder": encoder, "decoder": {"y": 3}} | ({"fc_norm": 4} if norm == "fc_norm" else {})
    wrapped, kept = loading._encoder(spec, params)
    assert (wrapped.shape.pool, wrapped.shape.n_classes, wrapped.shape.decoder_depth) == (pool, 1, 0)
    assert set(kept) == {"encoder", "head"} | ({"fc_norm"} if norm == "fc_norm" else set())
    assert kept["head"]["kernel"].shape == (16, 1)
