"""A run directory as a folder that PyTorch code opens, with a model card. Command: `mae-jax convert export`."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mae_jax import models
from mae_jax.checkpoints import steps
from mae_jax.checkpoints.best_epoch import UNREADABLE
from mae_jax.config.fields import RunConfig
from mae_jax.models import Params, layers
from mae_jax.models.params import map_paths
from mae_jax.models.vit import Shape
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.step import from_config, sharding
from mae_jax.weights.model_card import model_card
from mae_jax.weights.reader import Weights
from mae_jax.weights.writer import write

__all__ = ["export", "load", "new_folder", "put_in_place"]


def load(run_dir: Path, field: str = "RUN_DIR") -> tuple[Weights, RunConfig]:
    """The network of a finished run: that of its predictions, or the newest checkpoint of a pre-training.

    Raises UserError that names `field` where the run is not finished or is of a task without such a network.
    """
    config = steps.saved_config(run_dir, field)
    if config.task not in ("pretrain", "finetune", "linear_probe"):
        raise UserError(f"{field}={run_dir} is of task {config.task}; export runs of pretrain, finetune, linear_probe")
    for name in (contents.RUN, contents.RESULTS):
        if not (run_dir / name).is_file():
            raise UserError(f"{field}={run_dir} is not finished (no {name}); start it again to finish it")
    run = contents.read_object(run_dir / contents.RUN)
    classes = run.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{field}: {run_dir / contents.RUN}: classes is {classes!r}; it should be a list of names")
    classes = tuple(classes)
    shape = from_config.shape_of(config, len(classes))
    params, step = _params(run_dir, shape, "mae" if config.task == "pretrain" else "vit", run, field)
    scale = tuple(config.data.mean), tuple(config.data.std)
    kind = "mae" if config.task == "pretrain" else "vit"
    if shape.batch_norm:
        params, shape = _folded(params), dataclasses.replace(shape, batch_norm=False)
    return Weights(params, shape, kind, f"{run_dir} (step {step})", *scale, classes), config


def _params(run_dir: Path, shape: Shape, kind: str, run: dict[str, Any], field: str) -> tuple[Params, int]:
    like = jax.eval_shape(lambda: models.init(kind, shape, jax.random.key(0)))
    step = run.get("selected_step", 0)
    step = step if type(step) is int else 0
    best = run_dir / "best" / f"{step}.npz"
    if run.get("select", "last") == "last" or step == run.get("steps"):
        place = sharding.replicated(sharding.make_mesh(1))
        placed = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), like)
        return steps.load_params(run_dir, placed, field)
    try:
        with open(best, "rb") as file, np.load(file, allow_pickle=False) as saved:
            params = map_paths(lambda path, leaf: saved[path].reshape(leaf.shape), like)
    except UNREADABLE as error:
        raise UserError(f"{field}: {best}, the network that predictions.csv is of, cannot be read ({error})") from None
    return params, step


def _folded(params: Params) -> Params:
    """The same classifier with its batch norm as part of the head's weight and bias: other code need not know of it."""
    params = dict(params)
    norm = {name: np.asarray(value, np.float64) for name, value in params.pop("batch_norm").items()}
    scale = 1 / np.sqrt(norm["variance"] + layers.BATCH_NORM_EPSILON)
    kernel = np.asarray(params["head"]["kernel"], np.float64) * scale[:, None]
    bias = np.asarray(params["head"]["bias"], np.float64) - norm["mean"] @ kernel
    return params | {"head": {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}}


def new_folder(out: Path) -> Path:
    """An empty folder beside `out`, to be renamed to it when all is written. Raises UserError where `out` exists."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"OUT={out} exists and is not empty; choose another")
    partial = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"OUT={out} cannot be written: {error.strerror}; choose another") from None
    return partial


def put_in_place(partial: Path, out: Path) -> None:
    """Names the finished folder `out`."""
    if out.exists():
        out.rmdir()
    partial.rename(out)


def export(run_dir: Path, out: Path, form: str) -> list[str]:
    """Writes the network of `run_dir` to the new folder `out`, in the format hf or timm; returns notes.

    The folder has safetensors, config.json and README.md, for hf preprocessor_config.json, too. Raises
    UserError for a run that is not finished, or whose network the other code cannot compute.
    """
    weights, config = load(run_dir)
    partial = new_folder(out)
    training = {"mask_ratio": config.mae.mask_ratio, "norm_pix_loss": config.mae.norm_pix_loss}
    try:
        notes = write(weights, partial, form, training if config.task == "pretrain" else None)
        try:
            card = model_card(run_dir, weights, config, form, notes)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"RUN_DIR={run_dir}: its run.json or results.json lacks what the model card needs ({error!r}); "
                f"restore it"
            ) from None
        (partial / "README.md").write_text(card, encoding="utf-8")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    put_in_place(partial, out)
    return notes
