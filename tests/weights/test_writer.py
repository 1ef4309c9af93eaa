"""Files for other code: which class computes a network, its settings, and its preprocessing."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from mae_jax import models
from mae_jax.models.vit import ViTConfig
from mae_jax.runtime.errors import UserError
from mae_jax.weights import reader, writer
from mae_jax.weights.reader import Weights

SHAPE = ViTConfig(16, 8, 16, 2, 2, n_classes=3)


def network(kind="vit", **fields):
    return Weights(
        {}, dataclasses.replace(SHAPE, **fields), kind, "here", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), ("a", "b", "c")
    )


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("vit", {}, ("vit", "ViTForImageClassification")),
        ("vit", {"n_classes": 0}, ("vit", "ViTModel")),
        ("vit", {"pool": "mean"}, ("beit", "BeitForImageClassification")),
        ("vit", {"registers": 4}, ("dinov2_with_registers", "Dinov2WithRegistersForImageClassification")),
        ("vit", {"layer_scale": 1e-5}, ("dinov2", "Dinov2ForImageClassification")),
        ("mae", {}, ("vit_mae", "ViTMAEForPreTraining")),
    ],
)
def test_transformers_class_of_a_network(kind, fields, expected):
    assert writer.hugging_face_class(network(kind, **fields)) == expected


def test_what_no_class_computes_is_refused_with_another_format():
    with pytest.raises(UserError, match="no ViT with registers and pool=mean, as here has; use --format timm or onnx"):
        writer.hugging_face_class(network(pool="mean", registers=2))
    with pytest.raises(UserError, match="takes a whole number for model.mlp_ratio, which is 2.5 in here"):
        writer.hugging_face_class(network(layer_scale=1e-5, mlp_ratio=2.5))
    with pytest.raises(UserError, match="timm has no head for pool=both"):
        writer._timm(network(pool="both"))


def test_settings_of_timm_are_those_of_the_network():
    result = writer._timm(network(registers=2, layer_scale=0.1, pool="mean"))
    assert (result["num_classes"], result["global_pool"], result["label_names"]) == (3, "avg", ["a", "b", "c"])
    assert result["model_args"] == {
        "img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 4.0,
        "global_pool": "avg", "reg_tokens": 2, "no_embed_class": True, "init_values": 0.1,
    }  # fmt: skip
    about = result["pretrained_cfg"]
    assert (about["mean"], about["std"], about["crop_pct"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], 1.0)
    assert writer._timm(network("mae"))["num_classes"] == 0


def test_images_are_prepared_as_in_evaluation():
    result = writer._preprocessor(network())
    assert result["size"] == {"shortest_edge": 16} and result["crop_size"] == {"height": 16, "width": 16}
    assert (result["resample"], result["image_mean"], result["image_std"]) == (3, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert result["rescale_factor"] == pytest.approx(1 / 255) and all(
        result[name] for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
    )


def test_a_network_in_our_own_names_is_read_again_as_it_was(tmp_path):
    like = jax.eval_shape(lambda key: models.init("vit", SHAPE, key), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), like)
    given = dataclasses.replace(network(), params=params)
    assert writer.write(given, tmp_path, "own") == []
    assert json.loads((tmp_path / "config.json").read_text()).keys() == {"mae_jax"}
    assert "head/kernel" in load_file(tmp_path / "model.safetensors")
    result = reader.read(tmp_path)
    assert (result.classes, result.mean, result.std) == (given.classes, given.mean, given.std)
    jax.tree.map(np.testing.assert_array_equal, result.params, params)
