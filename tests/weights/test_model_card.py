"""The origin of the initial weights and its license in a model card."""

import json

import pytest

from mae_jax.config.fields import RunConfig
from mae_jax.rundir import contents
from mae_jax.weights.model_card import initial_weights


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
