"""Builds the `Task` of a config, by the traits of its task."""

import jax
from jax.sharding import Mesh

from mae_jax.config.fields import RunConfig
from mae_jax.data import labeled_sets, splits
from mae_jax.runtime import machine
from mae_jax.runtime.errors import UserError
from mae_jax.step.from_config import shape_of
from mae_jax.train.finetune import finetune
from mae_jax.train.pretrain import pretrain
from mae_jax.train.probe import probe
from mae_jax.train.task import Task


def build(
    config: RunConfig,
    mesh: Mesh,
    on_progress: labeled_sets.OnProgress | None = None,
    cache: splits.DataCache | None = None,
    fold: int | None = None,
) -> Task:
    """Opens the data of a config and builds its task, or that of a `fold` of its cross-validation (see `finetune`).

    Raises UserError if the config does not fit data or device.
    """
    if not config.has_network:
        return probe(config, mesh, on_progress, cache)
    m, shape = config.model, shape_of(config)
    if m.dtype == "bfloat16" and jax.default_backend() == "cpu":
        raise UserError(
            "model.dtype=bfloat16 is slower and less exact than float32 on a CPU; use float32, or auto, which is "
            "float32 on CPUs and bfloat16 where that is faster"
        )
    if m.attention == "cudnn" and shape.attention != "cudnn":
        reason = machine.no_cudnn(shape.dtype, shape.head_sizes)
        raise UserError(f"model.attention=cudnn is not possible here: {reason}; use auto, or xla")
    traits = config.traits
    if traits.labeled and traits.updates:
        return finetune(config, mesh, on_progress, cache, fold)
    return (probe if traits.labeled else pretrain)(config, mesh, on_progress, cache)
