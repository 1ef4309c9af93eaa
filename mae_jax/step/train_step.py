"""One update: loss, gradient over micro-batches, optimizer. A pure function, compiled once per `StepSpec`."""

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
from mae_jax.step.spec import DROP, MASK, MIX, Batch, StepSpec
from mae_jax.step.state import TrainState, _shapes, state_shardings

MOMENTUM = 0.1  # of batch norm's running statistics, as in PyTorch
Mix = tuple[Array, Array]  # result of `mixup.draw`: pixel weights (h w) and the weight of a row's own label


def to_float(
    images: UInt8[Array, "b h w 3"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "b h w 3"]:
    """Converts images in 0..255 to float32: scales to 0..1, subtracts `mean`, divides by `std` (per channel)."""
    return (images.astype(jnp.float32) / 255 - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


def _loss(
    spec: StepSpec, params: Params, batch: Batch, key: Array, mix: Mix | None = None
) -> tuple[Array, dict[str, Array]]:
    """Sums over the real rows of a (micro-)batch: the loss to minimize, and the reported metrics.

    With `mix`, each row is mixed with its `partner` and `partner_label`. There is then no accuracy, because a mixed
    image has no single label.
    """
    params, real = sharding.pad_or_crop(params, _shapes(spec).params), batch["mask"]
    if spec.objective == "frozen_classification":
        return _classification(spec, models.head(spec.shape, params, batch["features"]), batch)
    images = to_float(batch["image"], spec.mean, spec.std)
    if spec.objective == "reconstruction":
        visible = n_visible(spec.shape.n_patches, spec.mask_ratio)
        pred, mask = models.apply("mae", spec.shape, params, images, batch["noise"], visible)
        patches = patchify(images, spec.shape.patch_size)
        removed, seen = losses.reconstruction(pred, patches, mask, spec.norm_pix)
        reported = {"loss": (removed * real).sum(), "visible_loss": (seen * real).sum()}
        return reported["loss"] + spec.visible_weight * reported["visible_loss"], reported
    if mix is not None:
        weights, share = mix
        images = blend(images, to_float(batch["partner"], spec.mean, spec.std), weights)
        logits = models.apply("vit", spec.shape, params, images, key=key)
        labels = batch["label"], batch["partner_label"]
        targets = losses.soft_targets(*labels, share, spec.shape.n_classes, spec.label_smoothing)
        loss = (losses.soft_cross_entropy(logits, targets, _class_weights(spec)) * real).sum()
        return loss, {"loss": loss}
    return _classification(spec, models.apply("vit", spec.shape, params, images, key=key), batch)


def _classification(spec: StepSpec, logits: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Loss and metrics as in `_loss`, from logits and the batch's labels."""
    loss = losses.cross_entropy(logits, batch["label"], spec.label_smoothing, _class_weights(spec))
    right = (logits.argmax(-1) == batch["label"]).astype(jnp.float32)
    total = (loss * batch["mask"]).sum()
    return total, {"loss": total, "accuracy": (right * batch["mask"]).sum()}


def _class_weights(spec: StepSpec) -> Float[Array, " classes"] | None:
    return jnp.array(spec.class_weights, jnp.float32) if spec.class_weights else None


def _micro_batches(spec: StepSpec, batch: Batch) -> Batch:
    """Rows as (micro-batch, row). Every k-th row goes to the same micro-batch, so rows stay on their device."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, spec.accumulation, *x.shape[1:]), 1, 0), batch)


def _normalized_features(spec: StepSpec, params: Params, batch: Batch) -> tuple[Batch, Params]:
    """For linear probing: the batch with the head's input instead of images, and updated running statistics.

    The frozen encoder processes one micro-batch at a time. Batch norm then uses mean and variance over all real rows of
    the whole batch, so results do not depend on devices, padding or accumulation. As in PyTorch, running statistics
    move a tenth of the way towards the batch's mean and unbiased variance (divided by n - 1).
    """
    network, micro = sharding.pad_or_crop(params, _shapes(spec).params), _micro_batches(spec, {"image": batch["image"]})
    micro_features = jax.lax.map(
        lambda rows: models.pooled(spec.shape, network, to_float(rows["image"], spec.mean, spec.std)), micro
    )
    features = jnp.moveaxis(micro_features, 0, 1).reshape(-1, micro_features.shape[-1])
    n, running = spec.batch_size, params["batch_norm"]
    mean, variance = layers.batch_statistics(features, batch["mask"], n)
    batch_values = {"mean": mean, "variance": variance * n / max(1, n - 1)}
    updated = {name: value + MOMENTUM * (batch_values[name] - value) for name, value in running.items()}
    rows = {"features": layers.batch_norm(features, mean, variance), "label": batch["label"], "mask": batch["mask"]}
    return rows, params | {"batch_norm": updated}


def _gradient(
    spec: StepSpec, trained: Params, frozen: Params, batch: Batch, key: Array, mix: Mix | None = None
) -> tuple[Params, dict[str, Array]]:
    """Mean gradient of the trained parameters, and mean metrics, over the real rows of all micro-batches."""
    differentiate = jax.grad(lambda params, *rest: _loss(spec, join(params, frozen), *rest), has_aux=True)
    if spec.accumulation == 1:
        gradient, metrics = differentiate(trained, batch, key, mix)
    else:
        parts = _micro_batches(spec, batch)

        def add(total, inputs):
            i, micro = inputs
            sums = differentiate(trained, micro, jax.random.fold_in(key, i), mix)
            return jax.tree.map(jnp.add, total, sums), None

        shapes = jax.eval_shape(differentiate, trained, jax.tree.map(lambda x: x[0], parts), key, mix)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (gradient, metrics), _ = jax.lax.scan(add, zeros, (jnp.arange(spec.accumulation), parts))
    count = spec.batch_size
    return jax.tree.map(lambda g: g / count, gradient), {k: v / count for k, v in metrics.items()}


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    spec: StepSpec, state: TrainState, batch: Batch, seed: Int[Array, ""], learning_rate: Float[Array, ""]
) -> tuple[TrainState, dict[str, Array]]:
    """One update. Its randomness depends only on (seed, purpose, step).

    Returns the new state and metrics: means over the batch, before the update, and the gradient's global norm. The
    buffers of `state` are donated.
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
        # Partners are chosen in the whole batch before it is split, so devices and accumulation do not matter.
        key_mix = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), MIX), state.step)
        mix = draw(key_mix, spec.mixup, spec.cutmix, spec.shape.image_size)
        mixed_in = {"partner": batch["image"], "partner_label": batch["label"]}
        mixed_in = jax.tree.map(lambda rows: partners(rows, spec.batch_size), mixed_in)
        batch = batch | jax.lax.with_sharding_constraint(mixed_in, sharding.batch_sharding(spec.mesh))
    params, gradient_spec = state.params, spec
    if spec.objective == "frozen_classification":
        batch, params = _normalized_features(spec, params, batch)
        gradient_spec = dataclasses.replace(spec, accumulation=1)
    trained, frozen = part(params, spec.trained)
    gradient, metrics = _gradient(gradient_spec, trained, frozen, batch, key, mix)
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    trained, opt_state = spec.optimizer.update(gradient, state.opt_state, trained, learning_rate)
    after = TrainState(state.step + 1, join(trained, frozen), opt_state)
    return jax.lax.with_sharding_constraint(after, state_shardings(spec)), metrics
