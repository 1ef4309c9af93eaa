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
from mae_jax.step import sharding
from mae_jax.step.batches import to_float
from mae_jax.step.spec import Batch, StepSpec


@partial(jax.jit, static_argnums=0)
def eval_step(spec: StepSpec, params: Params, batch: Batch, seed: Int[Array, ""]) -> dict[str, Array]:
    """What the objective measures on each image, replicated on every device (see `Objective.evaluate`)."""
    values = spec.objective.evaluate(spec, params, batch, seed)
    return jax.lax.with_sharding_constraint(values, sharding.replicated(spec.mesh))


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
