"""The model card: what it says of a run, in the words of its files, and names that cannot
break its Markdown; the origin of the initial weights and its license."""

import json

import numpy as np
import pytest

from mae_jax.config.fields import RunConfig
from mae_jax.config.validation import validate
from mae_jax.models.vit import ViTConfig
from mae_jax.rundir import contents
from mae_jax.rundir.predictions import write_predictions
from mae_jax.weights.model_card import initial_weights, model_card
from mae_jax.weights.reader import Weights

CLASSES = ("a", "b")


@pytest.fixture
def classifier(tmp_path):
    """The files of a run that is right for 3 of 4 images, and its network."""
    info = {
        "classes": list(CLASSES),
        "data_name": "my_cells",
        "n_train": 80,
        "fraction": 0.1,
        "epochs": 1.0,
        "steps": 7,
    }
    stain = {"train": "normalized by reinhard to a.jpg", "test": ""}
    contents.write_json(tmp_path / contents.RUN, info | {"commit": "abc", "stain": stain})
    row = {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "n": 2}
    scores = {"accuracy": 0.75, "f1": 0.7, "collapsed": False, "majority_rate": 0.5, "n": 4}
    contents.write_json(tmp_path / contents.RESULTS, scores | {"per_class": {"a": row, "b": row}})
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    write_predictions(tmp_path / contents.PREDICTIONS, list("wxyz"), [""] * 4, np.array([0, 0, 1, 1]), p, CLASSES)
    return tmp_path, Weights({}, ViTConfig(16, 8, 32, 3, 4, n_classes=2), "vit", "here", classes=CLASSES)


def test_a_card_says_what_the_network_is_and_how_it_was_trained(classifier, tiny_config):
    run_dir, network = classifier
    config = validate(tiny_config(**{"train.label_smoothing": 0.1, "train.blocks": 1, "optim.layer_decay": 0.75}))
    card = model_card(run_dir, network, config, "hf", ["a note of the export"])
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: image-classification\n")
    for text in (
        "# Image classifier with 2 classes",
        "This ViT has 32 features, 3 blocks, 4 heads and patches of 8 pixels.",
        "- Source: my\\_cells",
        "- Training images: 80 with labels (10 % of the training set)",
        "- Stain of the images (train): normalized by reinhard to a.jpg; new images need the same",
        "that of test is not normalized",
        "- Initial weights: random weights",
        "- 1 epoch, 7 updates; seed 0",
        "layer decay 0.75",
        "- Trained parameters: the last block, the final norm and the head",
        "label smoothing 0.1",
        "- Weights: those of the last epoch",
        "Measured on 4 ",
        "code commit: abc",
        "- A note of the export.",
        "must not be used for diagnosis",
    ):
        assert text in card, text
    accuracy = next(line for line in card.splitlines() if line.startswith("| accuracy") or "ccuracy |" in line)
    assert "| 0.750 |" in accuracy


def test_names_and_doubts_are_plain_text(classifier, tiny_config):
    run_dir, network = classifier
    info = contents.read_json(run_dir / contents.RUN)
    doubts = {"data_warnings": ["\x1b[2Jevery *day* has one class"], "data_name": "<b>|x"}
    contents.write_json(run_dir / contents.RUN, info | doubts)
    results = contents.read_json(run_dir / contents.RESULTS)
    contents.write_json(run_dir / contents.RESULTS, results | {"collapsed": True})
    card = model_card(run_dir, network, validate(tiny_config()), "timm", [])
    assert "\x1b" not in card and "**Warning:** \\[2Jevery \\*day\\* has one class." in card
    assert "- Source: &lt;b&gt;\\|x (generated images: scores say nothing about real ones)" in card
    assert "**It predicts the same class for every test image, so its predictions are useless.**" in card


def test_a_card_of_an_autoencoder_has_its_errors_or_says_why_not(tiny_config, tmp_path):
    contents.write_json(tmp_path / contents.RUN, {"n_train": 40})
    contents.write_json(tmp_path / contents.RESULTS, {"val/loss": 0.5, "val/visible_loss": 0.25})
    shape = ViTConfig(16, 8, 32, 3, 4, decoder_width=8, decoder_depth=1, decoder_heads=2)
    config = validate(tiny_config("pretrain", **{"mae.mask_ratio": 0.5}))
    card = model_card(tmp_path, Weights({}, shape, "mae", "here"), config, "mae_jax", [])
    assert "# Masked autoencoder" in card and "pipeline_tag: image-feature-extraction" in card
    assert "| removed patches | 0.5000 |" in card and "| visible patches | 0.2500 |" in card
    assert "- 50 % of the patches removed; the loss is on pixels normalized within each patch" in card
    assert "It does not classify images." in card and "model.predict" not in card and "model.embed" in card
    contents.write_json(tmp_path / contents.RESULTS, {"n_train": 40})
    none = model_card(tmp_path, Weights({}, shape, "mae", "here"), config, "mae_jax", [])
    assert "No images were held out, so no error was measured." in none


def folder(top, name: str, **files: str):
    (top / name).mkdir()
    for file, text in files.items():
        (top / name / file.replace("_json", ".json").replace("_md", ".md")).write_text(text)
    return top / name


def of(place, init: str = "weights") -> str:
    return initial_weights(RunConfig(init=init, init_from=str(place)))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"README_md": "---\nlibrary_name: timm\nlicense: cc-by-nc-4.0\n---\n# UNI"}, "license cc-by-nc-4.0"),
        ({"README_md": "---\nlicense_name: 'meta license'\n---"}, "license meta license"),
        ({"config_json": '{"license": "apache-2.0"}'}, "license apache-2.0"),
        ({"config_json": '{"pretrained_cfg": {"license": "mit"}}'}, "license mit"),
        ({"LICENSE_md": "terms", "README_md": "# no terms here"}, "license in its file LICENSE.md"),
        ({"README_md": "# An encoder"}, "its license is not known"),
        ({"config_json": "[1]"}, "its license is not known"),
        ({"config_json": '{"pretrained_cfg": 3}'}, "its license is not known"),
        ({}, "its license is not known"),
    ],
)
def test_the_license_of_weights_is_named_or_not_known(tmp_path, files, words):
    place = folder(tmp_path, "uni", **files)
    assert of(place) == f"weights of other code, uni ({words})"
    (place / "model.safetensors").write_bytes(b"")
    assert of(place / "model.safetensors") == f"weights of other code, model.safetensors ({words})"


def run(top, name: str, init: str = "scratch", init_from: str = "", data: str = "cells", task="pretrain"):
    config = json.dumps({"config": {"task": task, "init": init, "init_from": init_from}})
    return folder(top, name, config_json=config, run_json=json.dumps({"data_name": data}))


def test_the_license_stays_known_through_further_pre_training(tmp_path):
    """A classifier from a pre-training that began with published weights names these weights, too."""
    published = folder(tmp_path, "uni", README_md="license: cc-by-nc-4.0")
    second = run(tmp_path, "second", "mae", str(run(tmp_path, "first", "weights", str(published), "slides")))
    assert of(second, "mae") == (
        "the encoder of a masked autoencoder, second (trained by mae_jax on cells), which began with the encoder of a "
        "masked autoencoder, first (trained by mae_jax on slides), which began with weights of other code, uni "
        "(license cc-by-nc-4.0)"
    )
    (second / contents.CONFIG).unlink()
    assert of(second, "mae").endswith("which began with weights that are not known")


def test_runs_from_scratch_and_circles_end(tmp_path):
    assert initial_weights(RunConfig()) == "random weights"
    first = run(tmp_path, "first")
    assert of(first, "mae") == "the encoder of a masked autoencoder, first (trained by mae_jax on cells)"
    circle = run(tmp_path, "circle", "mae", str(tmp_path / "circle"))
    assert of(circle, "mae").count("circle") == 2
    assert of(tmp_path / "gone", "mae") == (
        "the encoder of a masked autoencoder, gone (its training data are not known), which began with weights that "
        "are not known"
    )
    finetuned = run(tmp_path, "finetuned", task="finetune")
    assert of(finetuned, "mae") == "the encoder of a fine-tuned network, finetuned (trained by mae_jax on cells)"


def test_a_bundle_names_what_it_began_with(tmp_path):
    about = {contents.BUNDLE: 1, "initial_weights": "weights of other code, uni (license cc-by-nc-4.0)"}
    bundle = folder(tmp_path, "bundle", config_json=json.dumps(about))
    assert of(bundle) == (
        "weights of other code, bundle (a bundle of mae_jax), which began with weights of other code, uni (license "
        "cc-by-nc-4.0)"
    )
    (bundle / contents.CONFIG).write_text(json.dumps({contents.BUNDLE: 1}))
    assert of(bundle).endswith("which began with weights that are not known")
