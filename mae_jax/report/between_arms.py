"""Contrasts: chosen pairs of arms, compared on each test set. `StudyConfig.contrasts` names them.

The report compares each arm with the strongest training from scratch. An open question, such as whether an augmentation
helps, is about two other arms that differ in one thing.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mae_jax.report import frozen_encoders, phrases, stats, tables
from mae_jax.report.analysis import Study
from mae_jax.report.comparisons import COLLAPSED, Difference, judged
from mae_jax.report.runs import Level
from mae_jax.rundir.contents import fine_tunes, sides_of
from mae_jax.rundir.predictions import clean

PRIMARY, SECOND = "f1", "accuracy"  # the metrics that the page shows


class Scored(NamedTuple):
    """The runs of one evaluation on one test set."""

    evaluation: str
    test_set: str  # "": the main one
    study: Study


def rows(contrasts: Sequence[str], tested: Sequence[Scored]) -> tuple[list[dict], list[str]]:
    """The rows of contrasts.csv: for each contrast "A:B", A minus B in each metric, and lines about what is missing.

    Both sides are tested on the same images and have the same seeds. Interval and p value are those of `tables.paired`.
    Holm's correction is for all contrasts, levels, test sets and evaluations in that metric.
    """
    pairs: list[tuple[dict, Difference | None]] = []
    notes = []
    for text in contrasts:
        first, second = map(clean, sides_of(text))
        of_contrast = [pair for each in tested for pair in _of_one(each, first, second)]
        if not of_contrast:
            notes.append(f"{first} and {second}: not compared, because no seed has both at the same number of labels")
        pairs += of_contrast
    for metric in stats.METRICS + stats.SCORES:
        family = [(row, each) for row, each in pairs if row["metric"] == metric]
        for row, _, verdict in judged(family):
            row |= verdict
    return [row for row, _ in pairs], notes


def _of_one(tested: Scored, first: str, second: str) -> Iterator[tuple[dict, Difference | None]]:
    """The rows of one contrast in one evaluation and on one test set, without verdicts."""
    study = tested.study
    for level in study.levels:
        ours, base = study.shared_seeds(study.of(level, first), study.of(level, second))
        if not ours:
            continue
        for row, each in tables.differences(study, level, (first, second), ours, base):
            names = {"evaluation": tested.evaluation, "test_set": tested.test_set, "first": first, "second": second}
            yield names | {key: value for key, value in row.items() if key not in ("init", "baseline")}, each


def headlines(rows: Sequence[dict]) -> list[str]:
    """A sentence for each contrast: the difference in macro F1 at each number of labels, on each test set.

    It is about the main evaluation in its usual arm.
    """
    sentences: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["metric"] == PRIMARY and (row["evaluation"], row["arm"]) == (rows[0]["evaluation"], rows[0]["arm"]):
            where = f"on {row['test_set']} at" if row["test_set"] else "at"
            part = f"{where} {Level.of_row(row).amount} {row['verdict']}{_points(row)}"
            sentences.setdefault((row["first"], row["second"]), []).append(part)
    return [f"{first} against {second}, macro F1: {'; '.join(parts)}." for (first, second), parts in sentences.items()]


def _points(row: dict) -> str:
    return "" if row["verdict"] == COLLAPSED else f", {phrases.points(row)}"


def shown(rows: Sequence[dict]) -> list[dict]:
    """The rows for the page: one for each contrast, level and test set, with the metrics PRIMARY and SECOND."""
    keys = ("evaluation", "test_set", "first", "second", "fraction", "label_count", "arm")
    cells: dict[tuple, dict] = {}
    for row in rows:
        if row["metric"] in (PRIMARY, SECOND):
            one = cells.setdefault(tuple(row[key] for key in keys), {key: row[key] for key in (*keys, "interval")})
            evaluation = "" if fine_tunes(row["evaluation"]) else frozen_encoders.name_of(row["evaluation"])
            one |= {row["metric"]: row, "how": ", ".join(filter(None, (evaluation, row["arm"])))}
    return sorted(cells.values(), key=lambda row: (row["evaluation"] != rows[0]["evaluation"], row["arm"]))


def lines(rows: Sequence[dict]) -> list[list[str]]:
    """The lines of a Markdown table of `shown`, the header first."""
    table = [["first", "second", "labels", "test set", "macro F1", "accuracy"]]
    for row in shown(rows):
        level = ", ".join(filter(None, (Level.of_row(row).amount, row["how"])))
        parts = [row["first"], row["second"], level, row["test_set"] or "main"]
        for metric in (PRIMARY, SECOND):
            parts.append(f"{row[metric]['verdict']}{_points(row[metric])}")
        table.append(parts)
    return table
