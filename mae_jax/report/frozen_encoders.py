"""Frozen encoders: linear probes and nearest neighbors, next to the fine-tuned classifiers.

run.json says how an encoder was evaluated (`evaluation`); without that field, it was fine-tuned. Differences are
between runs with the same evaluation. Features of random weights ("scratch") are the baseline.
"""

import dataclasses
from collections.abc import Sequence

from mae_jax.report import analysis, comparisons, tables
from mae_jax.report.analysis import Study
from mae_jax.report.comparisons import Difference, judged
from mae_jax.report.runs import BASELINE, USUAL, Level, Run, rounded
from mae_jax.rundir.contents import chooses, is_linear

NAMES = {
    "linear_probe": "linear probe (gradient descent)",
    "lbfgs": "logistic regression",
    "knn": "nearest neighbors",
}
CLASSIFIERS = {  # in a sentence
    "linear_probe": "linear probes, trained by gradient descent, on frozen encoders",
    "lbfgs": "linear probes on frozen encoders",
    "knn": "nearest neighbors by the features of frozen encoders",
}
SHOWN = ("accuracy", "f1")
KEPT = ("fraction", "init", "seeds", "n_train", "n_choosing", "n_test")  # columns of table.csv that frozen.csv has too


@dataclasses.dataclass(frozen=True)
class Frozen:
    """The runs of one evaluation of frozen encoders, and the rows of its table."""

    evaluation: str
    study: Study
    rows: list[dict]
    notes: list[str]  # about what could not be compared

    @property
    def name(self) -> str:
        """In words."""
        return name_of(self.evaluation)


def name_of(evaluation: str) -> str:
    """An evaluation in words."""
    return NAMES.get(evaluation, evaluation)


def title(evaluation: str) -> str:
    """An evaluation in words, capitalized to begin a sentence."""
    name = name_of(evaluation)
    return name[0].upper() + name[1:]


def separate(runs: Sequence[Run]) -> tuple[list[Run], dict[str, list[Run]]]:
    """The runs that the report is about, and the other runs by evaluation.

    The report is about fine-tuned runs or, if there are none, about those of the first other evaluation.
    """
    evaluations = {run.evaluation for run in runs}
    order = [e for e in (USUAL, *NAMES) if e in evaluations]
    order += sorted(evaluations - {*order})
    runs_of = {e: [run for run in runs if run.evaluation == e] for e in order}
    return runs_of.pop(order[0]), runs_of


def random_probes(runs: dict[str, list[Run]]) -> list[Run]:
    """The linear probes on random weights, a baseline for all models; preferably those that choose their penalty."""
    for evaluation in sorted(filter(is_linear, runs), key=chooses, reverse=True):
        probes = [run for run in runs[evaluation] if run.init == BASELINE]
        if probes:
            return probes
    return []


def analyze(runs: dict[str, list[Run]]) -> list[Frozen]:
    """The tables of each evaluation. Holm's correction is for all of their differences in accuracy together."""
    tables_of = [_analyzed(evaluation, evaluated) for evaluation, evaluated in runs.items()]
    family = [row for each in tables_of for row in each.rows if row["verdict"]]
    differences = [
        None if row["low"] is None else Difference(*(row[k] for k in ("difference", "low", "high", "p", "pairs")))
        for row in family
    ]
    for row, _, verdict in judged(list(zip(family, differences, strict=True))):
        row |= verdict
    return tables_of


def _analyzed(evaluation: str, runs: list[Run]) -> Frozen:
    study = analysis.analyze(runs)
    rows, (paired, notes) = tables.rows(study), tables.paired(study)
    numbers = []
    for row in rows:
        level = Level.of_row(row)
        kept = {name: row[name] for name in KEPT}
        for metric in SHOWN:
            kept |= {key: row[key] for key in (metric, f"{metric}_low", f"{metric}_high")}
        differences = [
            p for p in paired if (p["metric"], p["init"]) == ("accuracy", row["init"]) and Level.of_row(p) == level
        ]
        pair = differences[0] if differences else {}
        numbers.append(
            {"evaluation": evaluation}
            | kept
            | {"collapsed": row["collapsed"], "majority_rate": row["majority_rate"]}
            | {name: pair.get(name) for name in ("difference", "low", "high", "p", "holm_p", "verdict")}
            | {"baseline": row["baseline"], "pairs": pair.get("seeds")}
            | level.columns
            | {"chosen": row["chosen"].partition(" and ")[0] if row["n_choosing"] else ""}
        )
    return Frozen(evaluation, study, numbers, notes)


def text(evaluations: Sequence[Frozen]) -> str:
    """The tables for a terminal, in Markdown; "" if there are none."""
    rows = [row for each in evaluations for row in each.rows]
    if not rows:
        return ""
    lines = [["frozen features", "labels", "init", "accuracy", "f1", f"accuracy minus {BASELINE}"]]
    for row in rows:
        gain = "" if row["difference"] is None else f"{row['difference']:+.4f}, {row['verdict']}"
        gain = "; ".join(filter(None, (gain, tables.collapse(row))))
        scores = [f"{row[m]:.4f} ({row[f'{m}_low']:.4f}–{row[f'{m}_high']:.4f})" for m in SHOWN]
        level = Level.of_row(row)
        lines.append([name_of(row["evaluation"]), str(level), row["init"], *scores, gain])
    return tables.markdown(lines)


def words(evaluations: Sequence[Frozen]) -> list[str]:
    """A sentence for each evaluation and initialization that is compared with random weights."""
    lines = []
    for each in evaluations:
        for init in dict.fromkeys(row["init"] for row in each.rows if row["difference"] is not None):
            init_rows = [row for row in each.rows if row["init"] == init and row["arm"] == each.study.arms[0]]
            phrases = [
                f"{rounded(row['accuracy'])} % at {Level.of_row(row).amount} ({_compared(row, each.rows)})"
                for row in init_rows
                if row["verdict"]
            ]
            if phrases:
                lines.append(f"{title(each.evaluation)} on frozen features of {init}: {', '.join(phrases)}.")
    return lines


def _compared(row: dict, rows: Sequence[dict]) -> str:
    """The verdict of a row, completed with the baseline or with whose models collapsed."""
    verdict = row["verdict"]
    if verdict == comparisons.NOTHING:
        return f"{verdict} to random weights"
    if verdict == comparisons.COLLAPSED:
        level, inits = Level.of_row(row), (row["init"], row["baseline"])
        sides = [other for other in rows if Level.of_row(other) == level and other["init"] in inits]
        names = [other["init"] for other in sides if other["collapsed"] == other["seeds"]]
        who = ["random weights" if name == row["baseline"] else name for name in names]
        return f"{' and '.join(who)} {verdict}" if who else verdict
    direction, _, rest = verdict.partition(",")
    return f"{direction} than random weights" + (rest and f",{rest}")
