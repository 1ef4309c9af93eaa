"""Each published encoder at reduced width against timm or transformers. `tests/golden/make.py encoders` made these."""

import dataclasses
import json
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mae_jax import models
from mae_jax.runtime.errors import UserError
from mae_jax.weights import reader, transfer
from mae_jax.weights.encoders import ENCODERS, TOWERS, table
from mae_jax.weights.writer import write
from tests.golden import drawing

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED = dict(np.load(GOLDEN / "encoders.npz"))
KEYS = json.loads(str(EXPECTED["keys"]))
apply = jax.jit(models.apply, static_argnums=(0, 1))
_FACEBOOK = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.mask_token", "mask_token"),
    (r"embeddings\.register_tokens", "register_tokens"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"(?:model\.|encoder\.)?layers?\.(\d+)\.", r"blocks.0.\1."),  # in chunks
    (r"attention\.qkv", "attn.qkv"),
    (r"attention\.o_proj", "attn.proj"),
    (r"layer_scale([12])\.lambda1", r"ls\1.gamma"),
    (r"mlp\.weights_in", "mlp.w12"),
    (r"mlp\.weights_out", "mlp.w3"),
    (r"^layernorm", "norm"),
)


def joined(arrays, names, new):
    """Layers next to each other, such as queries, keys and values, as one."""
    out, parts = {}, {}
    for key, value in arrays.items():
        match = re.fullmatch(rf"(.*\.)({'|'.join(names)})\.(weight|bias)", key)
        if match:
            parts.setdefault(f"{match[1]}{new}.{match[3]}", {})[match[2]] = value
        else:
            out[key] = value
    return out | {key: np.concatenate([part[name] for name in names]) for key, part in parts.items()}


def drawn(name):
    """The arrays as the encoder's authors save them; make.py's are as transformers 5.24 holds them in memory."""
    arrays = {key: drawing.array(key, tuple(shape)) for key, shape in KEYS[name].items()}
    if ENCODERS[name].layout == "timm":
        return arrays
    arrays = joined(arrays, ("gate_proj", "up_proj"), "weights_in")
    arrays = {key.replace(".down_proj.", ".weights_out."): value for key, value in arrays.items()}
    if ENCODERS[name].layout == "hf":
        for old, new in (("q", "query"), ("k", "key"), ("v", "value")):
            arrays = {key.replace(f".{old}_proj.", f".attention.{new}."): value for key, value in arrays.items()}
        return {key.replace(".o_proj.", ".output.dense."): value for key, value in arrays.items()}
    arrays = joined(arrays, ("q_proj", "k_proj", "v_proj"), "qkv")
    renamed = {}
    for key, value in arrays.items():
        for pattern, new in _FACEBOOK:
            key = re.sub(pattern, new, key)
        renamed[f"teacher.backbone.{key}"] = value
    return renamed | {"teacher.dino_head.mlp.0.weight": np.ones((4, 24), np.float32)}


def folder_of(name, tmp_path):
    """A folder as the hub has it. Only the number of heads must be stated, because the width is not the usual one."""
    encoder = ENCODERS[name]
    save_file(drawn(name), tmp_path / "model.safetensors")
    arguments = {k: v for k, v in encoder.arguments.items() if k not in ("embed_dim", "depth", "num_heads")}
    mean, std = encoder.scale
    if encoder.layout == "timm":
        about = {"architecture": "vit_giant_patch14", "model_args": arguments | {"num_heads": 2}}
        about |= {"pretrained_cfg": {"mean": mean, "std": std}}
    elif encoder.layout == "hf":
        model_type = "dinov2_with_registers" if "num_register_tokens" in arguments else "dinov2"
        about = {"model_type": model_type, "num_attention_heads": 2, "layer_norm_eps": 1e-6, "hidden_act": "gelu"}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std}))
    else:
        return tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_text(json.dumps(about))
    return tmp_path


def features(weights, grid):
    """Tokens of the encoder in a classifier for images of grid x grid patches."""
    shape = dataclasses.replace(weights.shape, image_size=grid * weights.shape.patch_size, n_classes=1)
    like = jax.eval_shape(partial(models.init, "vit", shape), jax.random.key(0))
    params, _ = transfer.transfer(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like), shape, weights)
    return apply("encoder", shape, params["encoder"], drawing.images(shape.image_size))


FAST = ("uni2-h", "dinobloom-s")  # one with, one without SwiGLU; the others take as long each


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in ENCODERS]
)
def test_features_are_those_of_the_reference_at_every_size(name, tmp_path):
    encoder = ENCODERS[name]
    weights = reader.read(folder_of(name, tmp_path), heads=2)
    shape = weights.shape
    assert shape.registers == encoder.arguments.get("reg_tokens", encoder.arguments.get("num_register_tokens", 0))
    assert (shape.mlp == "swiglu", shape.patch_size) == (encoder.gated, encoder.arguments["patch_size"])
    assert (shape.depth, shape.grid, bool(shape.layer_scale), weights.heads_known) == (2, 4, True, True)
    for grid in (4, 3, 6):
        tokens, expected = features(weights, grid), EXPECTED[f"{name}/{grid}"]
        assert np.abs(tokens - expected).max() < 1e-5 * np.abs(expected).max(), grid


def test_a_dinov2_classifier_reads_the_class_token_and_the_mean_of_the_patches(tmp_path):
    arrays = {key: drawing.array(key, tuple(shape)) for key, shape in KEYS["classifier"].items()}
    save_file(arrays, tmp_path / "model.safetensors")
    about = {"model_type": "dinov2_with_registers", "num_attention_heads": 2, "layer_norm_eps": 1e-6}
    (tmp_path / "config.json").write_text(json.dumps(about))
    weights = reader.read(tmp_path)
    assert (weights.shape.pool, weights.shape.n_classes, weights.shape.registers) == ("both", 3, 4)
    logits = apply("vit", weights.shape, weights.params, drawing.images(56))
    np.testing.assert_allclose(logits, EXPECTED["classifier/logits"], rtol=1e-5, atol=1e-5)
    (tmp_path / "out").mkdir()
    write(weights, tmp_path / "out", "hf")
    again = reader.read(tmp_path / "out")
    assert again.shape == weights.shape
    jax.tree.map(np.testing.assert_array_equal, again.params, weights.params)
    with pytest.raises(UserError, match="timm has no head for pool=both"):
        write(weights, tmp_path / "out", "timm")


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("midnight", ("gate_proj", "up_proj", "down_proj")),
        ("openmidnight", ("w1", "w2", "w3")),
        ("h0-mini", ("fc1_g", "fc1_x", "fc2")),
    ],
)
def test_a_swiglu_with_gates_and_values_apart_is_the_same(name, layers, tmp_path):
    path = folder_of(name, tmp_path)
    params = reader.read(path, heads=2).params
    packed = {"midnight": "weights_in", "openmidnight": "w12", "h0-mini": "fc1"}[name]
    arrays = {}
    for key, value in load_file(tmp_path / "model.safetensors").items():
        key = key.replace(".mlp.weights_out.", f".mlp.{layers[2]}.")
        if f".mlp.{packed}." in key:
            for layer, part in zip(layers[:2], np.split(value, 2), strict=True):
                arrays[key.replace(f".mlp.{packed}.", f".mlp.{layer}.")] = part
        else:
            arrays[key] = value
    save_file(arrays, tmp_path / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, reader.read(path, heads=2).params, params)


def test_the_docs_list_every_encoder():
    page = (GOLDEN.parents[1] / "docs" / "how-to" / "encoders.md").read_text()
    assert "\n".join(table()) in page and len(table()) == len(ENCODERS) + len(TOWERS)
