"""ONNX Runtime computes the exported graph as our network does."""

import dataclasses
import json
from functools import partial

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from mae_jax import models
from mae_jax.models.vit import ViTConfig
from mae_jax.runtime.errors import UserError
from mae_jax.weights import onnx_graph, reader

SHAPE = ViTConfig(16, 8, 16, 2, 2, n_classes=3, decoder_width=8, decoder_depth=1, decoder_heads=2)
KINDS = {
    "plain": {},
    "sizes": {"image_size": 24, "patch_size": 4, "width": 32, "depth": 1, "heads": 4, "mlp_ratio": 2.0},
    "mean": {"pool": "mean"},
    "registers": {"registers": 3, "positions": "learned", "norm_eps": 1e-3},
    "both": {"pool": "both", "registers": 2},
    "swiglu": {"mlp": "swiglu", "mlp_ratio": 2.6},
    "clip": {"mlp": "quick_gelu", "pre_norm": True, "positions": "learned"},
    "rotary": {"positions": "rotary", "registers": 2, "image_size": 24},
    "mean with registers": {"registers": 3, "pool": "mean", "layer_scale": 0.1},
}
apply = jax.jit(models.apply, static_argnums=(0, 1))
pooled = jax.jit(models.pooled, static_argnums=0)


def drawn(kind, shape):
    rng = np.random.default_rng(0)
    like = jax.eval_shape(partial(models.init, kind, shape), jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), like)


def outputs(model, images):
    """Outputs by name, for images (n h w 3) in 0..1."""
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images.transpose(0, 3, 1, 2)}), strict=True))


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
def test_a_classifiers_outputs_are_ours(fields):
    shape = dataclasses.replace(SHAPE, **fields)
    weights = reader.Weights(drawn("vit", shape), shape, "vit", "a run", (0.5, 0.4, 0.3), (0.2, 0.3, 0.1))
    model = onnx_graph.build(weights, {"classes": ["a", "ä", "c"], "task": "finetune"}, "a card", temperature=2.0)
    for n in (1, 5):
        images = np.random.default_rng(n).random((n, shape.image_size, shape.image_size, 3), np.float32)
        outputs_of_graph = outputs(model, images)
        normalized = (images - np.float32(weights.mean)) / np.float32(weights.std)
        logits = apply("vit", shape, weights.params, normalized)
        np.testing.assert_allclose(outputs_of_graph["logits"], logits, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(outputs_of_graph["probabilities"], jax.nn.softmax(logits), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            outputs_of_graph["calibrated_probabilities"], jax.nn.softmax(logits / 2), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(
            outputs_of_graph["features"], pooled(shape, weights.params, normalized), rtol=1e-4, atol=1e-4
        )
    saved = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(saved["classes"]) == ["a", "ä", "c"] and saved["task"] == "finetune"
    assert model.doc_string == "a card"


def test_an_autoencoder_gives_the_embeddings_of_its_encoder():
    shape = dataclasses.replace(SHAPE, n_classes=0, registers=2)
    weights = reader.Weights(drawn("mae", shape), shape, "mae", "a run", (0.5,) * 3, (0.25,) * 3)
    images = np.random.default_rng(1).random((3, 16, 16, 3), np.float32)
    outputs_of_graph = outputs(onnx_graph.build(weights, {}, ""), images)
    tokens = apply("encoder", shape, weights.params["encoder"], (images - np.float32(0.5)) / np.float32(0.25))
    assert outputs_of_graph.keys() == {"cls", "mean"}
    np.testing.assert_allclose(outputs_of_graph["cls"], tokens[:, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs_of_graph["mean"], tokens[:, 1:].mean(1), rtol=1e-4, atol=1e-4)


def test_parameters_beyond_the_limit_of_one_file_are_refused(monkeypatch):
    weights = reader.Weights(drawn("vit", SHAPE), SHAPE, "vit", "runs/x")
    monkeypatch.setattr(onnx_graph, "LARGEST", 1000)
    with pytest.raises(UserError, match=r"runs/x has .* bytes of parameters, .* at most 1,000; use --format hf, timm"):
        onnx_graph.build(weights, {}, "")
