"""Cross-validation: a model for each fold of the labels is trained without it, and predicts it at each evaluation.

The scores of all these predictions together choose the epoch of a model that is trained on all labels. They are not
averaged over folds, because a fold of few images lacks classes, which biases a mean of macro F1 (Forman and Scholz
2010, Apples-to-apples in cross-validation studies).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mae_jax.config.fields import RunConfig, changed
from mae_jax.config.schedule import Schedule
from mae_jax.data.sources import Source
from mae_jax.rundir import contents
from mae_jax.runtime import files
from mae_jax.runtime.disk import exists
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count

VALUES = ("loss", "probabilities")  # what is kept of each image
_EVALUATIONS = "evaluations"  # in the directory of a fold's model: a file for each evaluation


def config_of(config: RunConfig, fold: int, folds: int) -> RunConfig:
    """The config of the model without a fold, counted from 0. It trains to its last epoch, and is never tested."""
    name = f"{config.name or config.task}, fold {fold + 1} of {folds}"
    changes = {"name": name, "train.select": "last", "train.patience": 0, "log.trackers": (), "log.tensorboard": False}
    return changed(config, changes)


def directory_of(workdir: Path, fold: int) -> Path:
    """Where the model without a fold is trained. Its file, see `finish`, lies beside it."""
    return workdir / contents.FOLDS / str(fold)


def is_finished(workdir: Path, fold: int) -> bool:
    """Whether the model without a fold has left its predictions."""
    return exists(_file(directory_of(workdir, fold)))


def refuse_other_steps(workdir: Path, resolved: Schedule) -> None:
    """Raises UserError if the folds were trained for another number of updates, as before a run is extended."""
    for path in sorted((workdir / contents.FOLDS).glob("*.npz")):
        trained = int(files.load_arrays(path)["steps"][-1])
        if trained != resolved.steps:
            raise UserError(
                f"{workdir}: the epoch was chosen by models that were trained for {count(trained, 'update')}, but this "
                f"run has {resolved.steps}; a cross-validated run cannot be extended: use another --workdir"
            )


def evaluation_steps(resolved: Schedule) -> list[int]:
    """The numbers of updates after which a model is evaluated."""
    return [s for s in range(1, resolved.steps + 1) if s == resolved.steps or s % resolved.eval_every == 0]


def keep(directory: Path, step: int, values: Mapping[str, Float[np.ndarray, "n ..."]]) -> None:
    """Saves what the model in `directory` predicts for its fold after `step` updates. Raises OSError."""
    (directory / _EVALUATIONS).mkdir(exist_ok=True)
    files.save_arrays(directory / _EVALUATIONS / f"{step}.npz", {name: values[name] for name in VALUES})


def finish(directory: Path, source: Source, images: Int[np.ndarray, " n"], resolved: Schedule) -> None:
    """Joins what `keep` has saved, for the `images` of the fold in `source`, in one file. Raises OSError."""
    steps = evaluation_steps(resolved)
    saved = [files.load_arrays(directory / _EVALUATIONS / f"{step}.npz") for step in steps]
    joined = {name: np.stack([each[name] for each in saved]) for name in VALUES}
    where = {"images": images, "steps": np.asarray(steps), "source": np.asarray(source.fingerprint)}
    files.save_arrays(_file(directory), where | joined)


def pooled(
    workdir: Path, source: Source, images: Int[np.ndarray, " n"], resolved: Schedule
) -> dict[int, dict[str, Float[np.ndarray, "n ..."]]]:
    """{updates: VALUES} of all `images`, each predicted by the model that was trained without it.

    Raises UserError if the folds were of other images or evaluated at other steps, and OSError.
    """
    parts = [files.load_arrays(path) for path in sorted((workdir / contents.FOLDS).glob("*.npz"))]
    steps = evaluation_steps(resolved)
    known = np.concatenate([part["images"] for part in parts])
    order = np.argsort(known)
    same = all(str(part["source"]) == source.fingerprint and part["steps"].tolist() == steps for part in parts)
    if not same or known[order].tolist() != np.asarray(images).tolist():
        raise UserError(
            f"{workdir / contents.FOLDS} was made from other images or for another number of updates; restore them, or "
            f"remove {workdir} to start again"
        )
    joined = {name: np.concatenate([part[name] for part in parts], axis=1)[:, order] for name in VALUES}
    return {step: {name: values[k] for name, values in joined.items()} for k, step in enumerate(steps)}


def _file(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.npz")
