"""Initial weights of a run: random, of another run, or of other code."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
from jax.sharding import Mesh

from mae_jax import models
from mae_jax.checkpoints import steps
from mae_jax.config.fields import DataFields, RunConfig, changed
from mae_jax.config.naming import source_label
from mae_jax.config.schedule import resolve
from mae_jax.models import Params
from mae_jax.models.vit import Shape
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.processes import note
from mae_jax.step import sharding
from mae_jax.step.from_config import shape_of, spec_of
from mae_jax.step.spec import Spec
from mae_jax.weights import own_run, reader, transfer


def first_weights(config: RunConfig) -> Callable[[Spec, Params], Params]:
    """Where the initial weights come from, as a function of a network's spec and its drawn parameters.

    `init=mae` takes a run directory: the newest checkpoint of a pre-training, or the network that a finished
    fine-tuning or linear probe was tested with. `init=weights` takes a file or folder of other code (`weights.read`).
    A classifier takes the encoder, an autoencoder also the decoder. Raises UserError for what is wrong with either,
    before any image is read.
    """
    if config.init == "scratch":
        return lambda spec, params: params
    if config.init == "mae":
        saved = saved_run(Path(config.init_from), "init_from")
        if not (Path(config.init_from) / contents.RESULTS).exists():
            if saved.task != "pretrain":
                raise UserError(
                    f"init_from={config.init_from} is a run of task {saved.task} that is not finished; run its command "
                    f"again to finish it"
                )
            note(f"note: the pre-training in {config.init_from} has not finished; its newest checkpoint is used")
        scale = tuple(saved.data.mean), tuple(saved.data.std)
        source = reader.Weights(
            {}, shape_of(saved), "mae" if saved.task == "pretrain" else "vit", config.init_from, *scale
        )
    else:
        source = reader.read(config.init_from, "init_from")
    notes = transfer.compare(shape_of(config), source, "init_from")
    for name in ("mean", "std"):
        if getattr(source, name) != tuple(getattr(config.data, name)):
            note(
                f"note: data.{name} is {tuple(getattr(config.data, name))} here and was {getattr(source, name)} in "
                f"{config.init_from}; the encoder will see images on another scale"
            )

    def start(spec: Spec, params: Params) -> Params:
        found, step = source, ""
        if config.init == "mae" and source.kind == "mae":
            saved_params, number = _load(config.init_from, source.shape, spec.mesh)
            found, step = dataclasses.replace(source, params=saved_params), f", step {number}"
        elif config.init == "mae":
            found, saved = own_run.load(Path(config.init_from), "init_from")
            step = (
                f": the encoder of a run of task {saved.task} on {source_label(saved.data)}; its head is not used "
                f"({found.origin})"
            )
        note(f"  initial weights from {config.init_from}{step}")
        taken, more = transfer.transfer(params, spec.shape, found)
        for line in (*source.notes, *notes, *more):
            note(f"  note: {line}")
        return taken

    return start


def _load(workdir: str | Path, shape: Shape, mesh: Mesh, field: str = "init_from") -> tuple[Params, int]:
    """An autoencoder's newest parameters, on every device, and their step; `field` names it in errors."""
    shapes = jax.eval_shape(partial(models.init, "mae", shape), jax.random.key(0))
    like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding.replicated(mesh)), shapes)
    return steps.load_params(Path(workdir), like, field)


def saved_run(directory: Path, field: str) -> RunConfig:
    """The config in a run directory. Raises UserError that names `field` where the run trains no network."""
    saved = steps.saved_config(directory, field)
    if saved.task not in own_run.TASKS:
        raise UserError(
            f"{field}={directory} is a run of task {saved.task}, which trains no network; name one of task "
            f"{', '.join(own_run.TASKS)}"
        )
    return saved


def saved_pretraining(directory: Path, field: str) -> RunConfig:
    """The config in the run directory of a pre-training. Raises UserError that names `field` where it is another."""
    saved = saved_run(directory, field)
    if saved.task != "pretrain":
        raise UserError(f"{field}={directory} is a run of task {saved.task}; name one of task pretrain")
    return saved


def autoencoder(directory: Path, field: str, mesh: Mesh) -> tuple[RunConfig, Spec, Params, int]:
    """Config, spec, parameters and step of a pre-training's newest checkpoint; `field` names it in errors."""
    config = changed(saved_pretraining(directory, field), {"sharding.fsdp": 1})
    params, step = _load(directory, shape_of(config), mesh, field)
    return config, spec_of(config, resolve(config, 1, mesh.size), mesh), params, step


def earlier_data(config: RunConfig) -> list[tuple[str, DataFields]]:
    """Task and fields `data` of the run that `init_from` names, and of those that it began with, where they are found.

    Raises UserError where `init_from` of `config` itself is not a run that trains a network.
    """
    found: list[tuple[str, DataFields]] = []
    place, seen = config, set()
    while place.init == "mae" and (directory := Path(place.init_from)).resolve() not in seen:
        seen.add(directory.resolve())
        try:
            place = saved_run(directory, "init_from")
        except UserError:
            if not found:
                raise
            break  # an earlier run that was moved or removed
        found.append((place.task, place.data))
    return found
