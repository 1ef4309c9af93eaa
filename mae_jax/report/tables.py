"""The study's tables: one row per fraction and initialisation, paired differences, label efficiency.

Rows are plain dicts, in the order and under the names of the CSV columns; None is an empty cell.
"""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mae_jax.report import stats
from mae_jax.report.analysis import BASELINE, Study, calibration, known
from mae_jax.report.runs import Level, init_order, percent
from mae_jax.runtime import csv_cells, files

NOTHING = "no difference shown"
SHOWN = ("accuracy", "precision", "recall", "f1")
PAIRED = (  # the columns of paired.csv
    *("fraction", "metric", "difference", "low", "high", "mcnemar_p", "holm_p"),
    *("init", "baseline", "seeds", "arm", "verdict"),
)

# The study's own table on Raabin-WBC, 1,728 test images.
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

    The interval is Student's over the seeds where there are two or more, else over redrawn test
    images (or groups) of the one model: `interval` says which. `collapsed` counts the seeds that
    predict one class for every image, 0 where the images are of one class only; `top_class_share` is
    the share of the commonest prediction.
    """
    return [_row(study, level, init) for level, init in study.cells]


def _row(study: Study, level: Level, init: str) -> dict:
    index = study.of(level, init)
    runs = [study.runs[i] for i in index]
    labels = runs[0].test.labels
    shares = [np.bincount(r.test.predictions).max() / len(labels) for r in runs]
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
        "top_class_share": float(np.mean(shares)),
        "collapsed": sum(share == 1 for share in shares) if len(set(labels.tolist())) > 1 else 0,
        "interval": f"over {study.units}" if len(runs) == 1 else f"over {len(runs)} seeds",
    }
    for m in stats.METRICS + stats.SCORES:
        row[f"{m}_low"], row[f"{m}_high"] = _interval(study, m, index, row[m])
    probe = study.random_probe.get(level.fraction, {})
    row |= {f"random_probe_{m}": probe.get(m) for m in ("accuracy", "f1")}
    return row | {"arm": level.arm}


def _interval(study: Study, metric: str, index: list[int], estimate: float | None):
    if estimate is None:
        return None, None
    if len(index) > 1:
        low, high = stats.t_interval(study.estimates[metric][index])
    elif metric == "ece":
        low, high = stats.mirrored_interval(study.draws[metric][index[0]], estimate)
    else:
        low, high = stats.percentile_interval(study.draws[metric][index[0]])
    highest = {"nll": math.inf, "brier": 2.0}.get(metric, 1.0)
    return max(low, 0.0), min(high, highest)


def paired(study: Study) -> tuple[list[dict], list[str]]:
    """The rows of paired.csv: each initialisation minus scratch, on the same images and seeds.

    The interval redraws images (or groups) and, with several seeds, adds Student's spread over them.
    `mcnemar_p` (exact; over several seeds twice the median) belongs to accuracy; `holm_p` corrects it for
    the number of fractions of that initialisation and arm. Also returns lines on what could not be paired.
    """
    found, notes = [], []
    if BASELINE not in study.inits:
        return [], [f"no run from {BASELINE}: nothing is compared with it"] if len(study.inits) > 1 else []
    for arm, init in [(a, i) for a in study.arms for i in study.inits if i != BASELINE]:
        tests = []
        few: dict[int, list[str]] = {}  # levels by how many seeds can be compared, where not all can
        for level in study.levels_of(init, arm):
            ours, base = study.of(level, init), study.of(level, BASELINE)
            seeds = {study.runs[i].seed for i in ours} & {study.runs[i].seed for i in base}
            if len(seeds) < max(len(ours), len(base)):
                few.setdefault(len(seeds), []).append(str(level))
            if not seeds:
                continue
            ours = [i for i in ours if study.runs[i].seed in seeds]
            base = [i for i in base if study.runs[i].seed in seeds]
            for m in stats.METRICS + stats.SCORES:
                difference = round(study.mean(m, ours) - study.mean(m, base), 12) + 0.0
                if math.isnan(difference):
                    continue
                draws = study.mean_draws(m, ours) - study.mean_draws(m, base)
                if m == "ece":
                    low, high = stats.mirrored_interval(draws, difference)
                else:
                    low, high = stats.percentile_interval(draws)
                row = {"fraction": level.fraction, "metric": m, "difference": difference}
                row |= {"low": low, "high": high, "mcnemar_p": None, "holm_p": None}
                row |= {"init": init, "baseline": BASELINE, "seeds": len(seeds), "arm": level.arm}
                found.append(row | {"verdict": verdict(low, high)})
                if m == "accuracy":
                    rights = [[study.runs[i].test.right for i in side] for side in (ours, base)]
                    p = stats.combine([stats.mcnemar(a, b) for a, b in zip(*rights, strict=True)])
                    found[-1]["mcnemar_p"] = p
                    tests.append(found[-1])
        for count, where in few.items():
            have = f"{count} seeds have" if count > 1 else "1 seed has" if count else "no seed has"
            notes.append(f"{init} at {'; '.join(where)}: {have} a {BASELINE} run beside it; only such are compared")
        for row, p in zip(tests, stats.holm([t["mcnemar_p"] for t in tests]), strict=True):
            row["holm_p"] = p
    return found, notes


def verdict(low: float, high: float) -> str:
    """The words for an interval of a difference."""
    if low <= 0 <= high:
        return NOTHING
    return "higher" if low > 0 else "lower"


def collapse(row: dict) -> str:
    """`collapsed` where every seed of the row did, `collapsed: 1 of 3` where some did, else nothing."""
    some = row["collapsed"] < row["seeds"]
    return ("collapsed" + (f": {row['collapsed']} of {row['seeds']}" if some else "")) if row["collapsed"] else ""


def level_of(row: dict) -> Level:
    """The level of a row of the tables."""
    return Level(row.get("arm", ""), row["fraction"])


def reference_text(rows: Sequence[dict]) -> str:
    """What a model must beat: the most common class, and a linear probe on random weights where one was run."""
    text = f"Always predicting the most common class scores {100 * rows[0]['majority_rate']:.1f} %."
    probes = {row["fraction"]: row["random_probe_accuracy"] for row in rows}
    known = [f"{100 * p:.1f} % with {percent(f)} of the labels" for f, p in sorted(probes.items()) if p is not None]
    return text + (f" A linear probe on random weights scores {', '.join(known)}." if known else "")


def table_text(rows: Sequence[dict]) -> str:
    """The table for a terminal, in Markdown: per fraction scratch, each other init, and the gain.

    Without a pair to compare it lists the rows.
    """
    inits = sorted({row["init"] for row in rows}, key=init_order)
    others = [init for init in inits if init != BASELINE]
    cells = {(level_of(row), row["init"]): row for row in rows}
    levels = list(dict.fromkeys(level_of(row) for row in rows))
    if BASELINE not in inits or not others:
        header = ["labels", "init", *SHOWN]
        return markdown([header] + [_listed(row) for row in rows])
    tables = []
    for other in others:
        header = ["labels"]
        for m in SHOWN:
            header += [f"{m}: {BASELINE}", other, "gain"]
        lines = [header]
        for level in levels:
            a, b = (cells.get((level, init), {}) for init in (BASELINE, other))
            if not a and not b:
                continue
            line = [str(level)]
            for m in SHOWN:
                gain = f"{b[m] - a[m]:+.4f}" if a and b else ""
                line += [f"{side[m]:.4f}" if side else "" for side in (a, b)] + [gain]
            lines.append(line)
        tables.append(markdown(lines))
    return "\n\n".join(tables)


def _listed(row: dict) -> list[str]:
    return [str(level_of(row)), row["init"], *(f"{row[m]:.4f}" for m in SHOWN)]


def in_markdown(value: object) -> str:
    """Text in which a name brings neither HTML nor a link or picture into Markdown."""
    return str(value).replace("<", "&lt;").replace("[", "\\[")


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns; the first line is the header."""
    lines = [[in_markdown(cell).replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(text)


def write_csv(path: Path, rows: Sequence[dict], columns: Sequence[str] = ()) -> Path:
    """Write rows of equal keys, under `columns` where there are no rows.

    A name that a spreadsheet would take for a formula is marked, see `spreadsheets`.
    """

    def cell(value: object) -> object:
        return f"{value:.10g}" if isinstance(value, float) else csv_cells.cell(value)

    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(cell(name) for name in (rows[0] if rows else columns))
    writer.writerows([cell(value) for value in row.values()] for row in rows)
    return files.write(path, stream.getvalue())
