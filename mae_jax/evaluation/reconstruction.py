"""What an autoencoder makes of images whose removed patches are fixed: errors in both spaces, and pictures.

The mask of an image follows from a seed of its own and the image's number alone, so that networks trained with
other seeds or mask ratios are measured on the same patches. What a smaller ratio removes, a larger one removes too.
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
from mae_jax.step.eval_step import predict_removed
from mae_jax.step.spec import Spec
from mae_jax.step.train_step import to_float


def at_ratio(spec: Spec, mask_ratio: float) -> Spec:
    """`spec` for evaluation at a mask ratio; networks that differ only in their training share it."""
    return dataclasses.replace(spec, mask_ratio=mask_ratio, visible_weight=0.0, accumulation=1, batch_size=0)


def in_pixels(spec: Spec, pred: Array, patches: Array, mask: Array, how: str) -> Float[Array, "b n p"]:
    """Predicted patches as pixel values in 0..1; see `pixels` for what `how` means with normalised targets."""
    if spec.norm_pix:
        pred = pixel_space.to_pixels(pred, patches, mask, how)
    return jnp.clip(_visible_range(spec, pred), 0, 1)


def _visible_range(spec: Spec, patches: Array) -> Array:
    """Normalised inputs back to 0..1; the channel runs fastest within a patch."""
    area = spec.shape.patch_size**2
    return patches * jnp.tile(jnp.array(spec.std), area) + jnp.tile(jnp.array(spec.mean), area)


@partial(jax.jit, static_argnums=0)
def compare(spec: Spec, params: Params, batch: dict[str, Array], seed: Int[Array, ""]) -> dict[str, Array]:
    """`contents.ERRORS` of each image of a batch, mean squared errors but for `spam`.

    `..._normalised`: in units of each patch's own deviation, the space of `norm_pix_loss`. `..._pixel`: of pixel
    values in 0..1; with normalised targets after `pixels.statistics`. `removed_pixel_borrowed`: the same with the
    originals' own statistics, to tell how much that would flatter. `removed_pixel_no_network`: of painting each
    removed patch in its neighbours' mean colour.
    """
    images = to_float(batch["image"], spec)
    patches = patchify(images, spec.shape.patch_size)
    pred, mask = predict_removed(spec, params, images, batch["index"], seed)
    mean, deviation = pixel_space.own_statistics(patches)
    normalised = pred if spec.norm_pix else (pred - mean) / deviation
    removed, visible = losses.reconstruction(normalised, patches, mask, True)
    out = {"removed_normalised": removed, "visible_normalised": visible}
    shown = _visible_range(spec, patches)

    def error(pred: Array) -> tuple[Array, Array]:
        return losses.reconstruction(pred, shown, mask, False)

    out["removed_pixel"], out["visible_pixel"] = error(in_pixels(spec, pred, patches, mask, pixel_space.NEIGHBOURS))
    borrowed = in_pixels(spec, pred, patches, mask, pixel_space.BORROWED)
    out["removed_pixel_borrowed"] = error(borrowed)[0]
    out["removed_pixel_no_network"] = error(pixel_space.no_network(shown, mask))[0]
    n = spec.shape.n_patches
    out["spam"] = patch_repetition.of_removed(pred, patches, mask, n - n_visible(n, spec.mask_ratio))
    return jax.lax.with_sharding_constraint(out, sharding.replicated(spec.mesh))


@partial(jax.jit, static_argnums=(0, 5))
def reconstruct(
    spec: Spec,
    params: Params,
    images: UInt8[Array, "b h w 3"],
    index: Int[Array, " b"],
    seed: Int[Array, ""],
    how: str = pixel_space.NEIGHBOURS,
) -> Float[Array, "4 b h w 3"]:
    """Pictures in 0..1: input, masked input, reconstruction, reconstruction with visible patches pasted.

    `index` and `seed` fix the masks. With normalised targets the removed patches' mean and deviation come from
    `pixels.statistics` by `how`.
    """
    normal = to_float(images, spec)
    patches = patchify(normal, spec.shape.patch_size)
    pred, mask = predict_removed(spec, params, normal, index, seed)
    shown, made = _visible_range(spec, patches), in_pixels(spec, pred, patches, mask, how)
    removed = mask[:, :, None]
    pictures = [shown, shown * (1 - removed) + 0.5 * removed, made, shown * (1 - removed) + made * removed]
    out = jnp.clip(jnp.stack([unpatchify(p, spec.shape.patch_size) for p in pictures]), 0, 1)
    return jax.lax.with_sharding_constraint(out, sharding.replicated(spec.mesh))
