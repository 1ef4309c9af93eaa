"""One update: loss, gradient over micro-batches, optimizer. A pure function, compiled once per `StepSpec`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from mae_jax.models import Params
from mae_jax.models.params import join, part
from mae_jax.step import sharding, stain
from mae_jax.step.batches import micro_batches
from mae_jax.step.spec import DROP, STAIN, Batch, StepSpec, key_for
from mae_jax.step.state import TrainState, _shapes, _split_shapes, parts_of, state_shardings, with_running


def _gradient(
    spec: StepSpec, trained: Params, frozen: Params, batch: Batch, key: Array, shared: Any
) -> tuple[Params, dict[str, Array]]:
    """Mean gradient of the trained parameters, and mean metrics, over the real rows of all micro-batches."""

    def loss(trained: Params, batch: Batch, key: Array, shared: Any) -> tuple[Array, dict[str, Array]]:
        params = sharding.pad_or_crop(join(trained, frozen), _shapes(spec).params)
        return spec.objective.loss(spec, params, batch, key, shared)

    differentiate = jax.grad(loss, has_aux=True)
    accumulation = spec.accumulation if spec.objective.accumulates else 1
    if accumulation == 1:
        gradient, metrics = differentiate(trained, batch, key, shared)
    else:
        parts = micro_batches(batch, accumulation)

        def add(total, inputs):
            i, micro = inputs
            sums = differentiate(trained, micro, jax.random.fold_in(key, i), shared)
            return jax.tree.map(jnp.add, total, sums), None

        shapes = jax.eval_shape(differentiate, trained, jax.tree.map(lambda x: x[0], parts), key, shared)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (gradient, metrics), _ = jax.lax.scan(add, zeros, (jnp.arange(accumulation), parts))
    count = spec.batch_size
    return jax.tree.map(lambda g: g / count, gradient), {k: v / count for k, v in metrics.items()}


def _stained(spec: StepSpec, batch: Batch, seed: Int[Array, ""], step: Int[Array, ""]) -> Batch:
    """The batch with the images as `spec.stain` changes them, and those before as `original`.

    The real rows of the whole batch are drawn at once, so that devices and micro-batches do not matter.
    """
    if spec.stain is None:
        return batch
    images, real = batch["image"], spec.batch_size
    changed = stain.apply(spec.stain, images[:real], key_for(seed, STAIN, step))
    changed = jnp.concatenate([changed, images[real:]])
    changed = jax.lax.with_sharding_constraint(changed, sharding.batch_sharding(spec.mesh))
    return batch | {"image": changed, "original": images}


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    spec: StepSpec, state: TrainState, batch: Batch, seed: Int[Array, ""], learning_rate: Float[Array, ""]
) -> tuple[TrainState, dict[str, Array]]:
    """One update. Its randomness depends only on (seed, purpose, step).

    Returns the new state and metrics: means over the batch, before the update, and the gradient's global norm. The
    buffers of `state` are donated.
    """
    key = key_for(seed, DROP, state.step)
    network = sharding.pad_or_crop(state.params, _shapes(spec).params)
    batch = _stained(spec, batch, seed, state.step)
    opt_state, running = parts_of(spec, state.opt_state)
    updated, batch, shared = spec.objective.prepare(spec, network, batch, seed, state.step, running)
    params = state.params | {k: sharding.pad_or_crop(v, _split_shapes(spec).params[k]) for k, v in updated.items()}
    trained, frozen = part(params, spec.trained)
    gradient, metrics = _gradient(spec, trained, frozen, batch, key, shared)
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    trained, opt_state = spec.optimizer.update(gradient, opt_state, trained, learning_rate)
    running = spec.objective.advance(spec, running, metrics, state.step)
    after = TrainState(state.step + 1, join(trained, frozen), with_running(opt_state, running))
    return jax.lax.with_sharding_constraint(after, state_shardings(spec)), metrics
