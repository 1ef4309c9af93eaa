"""Reconstruction errors (normalized and in pixels) and pictures of an autoencoder under fixed masks.

An image's mask depends only on the mask seed and the image's index, so networks trained with other seeds or mask ratios
are measured on the same patches. A larger mask ratio removes all patches that a smaller one removes, and more.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from mae_jax.evaluation import pixel_space
from mae_jax.models import Params
from mae_jax.models.patches import n_visible, patchify, unpatchify
from mae_jax.step import losses, patch_repetition, sharding
from mae_jax.step.batches import to_float
from mae_jax.step.objectives.reconstruction import masked, predict_removed
from mae_jax.step.spec import StepSpec


def at_ratio(spec: StepSpec, mask_ratio: float) -> StepSpec:
    """`spec` for evaluation at a mask ratio. Networks that differ only in training settings share it."""
    objective = dataclasses.replace(masked(spec), mask_ratio=mask_ratio, visible_weight=0.0)
    return dataclasses.replace(spec, objective=objective, accumulation=1, batch_size=0)


def in_pixels(spec: StepSpec, pred: Array, patches: Array, mask: Array, how: str) -> Float[Array, "b n p"]:
    """Predicted patches as pixel values in 0..1. With normalized targets, `how` is that of `pixel_space.to_pixels`."""
    if masked(spec).norm_pix:
        pred = pixel_space.to_pixels(pred, patches, mask, how)
    return jnp.clip(_visible_range(spec, pred), 0, 1)


def _visible_range(spec: StepSpec, patches: Array) -> Array:
    """Converts normalized inputs back to 0..1. The channel varies fastest within a patch."""
    area = spec.shape.patch_size**2
    return patches * jnp.tile(jnp.array(spec.std), area) + jnp.tile(jnp.array(spec.mean), area)


@partial(jax.jit, static_argnums=0)
def compare(spec: StepSpec, params: Params, batch: dict[str, Array], seed: Int[Array, ""]) -> dict[str, Array]:
    """`contents.ERRORS` of each image of a batch (b), replicated on every device.

    All but `spam` are mean squared errors. `..._normalised` is in units of each patch's own standard deviation, as in
    `norm_pix_loss`. `..._pixel` is in pixel values in 0..1; `pixel_space.to_pixels` converts normalized predictions.
    `removed_pixel_borrowed` uses the originals' own mean and standard deviation instead, to show how much that
    flatters the network. `removed_pixel_no_network` paints each removed patch in its neighbors' mean color.
    """
    images = to_float(batch["image"], spec.mean, spec.std)
    patches = patchify(images, spec.shape.patch_size)
    pred, mask = predict_removed(spec, params, images, batch["index"], seed)
    mean, std = pixel_space.own_statistics(patches)
    normalized = pred if masked(spec).norm_pix else (pred - mean) / std
    removed, visible = losses.reconstruction(normalized, patches, mask, True)
    out = {"removed_normalised": removed, "visible_normalised": visible}
    shown = _visible_range(spec, patches)

    def error(pred: Array) -> tuple[Array, Array]:
        return losses.reconstruction(pred, shown, mask, False)

    out["removed_pixel"], out["visible_pixel"] = error(in_pixels(spec, pred, patches, mask, pixel_space.NEIGHBOURS))
    borrowed = in_pixels(spec, pred, patches, mask, pixel_space.BORROWED)
    out["removed_pixel_borrowed"] = error(borrowed)[0]
    out["removed_pixel_no_network"] = error(pixel_space.no_network(shown, mask))[0]
    n = spec.shape.n_patches
    out["spam"] = patch_repetition.of_removed(pred, patches, mask, n - n_visible(n, masked(spec).mask_ratio))
    return jax.lax.with_sharding_constraint(out, sharding.replicated(spec.mesh))


@partial(jax.jit, static_argnums=(0, 5))
def reconstruct(
    spec: StepSpec,
    params: Params,
    images: UInt8[Array, "b h w 3"],
    index: Int[Array, " b"],
    seed: Int[Array, ""],
    how: str = pixel_space.NEIGHBOURS,
) -> Float[Array, "4 b h w 3"]:
    """Pictures in 0..1: input, masked input, reconstruction, and reconstruction with the visible patches pasted in.

    `index` and `seed` fix the masks. With normalized targets, `how` selects the removed patches' mean and standard
    deviation (see `pixel_space.to_pixels`).
    """
    normalized = to_float(images, spec.mean, spec.std)
    patches = patchify(normalized, spec.shape.patch_size)
    pred, mask = predict_removed(spec, params, normalized, index, seed)
    original, predicted = _visible_range(spec, patches), in_pixels(spec, pred, patches, mask, how)
    removed = mask[:, :, None]
    masked = original * (1 - removed) + 0.5 * removed
    pictures = [original, masked, predicted, original * (1 - removed) + predicted * removed]
    out = jnp.clip(jnp.stack([unpatchify(p, spec.shape.patch_size) for p in pictures]), 0, 1)
    return jax.lax.with_sharding_constraint(out, sharding.replicated(spec.mesh))
