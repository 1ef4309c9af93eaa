"""Scores without the test images that may be known from training or pre-training, next to those on all test images."""

from collections.abc import Sequence

import numpy as np

from mae_jax.report import stats
from mae_jax.report.analysis import Study
from mae_jax.report.runs import Level, Run
from mae_jax.rundir.predictions import clean

COLUMNS = (
    *("fraction", "arm", "label_count", "init", "seeds", "leaked", "n"),
    *("accuracy", "accuracy_without", "f1", "f1_without"),
)


def leaked(runs: Sequence[Run]) -> set[str]:
    """The test images that any run or its pre-training saw, according to run.json. One set makes runs comparable."""
    names: set[str] = set()
    for run in runs:
        for key in ("leaks", "seen_before"):
            tests = run.info.get(key)
            shared = tests.get(run.info.get("test_split")) if isinstance(tests, dict) else None
            images = shared.get("images") if isinstance(shared, dict) else None
            names |= {clean(name) for name in images if isinstance(name, str)} if isinstance(images, list) else set()
    return names & set(runs[0].test.images)


def rows(study: Study) -> list[dict]:
    """A row for each cell: accuracy and macro F1 with and without leaked images, means over seeds.

    [] if no image leaked, or all did.
    """
    first, names = study.runs[0], leaked(study.runs)
    rest = np.asarray([image not in names for image in first.test.images])
    if rest.all() or not rest.any():
        return []
    classes, table = len(first.classes), []
    for level, init in study.cells:
        index = study.of(level, init)
        without = []
        for run in (study.runs[i] for i in index):
            t = run.test
            terms = stats.image_terms(t.labels, t.predictions, t.confidence, t.probabilities, classes)
            without.append(stats.metrics_from_sums(terms[rest].sum(0), classes))
        row = {**level.columns, "init": init, "seeds": len(index)}
        row |= {"leaked": int((~rest).sum()), "n": int(rest.sum())}
        for metric in ("accuracy", "f1"):
            row[metric] = study.mean(metric, index)
            row[f"{metric}_without"] = float(np.mean([scores[metric] for scores in without]))
        table.append(row)
    return table


def lines(study: Study) -> list[str]:
    """A sentence on how much the scores change, if images leaked."""
    table, names = rows(study), leaked(study.runs)
    if names and not table:
        return [
            f"All {len(names):,} test images may be known from training or pre-training: no score is left without them."
        ]
    if not table:
        return []
    most = max(table, key=lambda row: abs(row["accuracy_without"] - row["accuracy"]))
    change = 100 * (most["accuracy_without"] - most["accuracy"])
    return [
        f"Without the {most['leaked']:,} test images that may be known from training or pre-training, accuracy changes "
        f"by at most {change:+.1f} points ({most['init']}, {Level.of_row(most).labels}); without_leaked.csv has "
        f"all models."
    ]
