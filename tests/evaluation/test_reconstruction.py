"""Errors (normalized and in pixels) and pictures of reconstructions, with the same fixed masks for every network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.evaluation import pixel_space, reconstruction
from mae_jax.evaluation.reconstruction import at_ratio
from mae_jax.models.patches import patchify
from mae_jax.models.vit import ViTConfig
from mae_jax.rundir import contents
from mae_jax.step import eval_step, losses, sharding, state
from mae_jax.step.objectives.reconstruction import Reconstruction
from mae_jax.step.optimizer import Optimizer
from mae_jax.step.spec import StepSpec

SHAPE = ViTConfig(16, 4, 16, 1, 2, decoder_width=8, decoder_depth=1, decoder_heads=2)


INDEX = np.arange(4, dtype=np.int32)


@pytest.fixture(scope="module")
def spec():
    grid = np.array(jax.devices()[:1]).reshape(1, 1)
    optimizer = Optimizer(0.9, 0.95, 0.1, r"(^|/)(bias|scale)$", 0.0, 1.0)
    return StepSpec(
        Reconstruction(mask_ratio=0.5, norm_pix=True), SHAPE, optimizer, (0.5, 0.4, 0.6), (0.25, 0.2, 0.3), 8, 1,
        jax.sharding.Mesh(grid, ("data", "fsdp")),
    )  # fmt: skip


@pytest.fixture(scope="module")
def params(spec):
    return state.init_state(spec, 0).params


def batch_of(images, spec):
    batch = {"image": images, "index": INDEX, "label": INDEX, "mask": np.ones(4, np.float32)}
    return sharding.put_batch(batch, spec.mesh)


@pytest.mark.slow
@pytest.mark.parametrize("norm_pix", [True, False])
def test_pictures_show_input_and_paste_visible_patches(norm_pix, images, spec, params):
    spec = dataclasses.replace(spec, objective=dataclasses.replace(spec.objective, norm_pix=norm_pix))
    rows = np.asarray(reconstruction.reconstruct(spec, params, images, INDEX, np.int32(0)))
    original, masked, actual, pasted = rows
    np.testing.assert_allclose(original, images / 255, atol=1e-5)
    hidden = np.abs(masked - 0.5).max(-1) < 1e-4
    assert 0.45 < hidden.mean() < 0.6  # half of the patches are gray
    np.testing.assert_allclose(pasted[~hidden], original[~hidden], atol=1e-5)
    np.testing.assert_allclose(pasted[hidden], actual[hidden], atol=1e-6)  # two programs, rounded apart in JAX 0.12
    # The error in pixels matches the picture.
    result = reconstruction.compare(spec, params, batch_of(images, spec), np.int32(0))
    for name, where in (("removed_pixel", hidden), ("visible_pixel", ~hidden)):
        errors = [np.square(actual[i] - original[i])[where[i]].mean() for i in range(4)]
        np.testing.assert_allclose(result[name], errors, rtol=1e-4)


def test_a_picture_does_not_reveal_removed_patches(images, spec, params):
    def rows_of(pixel_values, how):
        return np.asarray(reconstruction.reconstruct(spec, params, pixel_values, INDEX, np.int32(0), how))

    hidden = np.abs(rows_of(images, pixel_space.NEIGHBOURS)[1] - 0.5).max(-1, keepdims=True) < 1e-4
    other = np.where(hidden, 255 - images, images)
    np.testing.assert_array_equal(rows_of(images, pixel_space.NEIGHBOURS)[2], rows_of(other, pixel_space.NEIGHBOURS)[2])
    assert np.abs(rows_of(images, pixel_space.BORROWED)[2] - rows_of(other, pixel_space.BORROWED)[2]).max() > 0.1


def test_errors_agree_with_the_losses_of_evaluation(images, spec, params):
    batch = batch_of(images, spec)
    result = reconstruction.compare(spec, params, batch, np.int32(3))
    values = eval_step.eval_step(spec, params, batch, np.int32(3))
    np.testing.assert_allclose(result["removed_normalised"], values["loss"], rtol=1e-5)
    np.testing.assert_allclose(result["visible_normalised"], values["visible_loss"], rtol=1e-5)
    np.testing.assert_allclose(result["spam"], values["spam"], rtol=1e-5)
    assert set(result) == set(contents.ERRORS)


def test_errors_of_a_pixel_network_are_in_units_of_each_patch_s_standard_deviation(spec, images, params, monkeypatch):
    spec = dataclasses.replace(spec, objective=Reconstruction(0.5, False, 0.25))  # compiled by no other test
    mean, deviation = [], []

    def half(spec, params, images, index, seed):
        patches = patchify(images, spec.shape.patch_size)
        statistics = pixel_space.own_statistics(patches)
        mean.append(statistics[0])
        deviation.append(statistics[1])
        return patches + 0.5 * statistics[1], jnp.ones(patches.shape[:2]).at[:, ::2].set(0)

    monkeypatch.setattr(reconstruction, "predict_removed", half)
    result = reconstruction.compare(spec, params, batch_of(images, spec), np.int32(0))
    np.testing.assert_allclose(result["removed_normalised"], 0.25, rtol=1e-4)
    np.testing.assert_allclose(result["removed_pixel"], result["removed_pixel_borrowed"], rtol=1e-6)


def test_what_a_smaller_ratio_removes_a_larger_one_removes_too(images, spec, params):
    hidden = []
    for ratio in (0.25, 0.5, 0.75):
        masked = reconstruction.reconstruct(at_ratio(spec, ratio), params, images, INDEX, np.int32(0))[1]
        hidden.append(np.abs(np.asarray(masked) - 0.5).max(-1) < 1e-4)
    assert (hidden[0] <= hidden[1]).all() and (hidden[1] <= hidden[2]).all()
    np.testing.assert_allclose([h.mean() for h in hidden], [0.25, 0.5, 0.75], atol=0.01)


def test_a_perfect_prediction_has_an_error_only_where_it_does_not_borrow(spec, images, params, monkeypatch):
    spec = dataclasses.replace(spec, objective=Reconstruction(0.25, True))  # compiled by no other test

    def perfect(spec, params, images, index, seed):
        patches = patchify(images, spec.shape.patch_size)
        return losses.normalize_patches(patches), jnp.ones(patches.shape[:2]).at[:, ::2].set(0)

    monkeypatch.setattr(reconstruction, "predict_removed", perfect)
    result = reconstruction.compare(spec, params, batch_of(images, spec), np.int32(0))
    np.testing.assert_allclose(result["removed_pixel_borrowed"], 0, atol=1e-7)
    assert (np.asarray(result["removed_pixel"]) > 1e-4).all()
