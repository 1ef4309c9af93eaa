"""Evaluation steps: predictions, reconstruction errors and features of a batch.

They are pure functions, compiled once per `StepSpec`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mae_jax import models
from mae_jax.models import Params
from mae_jax.models.patches import n_visible, patchify
from mae_jax.step import losses, patch_repetition, sharding
from mae_jax.step.spec import EVAL_MASK, Batch, StepSpec
from mae_jax.step.train_step import to_float


@partial(jax.jit, static_argnums=0)
def eval_step(spec: StepSpec, params: Params, batch: Batch, seed: Int[Array, ""]) -> dict[str, Array]:
    """Values per image, replicated on every device.

    Classifiers: `probabilities` (b classes) and `loss` (b), in nats without label smoothing. Pre-training: `loss`,
    `visible_loss` and `spam` (b; see `patch_repetition.spam_index`), with masks fixed by (seed, image index).
    """
    images = to_float(batch["image"], spec.mean, spec.std)
    if spec.objective != "reconstruction":
        logits = models.apply("vit", spec.shape, params, images)
        label = jnp.maximum(batch["label"], 0)
        out = {"probabilities": jax.nn.softmax(logits), "loss": losses.cross_entropy(logits, label)}
    else:
        pred, mask = predict_removed(spec, params, images, batch["index"], seed)
        patches = patchify(images, spec.shape.patch_size)
        removed, visible = losses.reconstruction(pred, patches, mask, spec.norm_pix)
        n = spec.shape.n_patches
        spam = patch_repetition.of_removed(pred, patches, mask, n - n_visible(n, spec.mask_ratio))
        out = {"loss": removed, "visible_loss": visible, "spam": spam}
    return jax.lax.with_sharding_constraint(out, sharding.replicated(spec.mesh))


@partial(jax.jit, static_argnums=0)
def feature_step(spec: StepSpec, params: Params, batch: Batch, seed: Int[Array, ""]) -> dict[str, Array]:
    """`features` (b d): the input of a classifier's head, replicated on every device. Deterministic."""
    out = {"features": models.pooled(spec.shape, params, to_float(batch["image"], spec.mean, spec.std))}
    return jax.lax.with_sharding_constraint(out, sharding.replicated(spec.mesh))


@partial(jax.jit, static_argnums=(0, 3))
def embed_step(spec: StepSpec, params: Params, batch: Batch, pool: str) -> Float[Array, "b d"]:
    """Embeddings of images from the encoder's normalized output tokens, replicated on every device. Deterministic.

    `pool` is "cls" for the class token, "mean" for the mean of the patch tokens (without registers), or "both" for
    the two concatenated in this order.
    """
    tokens = models.apply("encoder", spec.shape, params["encoder"], to_float(batch["image"], spec.mean, spec.std))
    tokens = tokens.astype(jnp.float32)
    parts = {"cls": tokens[:, 0], "mean": tokens[:, 1:].mean(axis=1)}
    embeddings = jnp.concatenate([parts[name] for name in parts if pool in (name, "both")], axis=1)
    return jax.lax.with_sharding_constraint(embeddings, sharding.replicated(spec.mesh))


@jax.jit
def all_finite(tree: Any) -> Array:
    """True if a tree of arrays contains no NaN and no infinity."""
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]))


def predict_removed(
    spec: StepSpec, params: Params, images: Float[Array, "b h w 3"], index: Int[Array, " b"], seed: Int[Array, ""]
) -> tuple[Float[Array, "b n p"], Float[Array, "b n"]]:
    """Predicted patches of normalized images, and `mask` (1 = removed), which is fixed by (seed, index)."""
    key = jax.random.fold_in(jax.random.key(seed), EVAL_MASK)
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.maximum(index, 0))
    noise = jax.vmap(lambda k: jax.random.uniform(k, (spec.shape.n_patches,)))(keys)
    visible = n_visible(spec.shape.n_patches, spec.mask_ratio)
    return models.apply("mae", spec.shape, params, images, noise, visible)
