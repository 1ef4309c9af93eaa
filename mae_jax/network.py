"""The network of a run: its shape and compiled step, from the config, and its first weights."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mae_jax import checkpoints, interop, machine, models, rundir, sharding
from mae_jax.cli import say
from mae_jax.config import Resolved, defaults, resolve
from mae_jax.errors import UserError
from mae_jax.models import Params, Shape
from mae_jax.optim import Optimizer
from mae_jax.state import Spec


def shape_of(config: ConfigDict, n_classes: int = 0) -> Shape:
    """The network's shape from the fields `model`, with what "auto" means on this machine."""
    m = config.model
    width, depth, heads = models.SIZES.get(m.size, (m.width, m.depth, m.heads))
    shape = Shape(
        image_size=m.image_size,
        patch_size=m.patch_size,
        width=width,
        depth=depth,
        heads=heads,
        mlp_ratio=m.mlp_ratio,
        decoder_width=m.decoder_width if config.task == "pretrain" else 0,
        decoder_depth=m.decoder_depth if config.task == "pretrain" else 0,
        decoder_heads=m.decoder_heads if config.task == "pretrain" else 0,
        pool=m.pool,
        n_classes=n_classes,
        head_std=m.head_std,
        batch_norm=config.task == "linear_probe",
        drop_path=m.drop_path if config.task == "finetune" else 0.0,
        frozen_blocks=depth - config.train.blocks if config.train.blocks >= 0 else 0,
        dtype=machine.precision(m.dtype),
        positions=m.positions,
        norm_eps=m.norm_eps,
        registers=m.registers,
        layer_scale=m.layer_scale,
        remat=config.train.remat,
    )
    fused = m.attention != "xla" and not machine.no_cudnn(shape.dtype, shape.head_sizes)
    return dataclasses.replace(shape, attention="cudnn" if fused else "xla")


def spec_of(config: ConfigDict, resolved: Resolved, mesh: Mesh, n_classes: int = 0) -> Spec:
    """What the compiled step depends on, from a config."""
    o, d = config.optim, config.data
    return Spec(
        task=config.task,
        shape=shape_of(config, n_classes),
        optimizer=Optimizer(o.b1, o.b2, o.weight_decay, o.no_decay, o.clip_norm, o.layer_decay, o.name),
        mean=tuple(d.mean),
        std=tuple(d.std),
        batch_size=resolved.batch_size,
        accumulation=config.train.accumulation,
        mask_ratio=config.mae.mask_ratio if config.task == "pretrain" else 0.0,
        norm_pix=config.mae.norm_pix_loss,
        visible_weight=config.mae.visible_weight if config.task == "pretrain" else 0.0,
        label_smoothing=config.train.label_smoothing,
        mixup=config.train.mixup,
        cutmix=config.train.cutmix,
        mesh=mesh,
        trained=trained_parameters(config),
    )


def trained_parameters(config: ConfigDict) -> str:
    """Paths of the parameters that are trained, as a regular expression; "" for all.

    Of the last k blocks, with the last norm and the head (He et al. 2022, section 4.3, "Partial fine-tuning"); of
    none, the head alone. Raises UserError where there are fewer blocks.
    """
    blocks, depth = config.train.blocks, shape_of(config).depth
    if config.task not in ("pretrain", "finetune"):
        return "^head/"
    if blocks < 0:
        return ""
    if blocks > depth:
        raise UserError(f"train.blocks={blocks} is out of range; the network has {depth} blocks, -1 trains everything")
    if not blocks:
        return "^head/"
    return f"^(head|fc_norm|encoder/norm|encoder/block_({'|'.join(f'{i:02d}' for i in range(depth - blocks, depth))}))/"


def first_weights(config: ConfigDict) -> Callable[[Spec, Params], Params]:
    """Where the first weights come from, as a function of a network's spec and its drawn parameters.

    `init=mae` takes a run directory's newest checkpoint, `init=weights` a file or folder of other code
    (`interop.read`); a classifier takes the encoder, an autoencoder the decoder, too. What is wrong with
    either is found here, before any image is read. Raises UserError.
    """
    if config.init == "scratch":
        return lambda spec, params: params
    if config.init == "mae":
        saved = _pretrained_config(config)
        scale = tuple(saved.data.mean), tuple(saved.data.std)
        source = interop.Weights({}, shape_of(saved), "mae", config.init_from, *scale)
    else:
        source = interop.read(config.init_from, "init_from")
    notes = interop.compare(shape_of(config), source, "init_from")
    for name in ("mean", "std"):
        if getattr(source, name) != tuple(config.data[name]):
            note(
                f"note: data.{name} is {tuple(config.data[name])} here and was {getattr(source, name)} in "
                f"{config.init_from}; the encoder will see images on another scale"
            )

    def start(spec: Spec, params: Params) -> Params:
        found, step = source, ""
        if config.init == "mae":
            saved_params, number = _load(config.init_from, source.shape, spec.mesh)
            found, step = dataclasses.replace(source, params=saved_params), f", step {number}"
        note(f"  first weights from {config.init_from}{step}")
        taken, more = interop.transfer(params, spec.shape, found)
        for line in (*source.notes, *notes, *more):
            note(f"  note: {line}")
        return taken

    return start


def _load(workdir: str | Path, shape: Shape, mesh: Mesh, field: str = "init_from") -> tuple[Params, int]:
    """An autoencoder's newest parameters, on every device, and their step; `field` names it in errors."""
    shapes = jax.eval_shape(partial(models.init, "mae", shape), jax.random.key(0))
    like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding.replicated(mesh)), shapes)
    return checkpoints.load_params(Path(workdir), like, field)


def saved_pretraining(directory: Path, field: str) -> ConfigDict:
    """The config in a run directory. Raises UserError that names `field` where it is no pre-training."""
    saved = ConfigDict(checkpoints.saved_config(directory, field))
    if saved.task != "pretrain":
        raise UserError(f"{field}={directory} is a run of task {saved.task}; name one of task pretrain")
    return saved


def _pretrained_config(config: ConfigDict) -> ConfigDict:
    """The config of the run that `init_from` names. Raises UserError where it is no pre-training."""
    saved = saved_pretraining(Path(config.init_from), "init_from")
    if not (Path(config.init_from) / rundir.RESULTS).exists():
        note(f"note: the pre-training in {config.init_from} has not finished; its newest checkpoint is used")
    return saved


def autoencoder(directory: Path, field: str, mesh: Mesh) -> tuple[ConfigDict, Spec, Params, int]:
    """Config, spec, parameters and step of a pre-training's newest checkpoint; `field` names it in errors."""
    config = defaults("pretrain")
    config.update(saved_pretraining(directory, field))  # a field that was not there yet has its default
    config.sharding.fsdp = 1
    params, step = _load(directory, shape_of(config), mesh, field)
    return config, spec_of(config, resolve(config, 1, mesh.size), mesh), params, step


def note(line: str) -> None:
    """Prints a line, in one process."""
    if jax.process_index() == 0:
        say(line)
