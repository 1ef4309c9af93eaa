"""What a classifier writes at its end: scores and predictions of the right images, from given probabilities."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from mae_jax import models
from mae_jax.config.validation import validate
from mae_jax.data import sources, splits
from mae_jax.data.labeled_sets import LabeledSets
from mae_jax.evaluation import inspect_run
from mae_jax.models.params import map_paths
from mae_jax.predict import exporting, loading
from mae_jax.rundir import contents
from mae_jax.rundir.predictions import read_predictions
from mae_jax.runtime.errors import UserError
from mae_jax.step import sharding
from mae_jax.train import finetune, loop
from mae_jax.weights import encoder_fields, own_run, resnet18


@pytest.fixture
def data():
    """Training and validation images, a test set that lacks a class and shares images with training, another set."""
    train, test, other = (sources.synthetic(split, 40, 16, 0) for split in ("Train", "TestA", "other"))
    test = sources.take(test, np.flatnonzero(test.labels != test.labels.max()))
    index = np.random.default_rng(0).permutation(40)
    return splits.Labeled(
        train=train, test=test, train_idx=np.sort(index[:25]), val_idx=np.sort(index[25:]), subset={},
        external={"clinic": other}, leaks={"TestA": {"images": list(test.names[:9])}},
        sets=LabeledSets(train, test, None, "Train", "TestA"), groups={}, repeated={}, warnings=(),
    )  # fmt: skip


def macro(labels, predicted):
    """Precision, recall and F1 over the classes that occur in the labels, one class after another."""
    collected = []
    for label in sorted(set(labels.tolist())):
        hits = int(((labels == label) & (predicted == label)).sum())
        precision = hits / max(1, int((predicted == label).sum()))
        recall = hits / int((labels == label).sum())
        collected.append((precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0))
    return np.mean(collected, axis=0)


def test_results_are_of_the_test_images_and_macro_scores_of_their_classes(data, tmp_path):
    rng, classes = np.random.default_rng(1), data.train.classes
    tables = {}
    for source in (data.train, data.test, data.external["clinic"]):
        helped = np.eye(len(classes))[source.labels] * rng.random((len(source), 1)) * 3  # better than chance
        tables[source.fingerprint] = rng.dirichlet(np.ones(len(classes)), len(source)) + helped
        tables[source.fingerprint] /= tables[source.fingerprint].sum(1, keepdims=True)
    result = finetune.write_predictions_and_score(data, lambda s, i: tables[s.fingerprint][i], tmp_path)

    labels, p = data.test.labels, tables[data.test.fingerprint]
    predicted = p.argmax(1)
    assert len(set(labels)) < len(set(predicted)) == len(classes)  # a class is predicted that no test image has
    assert [result[name] for name in ("precision", "recall", "f1")] == pytest.approx(macro(labels, predicted))
    assert result["balanced_accuracy"] == result["recall"] and result["accuracy"] == (labels == predicted).mean()
    assert [result[name] for name in ("n_train", "n_validation", "n_test", "n")] == [25, 15, len(labels), len(labels)]
    unseen = result["without_leaked"]
    assert (unseen["leaked"], unseen["n"]) == (9, len(labels) - 9)
    assert unseen["accuracy"] == (labels == predicted)[9:].mean()
    assert unseen["f1"] == pytest.approx(macro(labels[9:], predicted[9:])[2])
    clinic = data.external["clinic"]
    right = tables[clinic.fingerprint].argmax(1) == clinic.labels
    assert result["external"]["clinic"]["accuracy"] == right.mean() and "without_leaked" not in result["external"]

    for file, source, index in (
        (contents.PREDICTIONS, data.test, np.arange(len(labels))),
        (contents.VALIDATION, data.train, data.val_idx),
        (f"external/clinic/{contents.PREDICTIONS}", clinic, np.arange(40)),
    ):
        written, _ = read_predictions(tmp_path / file, classes)
        order = sorted(index.tolist(), key=lambda i: source.names[i])
        assert written.images == tuple(source.names[i] for i in order)
        np.testing.assert_array_equal(written.labels, source.labels[order])
        np.testing.assert_allclose(written.probabilities, tables[source.fingerprint][order], atol=1e-8)
        np.testing.assert_array_equal(written.predictions, tables[source.fingerprint][order].argmax(1))
    pictures = {
        path.relative_to(tmp_path / "thumbnails").as_posix() for path in (tmp_path / "thumbnails").rglob("*.jpg")
    }
    wrong = sorted(np.flatnonzero(labels != predicted).tolist(), key=lambda i: -p[i].max())[:12]
    assert pictures == {f"{data.test.names[i]}.jpg" for i in wrong}


def scheduled(tiny_config, data, **fields):
    return finetune.resolve_finetune(validate(tiny_config(**fields)), data, 1)


def test_steps_follow_from_the_labels_or_from_those_that_are_matched(tiny_config):
    labeled = splits.labeled(validate(tiny_config(**{"data.fraction": 0.5})).data)
    n = len(labeled.train_idx)
    plain = scheduled(tiny_config, labeled, **{"data.fraction": 0.5})
    assert (plain.n_train, plain.steps) == (n, 2 * -(-n // 16))
    matched = scheduled(tiny_config, labeled, **{"data.fraction": 0.5, "train.match_fraction": 1.0})
    pool = sum(labeled.subset["train"].values())
    assert (matched.n_train, matched.steps) == (n, 2 * -(-pool // 16)) and pool > n


def test_the_best_epoch_needs_validation_images(tiny_config):
    labeled = splits.labeled(validate(tiny_config()).data)
    none = dataclasses.replace(labeled, val_idx=labeled.val_idx[:0])
    with pytest.raises(UserError, match="train.select=accuracy needs validation images, but no class has an image"):
        scheduled(tiny_config, none, **{"train.select": "accuracy"})
    assert scheduled(tiny_config, none).n_train == len(labeled.train_idx)


def test_a_run_says_what_its_images_are_and_what_its_test_sets_share_with_training(tiny_config):
    config = validate(tiny_config(**{"data.external": "TestB"}))
    labeled = splits.labeled(config.data)
    none = dict.fromkeys(("groups", "images_in_shared_groups", "near_identical"), 0)
    leaks = {"TestA": none | {"identical": 2, "shifted_searched": True}}
    labeled = dataclasses.replace(labeled, leaks=leaks, warnings=("one", "two"))
    about = finetune.describe_data(config, labeled, None)
    lines = about["about"]
    counts = labeled.subset["actual"]
    assert lines["classes"] == ", ".join(f"{name} {n}" for name, n in counts.items())
    n, v = len(labeled.train_idx), len(labeled.val_idx)
    assert lines["images"] == f"{n} for training (100 % of the labels), {v} for validation, 23 for test"
    assert lines["external test sets"] == "TestB 23" and lines["warning"] == ["one", "two"]
    shared = lines["warning: test images that may be known from training"]
    assert shared == "TestA has 2 byte-identical with training images; see run.json and mae-jax check"
    assert list(about["tests"]) == ["TestA", "TestB"] and about["facts"]["test_split"] == "TestA"
    assert about["facts"]["data_warnings"] == ["one", "two"] and about["seen_before"] == {}


def test_balanced_losses_weight_classes_by_their_inverse_frequency(tiny_config):
    task = finetune.finetune(validate(tiny_config(**{"train.balance": "loss"})), sharding.make_mesh(1), None, None)
    counts = np.array(list(task.subset["actual"].values()))
    weights = np.array(task.spec.objective.class_weights)
    np.testing.assert_allclose(weights * counts, (weights * counts)[0], rtol=1e-6)
    plain = finetune.finetune(validate(tiny_config()), sharding.make_mesh(1), None, None)
    assert plain.spec.objective.class_weights == ()


@pytest.mark.slow
def test_a_resnet_trains_predicts_and_is_exported_as_a_bundle(tiny_config, tmp_path):
    fields = {"model.family": "resnet18", "model.image_size": 32, "train.epochs": 1.0, "train.select": "macro_f1"}
    config = tiny_config("finetune", **fields)
    results = loop.run(config, tmp_path / "run")
    assert results["n"] == 23
    model = loading.load(tmp_path / "run")
    assert "resnet18 with group norm, 32 px" in repr(model) and model.embed(tiny_images()).shape == (9, 512)
    exporting.export(tmp_path / "run", tmp_path / "bundle", "mae_jax")
    again = loading.load(tmp_path / "bundle")
    one, two = (each.predict(tiny_images()).probabilities for each in (again, model))
    np.testing.assert_array_equal(one, two)
    assert "ResNet-18" in (tmp_path / "bundle" / "README.md").read_text()
    for form, out in (("hf", "hf"), ("timm", "timm"), ("onnx", "x.onnx")):
        with pytest.raises(UserError, match="model.family=resnet18, which is written as a bundle alone"):
            exporting.export(tmp_path / "run", tmp_path / out, form)
    with pytest.raises(UserError, match="model.family=resnet18 has no tokens and no attention"):
        inspect_run.run(tmp_path / "run")
    start = tiny_config("finetune", init="mae", init_from=str(tmp_path / "run"))
    with pytest.raises(UserError, match="holds another network: family is vit in the config and resnet18 in the weig"):
        loop.run(start, tmp_path / "later")


@pytest.mark.slow
def test_a_resnet_of_other_code_keeps_its_statistics_and_another_run_starts_from_it(tiny_config, tmp_path, capsys):
    rng = np.random.default_rng(0)
    like = jax.eval_shape(partial(models.init, "vit", resnet18.shape_of(7, "frozen_batch")), jax.random.key(0))
    arrays = {}
    map_paths(lambda path, leaf: arrays.setdefault(path, leaf), like)
    drawn = {key: rng.uniform(0.01, 0.05, leaf.shape).astype(np.float32) for key, leaf in arrays.items()}
    given = {key: value for key, value in drawn.items() if not key.startswith("head")}
    save_file(given, tmp_path / "weights.safetensors")
    fields = {"model.image_size": 32, "train.epochs": 1.0, "optim.weight_decay": 0.5}
    config = tiny_config("finetune", **fields)
    encoder_fields.start_from(config, str(tmp_path / "weights.safetensors"))
    loop.run(config, tmp_path / "run")
    weights, saved = own_run.load(tmp_path / "run")
    assert (saved.model.family, saved.model.norm, weights.shape.norm) == ("resnet18", "frozen_batch", "frozen_batch")
    trained = {}
    map_paths(lambda path, leaf: trained.setdefault(path, np.asarray(leaf)), weights.params)
    for key, value in given.items():
        assert np.array_equal(trained[key], value) == key.endswith(("/mean", "/variance")), key
    model = loading.load(tmp_path / "run")
    assert "resnet18 with frozen batch norm, 32 px" in repr(model)
    assert model.embed(tiny_images()).shape == (9, 512)
    assert len(model.predict(tiny_images()).predictions) == 9
    later = tiny_config("finetune", **fields)
    encoder_fields.start_from(later, str(tmp_path / "run"))
    assert (later.init, later.model.family, later.model.norm) == ("mae", "resnet18", "frozen_batch")
    loop.run(later, tmp_path / "later")
    assert f"initial weights from {tmp_path / 'run'}" in capsys.readouterr().out


def tiny_images():
    return np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
