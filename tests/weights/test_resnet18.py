"""ResNet-18s of torchvision, timm and transformers. `tests/golden/make.py resnet` made the reference."""

import argparse
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mae_jax import models
from mae_jax.commands import convert
from mae_jax.models.params import map_paths
from mae_jax.runtime.errors import UserError
from mae_jax.weights import reader, resnet18, transfer
from tests.golden import drawing

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED = dict(np.load(GOLDEN / "resnet18.npz"))
KEYS = json.loads(str(EXPECTED["keys"]))
SIZES = [65, pytest.param(96, marks=pytest.mark.slow), pytest.param(224, marks=pytest.mark.slow)]


def arrays_of(name):
    return {key: drawing.resnet_array(key, tuple(shape)) for key, shape in KEYS[name].items()}


@pytest.fixture(scope="module")
def torchvision_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("torchvision") / "resnet18.safetensors"
    save_file(arrays_of("torchvision"), path)
    return path


def close(ours, theirs):
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("size", SIZES)
def test_features_and_logits_are_those_of_torchvision_and_timm(torchvision_file, size):
    weights = reader.read(torchvision_file)
    features = jax.jit(models.pooled, static_argnums=0)(weights.shape, weights.params, drawing.images(size))
    close(features, EXPECTED[f"timm/{size}"])
    close(models.head(weights.shape, weights.params, features), EXPECTED[f"torchvision/{size}"])
    assert weights.notes == (
        "no file states the images' mean and standard deviation; ImageNet's is assumed, or set data.mean and data.std",
    )


@pytest.mark.parametrize("size", SIZES)
def test_logits_are_those_of_transformers(tmp_path, size):
    save_file(arrays_of("hf"), tmp_path / "model.safetensors")
    about = {"model_type": "resnet", "layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_act": "relu"}
    about |= {"downsample_in_first_stage": False, "id2label": {"0": "a", "1": "b", "2": "c"}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.2] * 3}))
    weights = reader.read(tmp_path)
    assert (weights.notes, weights.mean, weights.std) == ((), (0.5,) * 3, (0.2,) * 3)
    assert weights.classes == ("a", "b", "c")
    logits = jax.jit(models.apply, static_argnums=(0, 1))("vit", weights.shape, weights.params, drawing.images(size))
    close(logits, EXPECTED[f"hf/{size}"])


def test_each_parameter_has_a_key_of_torchvision():
    shape = resnet18.shape_of(3, "frozen_batch")
    like = jax.eval_shape(lambda: models.init("vit", shape, jax.random.key(0)))
    keys = []
    map_paths(lambda path, _: keys.append(resnet18.key_of(path)), like)
    assert sorted(keys) == sorted(key for key in KEYS["torchvision"] if not key.endswith("num_batches_tracked"))
    assert resnet18.canonical("resnet.encoder.stages.1.layers.0.shortcut.normalization.running_var") == (
        "layer2.0.downsample.1.running_var"
    )
    assert {resnet18.canonical(key) for key in KEYS["hf"]} == set(KEYS["torchvision"])


def test_a_network_in_a_container_is_read_and_a_projection_is_left_out(tmp_path):
    arrays = {f"module.encoder_q.{key}": value for key, value in arrays_of("torchvision").items() if "fc." not in key}
    head = {"module.encoder_q.fc.0.weight": np.ones((9, 512), np.float32)}
    other = {key.replace("encoder_q", "encoder_k"): value + 1 for key, value in arrays.items()}
    path = tmp_path / "moco.safetensors"
    save_file(arrays | head | {key: value for key, value in other.items() if value.dtype == np.float32}, path)
    weights = reader.read(path)
    np.testing.assert_array_equal(
        weights.params["encoder"]["stem_norm"]["mean"], arrays["module.encoder_q.bn1.running_mean"]
    )
    assert "head" not in weights.params and weights.shape.n_classes == 0
    assert any("the head 'fc' (1 key) is not a linear layer on the features; it is ignored" in n for n in weights.notes)
    assert any("the one under 'module.encoder_q.' is used" in note for note in weights.notes)


def test_the_head_and_the_image_size_of_a_run_are_its_own(torchvision_file):
    weights = reader.read(torchvision_file)
    shape = resnet18.shape_of(5, "frozen_batch")
    fresh = models.init("vit", shape, jax.random.key(1))
    params, notes = transfer.transfer(fresh, shape, weights)
    assert notes == [] and params["head"]["kernel"].shape == (512, 5)
    jax.tree.map(np.testing.assert_array_equal, params["head"], fresh["head"])
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], weights.params["encoder"])
    with pytest.raises(
        UserError, match=r"norm is group in the config and frozen_batch in the weights\. Use these field"
    ):
        transfer.compare(resnet18.shape_of(5, "group"), weights)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"architecture": "resnet18d"}, "is not a plain ResNet-18: timm's resnet18d; use torchvision's or timm's"),
        ({"architecture": "resnet18", "model_args": {"aa_layer": "avg"}}, "its model_args.aa_layer is 'avg'"),
        ({"model_type": "resnet", "downsample_in_first_stage": True}, "its downsample_in_first_stage is True"),
        ({"hidden_act": "gelu"}, "its hidden_act is 'gelu'"),
    ],
)
def test_other_resnets_with_its_keys_are_refused(about, message):
    with pytest.raises(UserError, match=message):
        resnet18.refuse_config(about, "init: x")
    for name in ("resnet18", "resnet18.a1_in1k", "gluon_resnet18_v1b", "swsl_resnet18"):
        resnet18.refuse_config({"architecture": name, "num_classes": 1000}, "init: x")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("layer1.2.conv1.weight", "a deeper ResNet, such as ResNet-34"),
        ("layer1.0.conv3.weight", "a ResNet with bottlenecks, such as ResNet-50"),
        ("conv1.0.weight", "a ResNet with a deep stem, such as timm's resnet18d"),
        ("attnpool.q_proj.weight", "a ResNet with attention pooling, such as CLIP's"),
    ],
)
def test_other_resnets_are_refused_by_their_keys(tmp_path, key, words):
    save_file(
        {"layer1.0.conv1.weight": np.ones((1, 1), np.float32), key: np.ones(1, np.float32)}, tmp_path / "x.safetensors"
    )
    with pytest.raises(
        UserError, match=f"is not a plain ResNet-18: it is {words}; use torchvision's or timm's resnet18"
    ):
        reader.read(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        ("bn1.running_var", -np.ones(64, np.float32), r"1 unusable \(bn1.running_var has negative variances\)"),
        ("bn1.running_mean", None, r"1 missing \(bn1.running_mean\)"),
        (
            "conv1.weight",
            np.ones((64, 1, 7, 7), np.float32),
            r"conv1.weight \(64, 1, 7, 7\) instead",
        ),
        ("fc.bias", np.ones((), np.float32), ""),
    ],
)
def test_damaged_files_are_refused_and_a_damaged_head_is_left_out(tmp_path, key, array, message):
    arrays = arrays_of("torchvision") | {key: array}
    save_file({name: value for name, value in arrays.items() if value is not None}, tmp_path / "x.safetensors")
    if not message:
        assert any("the head 'fc' (2 keys) is not a linear" in n for n in reader.read(tmp_path / "x.safetensors").notes)
        return
    with pytest.raises(UserError, match=message):
        reader.read(tmp_path / "x.safetensors")


def test_an_imported_file_is_the_same_network(torchvision_file, tmp_path, capsys):
    out = tmp_path / "out"
    options = argparse.Namespace(command="import", source=torchvision_file, out=out, heads=None, leave="")
    convert.import_weights(options)
    assert "network: resnet18 with frozen batch norm, 224 px" in capsys.readouterr().out
    one, two = reader.read(torchvision_file), reader.read(out)
    assert one.shape == two.shape and one.fields() == two.fields()
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
    assert "encoder/stem/kernel" in load_file(out / "model.safetensors")
