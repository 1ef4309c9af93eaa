"""The training state: initialization, shapes and placement.

`train_step` and `eval_step` are compiled once per `StepSpec`, which contains everything they depend on. Seeds, step
numbers and learning rates are arguments, so runs that differ only in these share compiled code.
"""

import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from mae_jax.models import Params
from mae_jax.models.params import part
from mae_jax.step import sharding
from mae_jax.step.spec import INIT, StepSpec


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """Everything that changes from step to step. Leaves are arrays, or their shapes, or their placements."""

    step: Any  # int32 scalar: updates done
    params: Params
    opt_state: Any


def _init(spec: StepSpec, seed: Int[Array, ""]) -> TrainState:
    key = jax.random.fold_in(jax.random.key(seed), INIT)
    params = spec.objective.init(spec.shape, key)
    trained, _ = part(params, spec.trained)
    opt_state = with_running(spec.optimizer.transform().init(trained), spec.objective.running())
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state)


def with_running(optimizer: Any, running: dict[str, Array]) -> Any:
    """The `opt_state` of a `TrainState`: the optimizer's state, next to an objective's running arrays if it has any."""
    return {"optimizer": optimizer, "running": running} if running else optimizer


def parts_of(spec: StepSpec, opt_state: Any) -> tuple[Any, dict[str, Array]]:
    """The optimizer's state and the objective's running arrays, {} for none."""
    return (opt_state["optimizer"], opt_state["running"]) if spec.objective.running() else (opt_state, {})


@lru_cache(maxsize=8)
def _shapes(spec: StepSpec) -> TrainState:
    """Shapes of the state as the network defines them."""
    return jax.eval_shape(partial(_init, spec), jnp.int32(0))


@lru_cache(maxsize=8)
def _split_shapes(spec: StepSpec) -> TrainState:
    """Shapes of the state during training, padded so that `fsdp` divides them (see `sharding.split_shape`)."""
    shape_of = lambda s: jax.ShapeDtypeStruct(sharding.split_shape(s.shape, spec.mesh), s.dtype)  # noqa: E731
    return jax.tree.map(shape_of, _shapes(spec))


def state_shardings(spec: StepSpec) -> TrainState:
    """Placement of each array of the training state."""
    return sharding.parameter_shardings(_split_shapes(spec), spec.mesh)


def _abstract(shapes: TrainState, spec: StepSpec) -> TrainState:
    places = sharding.parameter_shardings(shapes, spec.mesh)
    return jax.tree.map(lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, places)


def abstract_state(spec: StepSpec) -> TrainState:
    """Shapes, types and placements of the unpadded state, without arrays. A checkpoint is restored into these."""
    return _abstract(_shapes(spec), spec)


def split_state(spec: StepSpec) -> TrainState:
    """Shapes, types and placements of the padded state that `train_step` takes, without arrays."""
    return _abstract(_split_shapes(spec), spec)


def init_state(spec: StepSpec, seed: int) -> TrainState:
    """Initial state in padded shapes; each array is created directly in its placement."""
    return _drawing(spec)(jnp.int32(seed))


@lru_cache(maxsize=64)  # the runs of a study share it, as they share `train_step`
def _drawing(spec: StepSpec) -> Callable[[Int[Array, ""]], TrainState]:
    """The compiled function that draws the initial state from a seed."""

    def draw(seed: Int[Array, ""]) -> TrainState:
        return sharding.pad_or_crop(_init(spec, seed), _split_shapes(spec))

    return jax.jit(draw, out_shardings=state_shardings(spec))


def unpadded(spec: StepSpec, state: TrainState) -> TrainState:
    """Removes the padding: the state in the network's own shapes, for checkpoints and evaluation."""
    return _refit(state, spec, _shapes)


def padded(spec: StepSpec, state: TrainState) -> TrainState:
    """Pads the state to shapes that `fsdp` divides, for `train_step`."""
    return _refit(state, spec, _split_shapes)


def _refit(state: TrainState, spec: StepSpec, shapes_of: Callable[[StepSpec], TrainState]) -> TrainState:
    shapes = shapes_of(spec)
    if all(leaf.shape == like.shape for leaf, like in zip(*map(jax.tree.leaves, (state, shapes)), strict=True)):
        return state
    return _refitting(spec, shapes_of)(state)


@lru_cache(maxsize=64)
def _refitting(spec: StepSpec, shapes_of: Callable[[StepSpec], TrainState]) -> Callable[[TrainState], TrainState]:
    """The compiled function that pads or crops a state to `shapes_of(spec)`."""
    shapes = shapes_of(spec)
    places = sharding.parameter_shardings(shapes, spec.mesh)
    return jax.jit(partial(sharding.pad_or_crop, shapes=shapes), out_shardings=places)
