"""The study's tables: one row per fraction and initialization, and paired differences.

Rows are dicts with the names and order of the CSV columns; None is an empty cell.
"""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mae_jax.report import stats
from mae_jax.report.analysis import Study, calibration, known, top_share
from mae_jax.report.comparisons import Difference, judged
from mae_jax.report.runs import BASELINE, Level, Run, init_order, is_number, rounded
from mae_jax.rundir.contents import chooses
from mae_jax.rundir.predictions import clean
from mae_jax.runtime import csv_cells, files
from mae_jax.runtime.text import joined

SHOWN = ("accuracy", "precision", "recall", "f1")
PAIRED = (  # the columns of paired.csv
    *("fraction", "metric", "difference", "low", "high", "p", "holm_p", "mcnemar_p"),
    *("init", "baseline", "seeds", "collapsed", "arm", "label_count", "interval", "verdict"),
)
CHOSEN = {
    "lbfgs": "penalty",
    "knn": "number of neighbors",
}  # what validation images choose, if not the epoch
COUNTS = {1: "one seed", 2: "two seeds"}

# The study's own table on Raabin-WBC. Its 1,728 test images are 17 % of Raabin's folder Train, not its folder TestA.
PUBLISHED_IMAGES = (36, 126, 412, 95, 1059)  # basophil, eosinophil, lymphocyte, monocyte, neutrophil
PUBLISHED_CAPTION = (
    f"These numbers are from the original study, not from these runs: one run each, tested on "
    f"{sum(PUBLISHED_IMAGES):,} images ({', '.join(f'{n:,}' for n in PUBLISHED_IMAGES)} basophils, eosinophils, "
    "lymphocytes, monocytes and neutrophils). They were 17 % of Raabin-WBC's folder Train, not its folder TestA, so "
    "these scores and ours are not of the same images."
)
PUBLISHED = [
    dict(zip(("fraction", "init", *SHOWN), row, strict=True))
    for row in (
        (0.01, "scratch", 0.61227, 0.12252, 0.19981, 0.15190),
        (0.01, "mae", 0.61285, 0.12257, 0.20000, 0.15199),
        (0.1, "scratch", 0.73148, 0.36244, 0.37126, 0.36438),
        (0.1, "mae", 0.90104, 0.78875, 0.78074, 0.78292),
        (0.5, "scratch", 0.94965, 0.89466, 0.89335, 0.89361),
        (0.5, "mae", 0.95486, 0.90775, 0.91559, 0.91020),
        (1.0, "scratch", 0.97164, 0.95332, 0.93709, 0.94481),
        (1.0, "mae", 0.97049, 0.93961, 0.93979, 0.93882),
    )
]


def rows(study: Study) -> list[dict]:
    """The rows of table.csv: metrics with 95 % intervals, calibration, majority rate, collapse.

    Intervals are over test images (or groups) and, with three or more seeds, over seeds; `interval` says which.
    `n_choosing` counts the labeled images on which the epoch or a probe's setting was chosen, in addition to the
    `n_train` that the model learned from, and `n_temperature` those that the temperature was fitted to. Both are the
    validation images; `chosen` says what they were used for. `baseline` is the training from scratch that the row is
    compared with, "" if there is none. `collapsed` counts the seeds that predict one class for (nearly) every image,
    see `Study.has_collapsed`. `top_class_share` is the share of the most common prediction.
    """
    return [_row(study, level, init) for level, init in study.cells]


def _row(study: Study, level: Level, init: str) -> dict:
    index = study.of(level, init)
    runs = [study.runs[i] for i in index]
    labels = runs[0].test.labels
    row = {
        "fraction": level.fraction,
        "init": init,
        "seeds": len(runs),
        "n_train": study.n_train(level, init),
        "n_test": len(labels),
    }
    row |= {m: known(study.mean(m, index)) for m in (*SHOWN, "balanced_accuracy", *stats.SCORES)}
    calibrated = [calibration(run) for run in runs]
    for name in calibrated[0]:
        row[name] = known(float(np.mean([c[name] for c in calibrated])))
    row |= {
        "majority_rate": float(np.bincount(labels).max() / len(labels)),
        "top_class_share": float(np.mean([top_share(run) for run in runs])),
        "collapsed": study.collapsed(index),
        "interval": coverage(study, len(runs)),
    }
    for m in stats.METRICS + stats.SCORES:
        row[f"{m}_low"], row[f"{m}_high"] = study.interval(m, index) if row[m] is not None else (None, None)
    row["baseline"] = (study.baseline(level) or "") if init in study.compared else ""
    probe = study.random_probe.get(level.fraction, {})
    row |= {f"random_probe_{m}": probe.get(m) for m in ("accuracy", "f1")}
    return row | level.columns | choice(runs)


def coverage(study: Study, seeds: int) -> str:
    """What an interval over `seeds` seeds covers, in words."""
    if seeds >= stats.SEEDS:
        return f"over {study.units} and {seeds} seeds"
    return f"over {study.units} alone ({COUNTS[seeds]})"


def tuned(run: Run) -> str:
    """How a study has chosen the hyperparameters of a run, in words; "" if it has not."""
    config = run.info.get("config")
    words = config.get("tuned") if isinstance(config, dict) else ""
    return clean(words) if isinstance(words, str) else ""


def choice(runs: Sequence[Run]) -> dict[str, float | int | str | None]:
    """How many images the epoch (or a probe's setting) was chosen on, and the gain on these images.

    `n_choosing`: validation images by predictions_val.csv or results.json, 0 where nothing was chosen, None where a run
    does not say. `validation_accuracy`
    and `validation_accuracy_last`: at the tested epoch and at the last one, None where metrics.jsonl does not say.
    `tuned`: how the study has chosen hyperparameters. `n_temperature`: validation images that the temperature and the
    prediction sets were fitted to. `folds`: of a cross-validation on the training images that chose instead, or 0.
    `accuracy_last_epoch` and `f1_last_epoch`: on the test images at the last epoch, None where results.json does not.
    """
    counts, chosen, last, choosing = [], [], [], False
    fitted = [
        0 if run.cross_validated else len(v.images)
        for run in runs
        if (v := run.validation) and v.probabilities is not None
    ]
    for run in runs:
        select = run.info.get("select")
        if run.info.get("folds"):  # cross-validation on the training images
            counts.append(0)
        elif chooses(run.evaluation) or tuned(run) or (isinstance(select, str) and select != "last"):
            counts.append(len(run.validation.images) if run.validation else run.n_validation)
            choosing = True
        else:
            counts.append(0 if select == "last" else None)
        points = [line for line in run.log if is_number(line.get("step")) and is_number(line.get("val/accuracy"))]
        tested = [line["val/accuracy"] for line in points if line["step"] == run.info.get("selected_step")]
        if counts[-1] and tested:
            chosen.append(tested[-1])
            last.append(max(points, key=lambda line: line["step"])["val/accuracy"])
    complete = len(chosen) == len(runs)
    at_end = [run.last_epoch for run in runs if run.last_epoch]
    ends = {m: float(np.mean([e[m] for e in at_end])) if len(at_end) == len(runs) else None for m in ("accuracy", "f1")}
    n_choosing = None if None in counts else round(sum(counts) / len(counts))
    n_temperature = round(sum(fitted) / len(fitted)) if len(fitted) == len(runs) else 0
    settings = ["settings"] if tuned(runs[0]) else []
    settings += [] if settings and runs[0].info.get("select") == "last" else ["epoch"]
    of_probe = CHOSEN.get(runs[0].evaluation)
    uses = [of_probe] if of_probe else settings
    uses = uses if n_choosing or (n_choosing is None and choosing) else []
    uses = [*uses, "temperature"] if n_temperature else uses
    return {
        "n_choosing": n_choosing,
        "n_temperature": n_temperature,
        "folds": folds if isinstance(folds := runs[0].info.get("folds"), int) else 0,
        "chosen": joined(uses) if uses else "",
        "tuned": tuned(runs[0]),
        "validation_accuracy": float(np.mean(chosen)) if complete else None,
        "validation_accuracy_last": float(np.mean(last)) if complete else None,
        "accuracy_last_epoch": ends["accuracy"],
        "f1_last_epoch": ends["f1"],
    }


def for_choosing(row: dict) -> int:
    """The validation images of a row that chose the epoch or a setting, 0 if their number is not known.

    Those that set only the temperature do not count, because accuracy and macro F1 do not depend on it.
    """
    return row["n_choosing"] or 0


def further(row: dict) -> str:
    """The labels that chose something besides those in training, such as `+ 223 for choosing`; "" if nothing did."""
    if row["folds"]:
        return f"{row['folds']}-fold cross-validation on the same labels"
    if row["n_choosing"] is None and row["chosen"] not in ("", "temperature"):
        return "+ an unknown number for choosing"
    return f"+ {n:,} for choosing" if (n := for_choosing(row)) else ""


def validation_labels(row: dict) -> str:
    """The number of validation images that a row used for anything, as text."""
    if row["n_choosing"] is None and row["chosen"] not in ("", "temperature"):
        return "an unknown number"
    return f"{max(for_choosing(row), row.get('n_temperature') or 0):,}"


def paired(study: Study) -> tuple[list[dict], list[str]]:
    """The rows of paired.csv: each initialization minus the strongest training from scratch at its level.

    Both are tested on the same images and have the same seeds. `baseline` names the training from scratch, which is
    chosen on validation images, see `Study.choose`. The interval is over images (or groups) and, with three or more
    seeds, over seeds. `p` comes from the same draws. `holm_p` corrects it for all fractions, arms and initializations
    compared in that metric. `mcnemar_p` (exact) compares the accuracy of two single models. A collapsed cell is not
    compared, so its numbers are None; `collapsed` counts the collapsed models of both sides. Also returns lines about
    what could not be paired.
    """
    pairs, notes = [], []
    if not study.baselines:
        return [], [f"no run from {BASELINE}: nothing is compared with it"] if len(study.inits) > 1 else []
    for arm, init in [(a, i) for a in study.arms for i in study.compared]:
        few: dict[int, list[str]] = {}  # levels by the number of seeds that can be compared, if not all can
        for level in study.levels_of(init, arm):
            baseline = study.baseline(level) or ""
            cells = study.of(level, init), study.of(level, baseline)
            ours, base = study.shared_seeds(*cells)
            if len(ours) < max(map(len, cells)):
                few.setdefault(len(ours), []).append(str(level))
            if ours:
                pairs += differences(study, level, (init, baseline), ours, base)
        for count, where in few.items():
            have = f"{count} seeds have" if count > 1 else "1 seed has" if count else "no seed has"
            notes.append(f"{init} at {'; '.join(where)}: {have} a matching {BASELINE} run; only these are compared")
    for metric in stats.METRICS + stats.SCORES:
        family = [(row, each) for row, each in pairs if row["metric"] == metric]
        for row, _, verdict in judged(family):
            row |= verdict
    return [row for row, _ in pairs], notes


def differences(
    study: Study, level: Level, names: tuple[str, str], ours: list[int], base: list[int]
) -> list[tuple[dict, Difference | None]]:
    """The rows of one level and initialization, a row for each metric that both sides have."""
    rows = []
    nothing = any(study.collapsed(side) == len(side) for side in (ours, base))
    for m in stats.METRICS + stats.SCORES:
        if math.isnan(study.mean(m, ours) - study.mean(m, base)):
            continue
        row = {"fraction": level.fraction, "metric": m}
        row |= dict.fromkeys(("difference", "low", "high", "p", "holm_p", "mcnemar_p"))
        row |= dict(zip(("init", "baseline"), names, strict=True))
        row |= {"seeds": len(ours), "collapsed": study.collapsed([*ours, *base])}
        row |= level.columns
        row |= {"interval": coverage(study, len(ours)), "verdict": ""}
        each = None
        if not nothing:
            each = study.difference(m, ours, base)
            row |= {"difference": each.value, "low": each.low, "high": each.high, "p": each.p}
            if m == "accuracy" and len(ours) == 1:
                row["mcnemar_p"] = stats.mcnemar(study.runs[ours[0]].test.right, study.runs[base[0]].test.right)
        rows.append((row, each))
    return rows


def collapse(row: dict) -> str:
    """`collapsed` if every seed of the row did, `collapsed: 1 of 3` if some did, else ""."""
    some = row["collapsed"] < row["seeds"]
    return ("collapsed" + (f": {row['collapsed']} of {row['seeds']}" if some else "")) if row["collapsed"] else ""


def reference_text(rows: Sequence[dict]) -> str:
    """What a model must beat: the most common class, and a linear probe on random weights if there is one."""
    text = f"Always predicting the most common class scores {rounded(rows[0]['majority_rate'])} %."
    probes = {Level.of_row(row)._replace(arm=""): row["random_probe_accuracy"] for row in rows}
    known = [f"{rounded(p)} % with {level.labels}" for level, p in sorted(probes.items()) if p is not None]
    return text + (f" A linear probe on random weights scores {', '.join(known)}." if known else "")


def table_text(rows: Sequence[dict]) -> str:
    """The table for a terminal, in Markdown: for each fraction scratch, each other init, and the gain.

    Without a pair to compare, it lists the rows.
    """
    base_of = {(Level.of_row(row), row["init"]): _baseline_of(row) for row in rows}
    others = sorted({init for (_, init), base in base_of.items() if base}, key=init_order)
    cells = {(Level.of_row(row), row["init"]): row for row in rows}
    levels = list(dict.fromkeys(Level.of_row(row) for row in rows))
    if not any(base in {init for _, init in cells} for base in base_of.values()):
        header = ["labels", "init", *SHOWN]
        return markdown([header] + [_listed(row) for row in rows])
    tables = []
    for other in others:
        header = ["labels"]
        for m in SHOWN:
            header += [f"{m}: {BASELINE}", other, "gain"]
        lines = [header]
        for level in levels:
            base = base_of.get((level, other)) or BASELINE
            a, b = (cells.get((level, init), {}) for init in (base, other))
            if not a and not b:
                continue
            line = [str(level) + (f", against {base}" if base != BASELINE else "")]
            for m in SHOWN:
                gain = f"{b[m] - a[m]:+.4f}" if a and b else ""
                if any(side.get("collapsed") and side["collapsed"] == side["seeds"] for side in (a, b)):
                    gain = "collapsed"
                line += [f"{side[m]:.4f}" if side else "" for side in (a, b)] + [gain]
            lines.append(line)
        tables.append(markdown(lines))
    from_scratch = [row for row in rows if not _baseline_of(row)]
    if len({row["init"] for row in from_scratch}) > 1:
        tables.append(markdown([["labels", "init", *SHOWN]] + [_listed(row) for row in from_scratch]))
    return "\n\n".join(tables)


def _baseline_of(row: dict) -> str:
    """The training from scratch that a row is compared with; "" for one from scratch. The published table has none."""
    return row.get("baseline", "" if row["init"] == BASELINE else BASELINE)


def _listed(row: dict) -> list[str]:
    return [str(Level.of_row(row)), row["init"], *(f"{row[m]:.4f}" for m in SHOWN)]


def in_markdown(value: object) -> str:
    """Text for Markdown, escaped so that names cannot add HTML, links or pictures."""
    return str(value).replace("<", "&lt;").replace("[", "\\[")


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns; the first line is the header."""
    lines = [[in_markdown(cell).replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(text)


def write_csv(path: Path, rows: Sequence[dict], columns: Sequence[str] = ()) -> Path:
    """Writes rows with equal keys as CSV. `columns` is the header if there are no rows.

    A name that a spreadsheet would run as a formula is escaped, see `runtime.csv_cells`.
    """

    def cell(value: object) -> object:
        return f"{value:.10g}" if isinstance(value, float) else csv_cells.cell(value)

    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(cell(name) for name in (rows[0] if rows else columns))
    writer.writerows([cell(value) for value in row.values()] for row in rows)
    return files.write(path, stream.getvalue())
