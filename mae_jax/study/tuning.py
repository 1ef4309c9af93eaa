"""Tuning: which of the tried hyperparameters each arm uses at each number of labels, chosen on validation images."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.checkpoints.best_epoch import SCORES
from mae_jax.config.fields import StudyConfig
from mae_jax.evaluation.classification_scores import classification
from mae_jax.rundir import contents
from mae_jax.rundir.predictions import read_predictions
from mae_jax.study import cells
from mae_jax.study.inits import in_words

FILE = "tuned.json"  # in the study's directory: what was chosen, and the score of every setting
NAMES = {"val/f1": "macro F1", "val/accuracy": "accuracy", "val/loss": "loss"}  # of the scores in `FILE`


def describe(tuned: dict[str, dict[str, Any]]) -> list[str]:
    """The choice of each level, in words."""
    return [f"tuned: {level}: {changes['tuned']}" for level, changes in tuned.items()]


def chosen(workdir: Path) -> dict[str, dict[str, Any]]:
    """What an earlier `choose` has saved: the changes for each level of `cells.tuning`; {} if nothing is saved."""
    return {level: each["changes"] for level, each in contents.peek_object(workdir / FILE).items()}


def choose(config: StudyConfig, workdir: Path, missing: Collection[Path], leader: bool) -> dict[str, dict[str, Any]]:
    """Chooses the best setting of each level by its validation predictions alone, and saves the choice.

    Returns {level: changes to the config of its runs}, with `tuned` in words; a level without any finished run is left
    out. The criterion is that of `train.select`; without one it is macro F1. Ties are broken by the lower validation
    loss, then by the order of the grid. Runs in `missing`, such as those that diverged, are not chosen. A choice that
    was saved stays, so that a study that is resumed keeps its settings. Only the `leader` process writes.
    """
    saved = contents.peek_object(workdir / FILE)
    compared = [(NAMES[name], sign) for name, sign in SCORES.get(config.finetune.train.select, SCORES["macro_f1"])]
    criterion = compared[0][0]
    tried: dict[str, list[dict[str, Any]]] = {}
    for level, values, (place, run) in cells.tuning(config, workdir):
        scores = {} if place in missing or level in saved else validation_scores(place)
        tried.setdefault(level, []).append({"changes": values, "seed": run.seed, **scores})
    for level, settings in tried.items():
        finished = [each for each in settings if "loss" in each]
        if level in saved or not finished:
            continue
        best = max(finished, key=lambda each: [sign * each[name] for name, sign in compared])
        words = (
            f"{in_words(best['changes'])}; {criterion} {best[criterion]:.3f} on validation images, the best of "
            f"{len(settings)} settings tried with seed {best['seed']}"
        )
        if len(finished) < len(settings):
            words += f" ({len(settings) - len(finished)} of them did not finish)"
        saved[level] = {"changes": best["changes"] | {"tuned": words}, "tried": settings}
    if leader:
        contents.write_json(workdir / FILE, saved)
    return {level: each["changes"] for level, each in saved.items()}


def validation_scores(run_dir: Path) -> dict[str, float]:
    """Macro F1, accuracy and loss (nats) of a finished run on its validation images. Test images are not read."""
    classes = contents.read_object(run_dir / contents.RUN)["classes"]
    predictions, _ = read_predictions(run_dir / contents.VALIDATION, classes)
    scores = classification(predictions.labels, predictions.predictions, classes)
    loss = math.inf
    if predictions.probabilities is not None:
        p = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
        loss = float(-np.log(np.maximum(p, 1e-12)).mean())
    return {"macro F1": scores["f1"], "accuracy": scores["accuracy"], "loss": loss}
