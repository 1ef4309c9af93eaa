"""Compares our networks with stored results of PyTorch's networks. `tests/golden/make.py` regenerates them."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax import models
from mae_jax.config.fields import defaults
from mae_jax.config.schedule import Schedule, learning_rate
from mae_jax.models.params import map_paths
from mae_jax.models.patches import n_visible, patchify, random_masking
from mae_jax.step import losses
from mae_jax.step.optimizer import Optimizer, layer_scales
from mae_jax.weights import names, reader
from mae_jax.weights.positions import interpolate

GOLDEN = Path(__file__).parents[1] / "golden"
apply = partial(jax.jit, static_argnums=(0, 1))(models.apply)


def golden(name):
    expected = dict(np.load(GOLDEN / name / "expected.npz"))
    return reader.read(GOLDEN / name), {k: jnp.asarray(v) for k, v in expected.items()}


def close(ours, theirs):
    """Equal up to rtol 1e-4; numbers near 0 are compared relative to the largest number of the array."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(np.abs(theirs).max()))


@partial(jax.jit, static_argnums=(0, 1))
def autoencode(shape, norm, params, images, noise):
    visible = n_visible(shape.n_patches, 0.75)
    pred, mask = models.apply("mae", shape, params, images, noise, visible)
    loss = losses.reconstruction(pred, patchify(images, shape.patch_size), mask, norm)[0].mean()
    return loss, (pred, mask)


@pytest.mark.slow
@pytest.mark.parametrize("size", [16, 24])
def test_autoencoder_agrees_with_hugging_face(size):
    weights, expected = golden("hf_mae")
    assert (
        weights.shape.norm_eps == 1e-12
        and weights.kind == "mae"
        and [note[:20] for note in weights.notes] == ["no file states the i"]
    )
    shape = dataclasses.replace(weights.shape, image_size=size)
    images, noise = expected[f"{size}/images"], expected[f"{size}/noise"]
    keep, restore, mask = random_masking(noise, n_visible(shape.n_patches, 0.75))
    np.testing.assert_array_equal(restore, expected[f"{size}/ids_restore"])
    np.testing.assert_array_equal(mask, expected[f"{size}/mask"])
    close(apply("encoder", shape, weights.params["encoder"], images, keep), expected[f"{size}/latent"])
    loss, (pred, ours) = autoencode(shape, True, weights.params, images, noise)
    np.testing.assert_array_equal(ours, mask)
    close(pred, expected[f"{size}/prediction"])
    np.testing.assert_allclose(loss, expected[f"{size}/loss_norm"], rtol=1e-5)
    plain = losses.reconstruction(pred, patchify(images, shape.patch_size), mask, False)[0].mean()
    np.testing.assert_allclose(plain, expected[f"{size}/loss_plain"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["norm", "plain"])
def test_every_gradient_agrees_with_hugging_face(norm):
    weights, expected = golden("hf_mae")
    differentiate = jax.grad(partial(autoencode, weights.shape, norm == "norm"), has_aux=True)
    gradient, _ = differentiate(weights.params, expected["16/images"], expected["16/noise"])
    prefix = f"16/grad_{norm}/"
    theirs = {k.removeprefix(prefix): v for k, v in expected.items() if k.startswith(prefix)}
    theirs = {names.canonical(k, "hf"): v for k, v in theirs.items()}
    ours = {}
    map_paths(lambda path, leaf: ours.update(names.to_theirs(path, leaf, "hf", 4)), gradient)
    assert ours.keys() == theirs.keys()
    for key in ours:
        # The keys' bias does not affect the softmax, so its gradient is only rounding noise.
        scale = 1e-6 if key.endswith("key.bias") else 0
        np.testing.assert_allclose(
            ours[key], theirs[key], rtol=1e-4, atol=max(scale, 1e-5 * float(np.abs(theirs[key]).max())), err_msg=key
        )


@pytest.mark.parametrize("name", ["hf_vit", "hf_beit", "timm_cls", "timm_mean", "timm_registers"])
def test_classifiers_agree_with_hugging_face_and_timm(name):
    weights, expected = golden(name)
    close(apply("vit", weights.shape, weights.params, expected["images"]), expected["logits"])
    assert weights.shape.pool == ("mean" if name in ("hf_beit", "timm_mean", "timm_registers") else "cls")
    assert weights.classes == (("Basophil", "Eosinophil", "Monocyte") if name.startswith("hf") else ())


def test_register_tokens_and_layer_scale_agree_with_dinov2():
    weights, expected = golden("hf_dinov2")
    assert (weights.shape.registers, bool(weights.shape.layer_scale)) == (3, True)
    close(apply("encoder", weights.shape, weights.params["encoder"], expected["images"]), expected["tokens"])


def test_interpolated_positions_are_those_of_timm():
    expected = dict(np.load(GOLDEN / "timm_positions.npz"))
    for grid in (3, 7):
        ours = interpolate(jnp.asarray(expected["positions"]), grid)
        np.testing.assert_allclose(ours, expected[str(grid)], rtol=1e-4, atol=1e-5)


def test_parameter_groups_are_those_of_timm():
    """Which parameters decay, and each one's learning-rate factor (layer-wise decay 0.65).

    But for one: timm counts the last norm to the last block, the paper's code (and this one) to the head.
    """
    expected = json.loads((GOLDEN / "timm_optimizer.json").read_text())["parameters"]
    weights = reader.read(GOLDEN / "timm_cls")
    ours = Optimizer(0.9, 0.999, 0.05, defaults("finetune").optim.no_decay, 0.0, 0.65)
    scales, decayed = layer_scales(weights.params, 0.65), ours.decayed(weights.params)
    seen = set()

    def compare(path, scale):
        (key,) = names.keys_of(path, "timm")
        seen.add(key)
        assert scale == pytest.approx(1.0 if key.startswith("norm.") else expected[key]["lr_scale"]), path
        assert flat[path] == expected[key]["decayed"], path

    flat = {}
    map_paths(lambda path, leaf: flat.setdefault(path, leaf), decayed)
    map_paths(compare, scales)
    assert seen == set(expected)


def test_learning_rates_are_those_of_timm():
    result = json.loads((GOLDEN / "timm_optimizer.json").read_text())["schedule"]
    resolved = Schedule(
        n_train=1, devices=1, batch_size=1, rows=1, steps_per_epoch=1, steps=220, warmup_steps=20,
        peak_lr=result["peak"], eval_every=1, save_every=1,
    )  # fmt: skip
    ours = [learning_rate(step, "cosine", resolved, result["min"]) for step in result["steps"]]
    np.testing.assert_allclose(ours, result["rates"], rtol=1e-9)
