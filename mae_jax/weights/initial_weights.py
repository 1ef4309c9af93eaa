"""Initial weights of a run: random, from another run, or from other code."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
from jax.sharding import Mesh

from mae_jax.checkpoints import steps
from mae_jax.config.fields import DataFields, RunConfig, changed
from mae_jax.config.naming import source_label
from mae_jax.config.schedule import resolve
from mae_jax.data.splits import DataCache
from mae_jax.models import Params
from mae_jax.rundir import contents, saved_runs
from mae_jax.runtime.disk import exists
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.processes import note
from mae_jax.step import sharding
from mae_jax.step.from_config import parameter_shapes, shape_of, spec_of
from mae_jax.step.spec import StepSpec
from mae_jax.weights import own_run, reader, transfer


def first_weights(config: RunConfig, cache: DataCache | None = None) -> Callable[[StepSpec, Params], Params]:
    """A function (spec, random parameters) -> initial parameters, according to the config's `init` and `init_from`.

    `init=mae` reads a run directory: the newest checkpoint of a pre-training, or the tested network of a finished
    fine-tuning or linear probe. `init=weights` reads a file or folder of other code (`weights.read`). A classifier
    takes only the encoder, an autoencoder also the decoder. What is loaded is printed, once for all runs that share
    `cache`. Raises UserError if the source is missing, unfinished or of another shape, before any image is read.
    """
    if config.init == "scratch":
        return lambda spec, params: params
    once = (cache or DataCache()).once

    def say(lines: str) -> None:
        once(("initial weights", lines), lambda: note(lines))

    saved = None
    if config.init == "mae":
        saved = saved_runs.trained_config_of(Path(config.init_from), "init_from")
        if not exists(Path(config.init_from) / contents.RESULTS):
            if saved.traits.labeled:
                raise UserError(
                    f"init_from={config.init_from} is a run of task {saved.task} that is not finished; rerun its "
                    f"command to finish it"
                )
            say(f"note: the pre-training in {config.init_from} has not finished; its newest checkpoint is used")
        scale = tuple(saved.data.mean), tuple(saved.data.std)
        source = reader.Weights({}, shape_of(saved), saved.traits.network, config.init_from, *scale)
    else:
        source = reader.read(config.init_from, "init_from")
    notes = transfer.compare(shape_of(config), source, "init_from")
    for name in ("mean", "std"):
        if getattr(source, name) != tuple(getattr(config.data, name)):
            say(
                f"note: data.{name} is {tuple(getattr(config.data, name))}, but {config.init_from} was trained with "
                f"{getattr(source, name)}; the encoder receives images normalized differently"
            )

    def start(spec: StepSpec, params: Params) -> Params:
        loaded, detail = source, ""
        if saved is not None and not saved.traits.labeled:
            saved_params, number = _load(config.init_from, saved, spec.mesh)
            saved_params = own_run.transferable(saved_params)
            loaded, detail = dataclasses.replace(source, params=saved_params), f", step {number}"
        elif config.init == "mae":
            loaded, tested = own_run.load(Path(config.init_from), "init_from")
            detail = f": the encoder of a {tested.traits.words} on {source_label(tested.data)}; its head is not used"
        taken, more = transfer.transfer(params, spec.shape, loaded)
        lines = [f"  initial weights from {config.init_from}{detail}: {spec.shape.words}"]
        say("\n".join([*lines, *(f"  note: {line}" for line in (*source.notes, *notes, *more))]))
        return taken

    return start


def _load(workdir: str | Path, config: RunConfig, mesh: Mesh, field: str = "init_from") -> tuple[Params, int]:
    """A pre-training's newest parameters, replicated on every device, and their step. `field` names it in errors."""
    shapes = parameter_shapes(config, shape_of(config))
    like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding.replicated(mesh)), shapes)
    return steps.load_params(Path(workdir), like, field)


def autoencoder(directory: Path, field: str, mesh: Mesh) -> tuple[RunConfig, StepSpec, Params, int]:
    """Config, spec, parameters and step of a pre-training's newest checkpoint. `field` names it in errors."""
    config = changed(saved_runs.pretraining_config_of(directory, field), {"sharding.fsdp": 1})
    params, step = _load(directory, config, mesh, field)
    return config, spec_of(config, resolve(config, 1, mesh.size), mesh), params, step


def earlier_data(config: RunConfig) -> list[tuple[str, DataFields]]:
    """Task and `data` fields of the runs in `earlier_runs`. Raises UserError as it does."""
    return [(run.task, run.data) for run in earlier_runs(config)]


def earlier_runs(config: RunConfig) -> list[RunConfig]:
    """The config of the run in `init_from`, of the run it started from, and so on.

    The chain ends at a run that was moved or removed. Raises UserError if `init_from` of `config` itself is not a run
    that trains a network.
    """
    earlier: list[RunConfig] = []
    place, seen = config, set()
    while place.init == "mae" and (directory := Path(place.init_from)).resolve() not in seen:
        seen.add(directory.resolve())
        try:
            place = saved_runs.trained_config_of(directory, "init_from")
        except UserError:
            if not earlier:
                raise
            break  # an earlier run was moved or removed
        earlier.append(place)
    return earlier
