"""Derives the network's shape, the objective and the step's `StepSpec` from a run's config."""

import dataclasses
import importlib
from functools import lru_cache, partial

import jax
from jax.sharding import Mesh

from mae_jax.config.fields import RunConfig
from mae_jax.config.schedule import Schedule
from mae_jax.models import Params, resnet, vit
from mae_jax.models.vit import ViTConfig
from mae_jax.runtime import machine
from mae_jax.runtime.errors import UserError
from mae_jax.step.optimizer import Optimizer
from mae_jax.step.spec import Objective, StepSpec
from mae_jax.step.stain import Augmentation


def shape_of(config: RunConfig, n_classes: int = 0) -> ViTConfig:
    """The network's shape from the fields `model.*`, with "auto" resolved for this machine."""
    m = config.model
    autoencoder, fine_tunes = config.traits.decoder, config.traits.fine_tunes
    width, depth, heads = vit.SIZES.get(m.size, (m.width, m.depth, m.heads))
    shape = ViTConfig(
        image_size=m.image_size,
        patch_size=m.patch_size,
        width=width,
        depth=depth,
        heads=heads,
        mlp_ratio=m.mlp_ratio,
        mlp=m.mlp,
        pre_norm=m.pre_norm,
        decoder_width=m.decoder_width if autoencoder else 0,
        decoder_depth=m.decoder_depth if autoencoder else 0,
        decoder_heads=m.decoder_heads if autoencoder else 0,
        pool=m.pool,
        n_classes=n_classes,
        head_std=m.head_std,
        batch_norm=config.traits.trains_head,
        drop_path=m.drop_path if fine_tunes else 0.0,
        dropout=m.dropout if fine_tunes else 0.0,
        frozen_blocks=depth - config.train.blocks if config.train.blocks >= 0 else 0,
        dtype=machine.precision(m.dtype),
        positions=m.positions,
        norm_eps=m.norm_eps,
        registers=m.registers,
        layer_scale=m.layer_scale,
        remat=config.train.remat,
    )
    if m.family != "vit":  # equal networks share compiled code, so fields that they do not use are the same
        return ViTConfig(
            m.image_size, 1, resnet.WIDTH, resnet.DEPTH, 1, pool="mean", n_classes=n_classes, head_std=m.head_std,
            batch_norm=shape.batch_norm, dtype=shape.dtype, family=m.family, norm=m.norm,
            frozen_blocks=resnet.DEPTH - config.train.blocks if config.train.blocks >= 0 else 0,
        )  # fmt: skip
    fused = m.attention != "xla" and not machine.no_cudnn(shape.dtype, shape.head_sizes)
    return dataclasses.replace(shape, attention="cudnn" if fused else "xla")


def spec_of(
    config: RunConfig, resolved: Schedule, mesh: Mesh, n_classes: int = 0, stain: Augmentation | None = None
) -> StepSpec:
    """The `StepSpec` of a config: everything the compiled step depends on. `stain` changes the training images."""
    o, d, objective = config.optim, config.data, objective_of(config)
    return StepSpec(
        objective=objective,
        shape=shape_of(config, n_classes),
        optimizer=Optimizer(o.b1, o.b2, o.weight_decay, o.no_decay, o.clip_norm, o.layer_decay, o.name),
        mean=d.mean,
        std=d.std,
        batch_size=resolved.batch_size,
        accumulation=config.train.accumulation,
        mesh=mesh,
        trained=objective.trained or trained_parameters(config),
        stain=stain,
    )


def objective_of(config: RunConfig) -> Objective:
    """The objective of a run, which `config.tasks.TRAITS` names as "module:class"."""
    module, _, name = config.traits.objective.partition(":")
    return getattr(importlib.import_module(module), name).of(config)


def parameter_shapes(config: RunConfig, shape: ViTConfig) -> Params:
    """Shapes and types of the parameters of a run's network, without arrays."""
    return _shapes_of_parameters(objective_of(config), shape)


@lru_cache(maxsize=64)  # runs of a study that start from one network read it again and again
def _shapes_of_parameters(objective: Objective, shape: ViTConfig) -> Params:
    return jax.eval_shape(partial(objective.init, shape), jax.random.key(0))


def trained_parameters(config: RunConfig) -> str:
    """Regular expression for the paths of the trained parameters; "" means all.

    `train.blocks=k` trains the last k blocks, the final norm and the head (He et al. 2022, section 4.3, "Partial
    fine-tuning"); 0 trains only the head. The statistics of frozen batch norms are never trained. Raises UserError if
    the network has fewer blocks.
    """
    blocks, depth = config.train.blocks, shape_of(config).depth
    if config.traits.frozen:
        return "^head/"
    constant = r"(?<!/mean)(?<!/variance)$" if config.model.norm == "frozen_batch" else ""
    if blocks < 0:
        return constant
    if blocks > depth:
        raise UserError(f"train.blocks={blocks} is out of range; use 0 to {depth}, or -1 to train everything")
    if not blocks:
        return "^head/"
    last = "|".join(f"{i:02d}" for i in range(depth - blocks, depth))
    return f"^(head|fc_norm|encoder/norm|encoder/block_({last}))/{constant and '.*' + constant}"
