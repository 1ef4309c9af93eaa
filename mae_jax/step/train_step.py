"""One update: loss, gradient over micro-batches, optimizer. Pure, and compiled once for each `Spec`."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt8

from mae_jax import models
from mae_jax.models import Params, layers
from mae_jax.models.params import join, part
from mae_jax.models.patches import n_visible, patchify
from mae_jax.step import losses, sharding
from mae_jax.step.mixup import blend, draw, partners
from mae_jax.step.spec import DROP, MASK, MIX, Batch, Spec
from mae_jax.step.state import TrainState, _shapes, state_shardings

MOMENTUM = 0.1  # of batch norm's running statistics, PyTorch's
Mix = tuple[Array, Array]  # what `mixing.draw` gives


def to_float(images: UInt8[Array, "b h w 3"], spec: Spec) -> Float[Array, "b h w 3"]:
    """Images in 0..255 to normalised float32."""
    mean, std = jnp.array(spec.mean, jnp.float32), jnp.array(spec.std, jnp.float32)
    return (images.astype(jnp.float32) / 255 - mean) / std


def _loss(
    spec: Spec, params: Params, batch: Batch, key: Array, mix: Mix | None = None
) -> tuple[Array, dict[str, Array]]:
    """Sums over the real rows of a (micro-)batch: the loss to minimise, and what is reported.

    With `mix`, the rows of `partner` and `partner_label` are mixed in. There is no accuracy then: no one label
    is that of a mixed image.
    """
    params, real = sharding.fit(params, _shapes(spec).params), batch["mask"]
    if spec.objective == "frozen_classification":
        return _classification(spec, models.head(spec.shape, params, batch["features"]), batch)
    images = to_float(batch["image"], spec)
    if spec.objective == "reconstruction":
        visible = n_visible(spec.shape.n_patches, spec.mask_ratio)
        pred, mask = models.apply("mae", spec.shape, params, images, batch["noise"], visible)
        patches = patchify(images, spec.shape.patch_size)
        removed, seen = losses.reconstruction(pred, patches, mask, spec.norm_pix)
        reported = {"loss": (removed * real).sum(), "visible_loss": (seen * real).sum()}
        return reported["loss"] + spec.visible_weight * reported["visible_loss"], reported
    if mix is not None:
        weights, share = mix
        images = blend(images, to_float(batch["partner"], spec), weights)
        logits = models.apply("vit", spec.shape, params, images, key=key)
        labels = batch["label"], batch["partner_label"]
        targets = losses.soft_targets(*labels, share, spec.shape.n_classes, spec.label_smoothing)
        loss = (losses.soft_cross_entropy(logits, targets, _class_weights(spec)) * real).sum()
        return loss, {"loss": loss}
    return _classification(spec, models.apply("vit", spec.shape, params, images, key=key), batch)


def _classification(spec: Spec, logits: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """The same for logits and the labels that they are to give."""
    loss = losses.cross_entropy(logits, batch["label"], spec.label_smoothing, _class_weights(spec))
    right = (logits.argmax(-1) == batch["label"]).astype(jnp.float32)
    total = (loss * batch["mask"]).sum()
    return total, {"loss": total, "accuracy": (right * batch["mask"]).sum()}


def _class_weights(spec: Spec) -> Float[Array, " classes"] | None:
    return jnp.array(spec.class_weights, jnp.float32) if spec.class_weights else None


def _micro_batches(spec: Spec, batch: Batch) -> Batch:
    """Rows as (micro-batch, row): every k-th row goes to one micro-batch, so that each device keeps its own."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, spec.accumulation, *x.shape[1:]), 1, 0), batch)


def _normalised(spec: Spec, params: Params, batch: Batch) -> tuple[Batch, Params]:
    """For linear probing: a batch of what the head reads in place of images, and the running statistics moved on.

    The frozen encoder runs micro-batch by micro-batch. Its features stand together before batch norm takes mean and
    variance of all real rows of the batch at once: devices, padding and accumulation change nothing. Running
    statistics go a tenth of the way to the batch's (variance over n - 1), as in PyTorch.
    """
    network, micro = sharding.fit(params, _shapes(spec).params), _micro_batches(spec, {"image": batch["image"]})
    found = jax.lax.map(lambda rows: models.pooled(spec.shape, network, to_float(rows["image"], spec)), micro)
    features = jnp.moveaxis(found, 0, 1).reshape(-1, found.shape[-1])
    n, running = spec.batch_size, params["batch_norm"]
    mean, variance = layers.batch_statistics(features, batch["mask"], n)
    seen = {"mean": mean, "variance": variance * n / max(1, n - 1)}
    moved = {name: value + MOMENTUM * (seen[name] - value) for name, value in running.items()}
    rows = {"features": layers.batch_norm(features, mean, variance), "label": batch["label"], "mask": batch["mask"]}
    return rows, params | {"batch_norm": moved}


def _gradient(
    spec: Spec, trained: Params, frozen: Params, batch: Batch, key: Array, mix: Mix | None = None
) -> tuple[Params, dict[str, Array]]:
    """Mean gradient of what is trained, and metrics, over the real rows, micro-batch by micro-batch."""
    differentiate = jax.grad(lambda own, *rest: _loss(spec, join(own, frozen), *rest), has_aux=True)
    if spec.accumulation == 1:
        gradient, metrics = differentiate(trained, batch, key, mix)
    else:
        parts = _micro_batches(spec, batch)

        def add(total, inputs):
            i, micro = inputs
            found = differentiate(trained, micro, jax.random.fold_in(key, i), mix)
            return jax.tree.map(jnp.add, total, found), None

        shapes = jax.eval_shape(differentiate, trained, jax.tree.map(lambda x: x[0], parts), key, mix)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (gradient, metrics), _ = jax.lax.scan(add, zeros, (jnp.arange(spec.accumulation), parts))
    count = spec.batch_size
    return jax.tree.map(lambda g: g / count, gradient), {k: v / count for k, v in metrics.items()}


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    spec: Spec, state: TrainState, batch: Batch, seed: Int[Array, ""], learning_rate: Float[Array, ""]
) -> tuple[TrainState, dict[str, Array]]:
    """One update. Its randomness is a function of (seed, purpose, step) alone.

    Returns the new state and metrics (means over the batch, before the update), with the global norm of
    the gradient.
    """
    key = jax.random.fold_in(jax.random.key(seed), MASK if spec.objective == "reconstruction" else DROP)
    key = jax.random.fold_in(key, state.step)
    if spec.objective == "reconstruction":
        noise = jax.random.uniform(key, (spec.batch_size, spec.shape.n_patches))
        rows = batch["image"].shape[0]
        noise = jnp.pad(noise, ((0, rows - spec.batch_size), (0, 0)))
        noise = jax.lax.with_sharding_constraint(noise, sharding.batch_sharding(spec.mesh))
        batch = batch | {"noise": noise}
    mix = None
    if spec.mixup or spec.cutmix:
        # Partners are found in the whole batch, before it is split: devices and accumulation change nothing.
        key_mix = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), MIX), state.step)
        mix = draw(key_mix, spec.mixup, spec.cutmix, spec.shape.image_size)
        found = {"partner": batch["image"], "partner_label": batch["label"]}
        found = jax.tree.map(lambda rows: partners(rows, spec.batch_size), found)
        batch = batch | jax.lax.with_sharding_constraint(found, sharding.batch_sharding(spec.mesh))
    params, once = state.params, spec
    if spec.objective == "frozen_classification":
        batch, params = _normalised(spec, params, batch)
        once = dataclasses.replace(spec, accumulation=1)
    trained, frozen = part(params, spec.trained)
    gradient, metrics = _gradient(once, trained, frozen, batch, key, mix)
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    trained, opt_state = spec.optimizer.update(gradient, state.opt_state, trained, learning_rate)
    after = TrainState(state.step + 1, join(trained, frozen), opt_state)
    return jax.lax.with_sharding_constraint(after, state_shardings(spec)), metrics
