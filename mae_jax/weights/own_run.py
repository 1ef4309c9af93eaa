"""Loads the network of a finished run: the one that made its predictions."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mae_jax.checkpoints import best_epoch, steps
from mae_jax.config.fields import RunConfig
from mae_jax.models import Params, layers
from mae_jax.rundir import contents, saved_runs
from mae_jax.runtime.errors import UserError
from mae_jax.step import from_config, sharding
from mae_jax.weights.reader import Weights


def load(run_dir: Path, field: str = "RUN_DIR", fold: bool = True) -> tuple[Weights, RunConfig]:
    """The network that made a run's predictions (of a pre-training: its newest checkpoint), and the run's config.

    `fold` folds a linear probe's batch norm into its head, because other code has no such layer. Scores then agree up
    to rounding. Raises UserError that names `field` if the run is not finished, is damaged or trains no network, and
    OSError if the storage fails.
    """
    config = saved_runs.trained_config_of(run_dir, field)
    saved_runs.refuse_unfinished(run_dir, field)
    run = contents.read_object(run_dir / contents.RUN)
    classes = class_names(run_dir, run, field)
    shape = from_config.shape_of(config, len(classes))
    params, step = _params(run_dir, from_config.parameter_shapes(config, shape), run, field)
    if not config.traits.labeled:
        params = transferable(params)
    scale = tuple(config.data.mean), tuple(config.data.std)
    if shape.batch_norm and fold:
        params, shape = _folded(params), dataclasses.replace(shape, batch_norm=False)
    return Weights(params, shape, config.traits.network, f"{run_dir} (step {step})", *scale, classes), config


def class_names(run_dir: Path, run: dict[str, Any], field: str) -> tuple[str, ...]:
    """The class names in run.json; () for a pre-training. Raises UserError that names `field` for anything else."""
    classes = run.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{field}: {run_dir / contents.RUN}: classes is {classes!r}; it should be a list of names")
    return tuple(classes)


def transferable(params: Params) -> Params:
    """The parts of a pre-trained network that other runs start from: the encoder, and the decoder of an autoencoder."""
    return {name: params[name] for name in ("encoder", "decoder") if name in params}


def _params(run_dir: Path, like: Params, run: dict[str, Any], field: str) -> tuple[Params, int]:
    step = run.get("selected_step", 0)
    step = step if type(step) is int else 0
    best = run_dir / "best" / f"{step}.npz"
    if run.get("select", "last") == "last" or step == run.get("steps"):
        place = sharding.replicated(sharding.make_mesh(1))
        placed = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), like)
        return steps.load_params(run_dir, placed, field)
    try:
        params = best_epoch.read(best, like)
    except FileNotFoundError:
        raise UserError(
            f"{field}: {best}, the network that made predictions.csv, is missing; restore it from a backup"
        ) from None
    except ValueError as error:
        raise UserError(
            f"{field}: {best}, the network that made predictions.csv, cannot be read ({error}); restore it from a "
            "backup"
        ) from None
    return params, step


def _folded(params: Params) -> Params:
    """Folds the batch norm into the head's weight and bias."""
    params = dict(params)
    norm = {name: np.asarray(value, np.float64) for name, value in params.pop("batch_norm").items()}
    scale = 1 / np.sqrt(norm["variance"] + layers.BATCH_NORM_EPSILON)
    kernel = np.asarray(params["head"]["kernel"], np.float64) * scale[:, None]
    bias = np.asarray(params["head"]["bias"], np.float64) - norm["mean"] @ kernel
    return params | {"head": {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}}
