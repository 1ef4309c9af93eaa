"""Which images were labeled where a study does not draw each class alike, and how many draws miss a class."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mae_jax.report.analysis import Study
from mae_jax.report.runs import Level, Run, is_number
from mae_jax.rundir.contents import SUBSET, peek_object
from mae_jax.rundir.predictions import clean

STRATIFIED = "stratified"
COLUMNS = (
    *("fraction", "arm", "label_count", "init", "method", "n_train"),
    *("draws", "missing", "share_missing", "random_missing", "classes"),
)
SIMULATED = 10_000  # random draws of labels


def rows(study: Study) -> list[dict]:
    """The rows of label_draws.csv, one for each row of the table; [] if all draws are stratified.

    `method` is `data.subset`, `draws` counts the different sets of labels, `missing` those without any image of some
    class, and `classes` names these classes. `random_missing` is the share of random draws of as many labels that miss
    a class (simulated). Runs whose subset.json does not tell are left out.
    """
    table = [row for cell in study.cells if (row := _row(study, *cell))]
    return table if any(row["method"] != STRATIFIED for row in table) else []


def _row(study: Study, level: Level, init: str) -> dict | None:
    runs = [study.runs[i] for i in study.of(level, init)]
    draws = {sha: draw for run in runs if (draw := _draw(run)) for sha in [draw["subset_sha256"]]}
    if not draws:
        return None
    every_draw = list(draws.values())
    misses = [[name for name, n in draw["actual"].items() if not n] for draw in every_draw]
    missing = sum(map(bool, misses))
    first = every_draw[0]
    labeled = round(sum(sum(draw["actual"].values()) for draw in every_draw) / len(every_draw))
    return {
        **level.columns,
        "init": init,
        "method": first["method"],
        "n_train": labeled,
        "draws": len(every_draw),
        "missing": missing,
        "share_missing": missing / len(every_draw),
        "random_missing": chance(list(first["train"].values()), labeled),
        "classes": ", ".join(dict.fromkeys(clean(name) for names in misses for name in names)),
    }


def _draw(run: Run) -> dict[str, Any] | None:
    """What subset.json says about the labels of a run; None where it does not."""
    saved = peek_object(run.path / SUBSET)
    method = saved.get("method", STRATIFIED)
    counts = [saved.get(name) for name in ("actual", "train")]
    complete = all(isinstance(c, dict) and c and all(is_number(n, 0, 1e9) for n in c.values()) for c in counts)
    if not complete or not isinstance(method, str) or not isinstance(saved.get("subset_sha256"), str):
        return None
    return saved | {"method": clean(method)}


def chance(counts: Sequence[float], n: int, draws: int = SIMULATED) -> float:
    """The share of random draws of `n` images without replacement that miss one of the classes with these counts."""
    present = np.array([round(count) for count in counts if count >= 1])
    if n >= present.sum():
        return 0.0
    drawn = np.random.default_rng(0).multivariate_hypergeometric(present, n, draws)
    return float((drawn == 0).any(1).mean())


def lines(rows: Sequence[dict]) -> list[str]:
    """What the page says above the table."""
    text = (
        "Labels of a stratified draw have the same share of each class, at least one image. That takes labels to draw: "
        "who has none yet gets a random draw, or one that an encoder selects."
    )
    return [text] if rows else []
