"""How far classifiers hold up on changed images and on external test sets: a table, and a figure of macro F1."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mae_jax.report import analysis, figures, panels, ratios, tables
from mae_jax.report.analysis import Study
from mae_jax.report.comparisons import Difference, judged
from mae_jax.report.runs import Level, Run, check_same_images
from mae_jax.rundir.predictions import read_predictions
from mae_jax.runtime import files

METRICS = ("accuracy", "f1", "ece")
COLUMNS = (
    *("test_set", "change", "level", "fraction", "arm", "label_count", "init", "seeds"),
    *(f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")),
    *("flipped", "flipped_low", "flipped_high"),
    *("baseline", "difference", "low", "high", "p", "holm_p", "verdict"),
)
UNCHANGED = "unchanged"


@dataclasses.dataclass(frozen=True)
class Change:
    """Where each run has its predictions for one change at one level. `neutral` is the level that changes nothing."""

    name: str
    axis: str  # what the level is, in words
    neutral: float
    level: float
    files: Sequence[Path]  # one for each run


@dataclasses.dataclass(frozen=True)
class ExternalTest:
    """An external test set: the runs that were tested on it, their predictions for its images, and the changes."""

    name: str
    runs: Sequence[Run]
    unchanged: Sequence[Path]  # one for each run
    changes: Sequence[Change]

    @property
    def tested(self) -> list[Run]:
        """The runs with these predictions as their test. Raises UserError for invalid or different predictions."""
        tested = [_with_test(run, file) for run, file in zip(self.runs, self.unchanged, strict=True)]
        for run, file in zip(tested, self.unchanged, strict=True):
            check_same_images(run, tested[0], file)
        return tested


def _with_test(run: Run, file: Path) -> Run:
    return dataclasses.replace(run, test=read_predictions(file, run.raw_classes)[0])


def rows(runs: Sequence[Run], changes: Sequence[Change], external: Sequence[ExternalTest] = ()) -> list[dict]:
    """A row for each test set, change, level and cell; those of the unchanged images come first in each test set.

    `test_set` is "" for the runs' own test set. `flipped` is the share of images whose predicted class differs from
    that of the unchanged image. `difference` is that of macro F1 from the strongest training from scratch at the same
    fraction, which is chosen on unchanged validation images; Holm's correction is for all rows. Raises UserError for
    predictions that are not valid, and for runs that were tested on different images of one set.
    """
    table: list[dict] = []
    family: list[tuple[dict, Difference | None]] = []
    main = ("", list(runs), changes)
    for name, tested, its_changes in (main, *((each.name, each.tested, each.changes) for each in external)):
        usual = analysis.analyze(tested)
        parts = [_rows(usual, usual, name, UNCHANGED, None)]
        for change in its_changes:
            changed = [_with_test(run, file) for run, file in zip(tested, change.files, strict=True)]
            parts.append(_rows(analysis.analyze(changed), usual, name, change.name, change.level))
        for more, differences in parts:
            table += more
            family += differences
    for row, each, verdict in judged(family):
        row |= verdict | dict(zip(("difference", "low", "high", "p"), (each or (None,) * 4)[:4], strict=True))
    return table


def _rows(
    study: Study, usual: Study, test_set: str, name: str, level: float | None
) -> tuple[list[dict], list[tuple[dict, Difference | None]]]:
    table, family = [], []
    for place, init in study.cells:
        index = study.of(place, init)
        row = {"test_set": test_set, "change": name, "level": level, **place.columns, "init": init, "seeds": len(index)}
        for metric in METRICS:
            low, high = study.interval(metric, index)
            row |= {metric: study.mean(metric, index), f"{metric}_low": low, f"{metric}_high": high}
        flips = np.stack([(study.runs[i].test.predictions != usual.runs[i].test.predictions) * 1.0 for i in index])
        share = ratios.ratio(flips, np.ones_like(flips), study.unit_of) if level is not None else None
        low, high = ratios.share_interval(share) if share else (None, None)
        row |= {"flipped": share.estimate if share else None, "flipped_low": low, "flipped_high": high}
        base = usual.baseline(place) if init in usual.compared else None
        table.append(row | {"baseline": base or "", **dict.fromkeys(COLUMNS[-6:])})
        if base is not None:
            sides = study.shared_seeds(index, study.of(place, base))
            if sides[0]:
                gone = any(study.collapsed(side) == len(side) for side in sides)
                family.append((table[-1], None if gone else study.difference("f1", *sides)))
    return table, family


def figure(runs: Sequence[Run], table: Sequence[dict], changes: Sequence[Change], level: Level) -> panels.Numbers:
    """Macro F1 in percent against the strength of each change, with 95 % intervals, at one number of labels.

    External test sets, unchanged, have a panel of their own next to the runs' test set.
    """
    study = Study(list(runs), {}, {}, "", np.zeros(0, int))
    inits = [init for place, init in study.cells if place == level]
    names = list(dict.fromkeys(change.name for change in changes))
    about = {change.name: change for change in changes}
    handles = [figures.handle(study, init, linewidth=1.5) for init in inits]
    external = list(dict.fromkeys(row["test_set"] for row in table if row["test_set"]))
    titles = [*names, *(["external test sets"] if external else [])]
    columns = min(3, len(titles))
    lines = -(-len(titles) // columns)
    grid = panels.grid(
        lines, columns, panel=(2.65, 2.1), handles=handles, labels=[panels.short(init) for init in inits], title=1
    )
    of_level = [row for row in table if Level.of_row(row) == level]
    at = [row for row in of_level if not row["test_set"]]
    drawn: list[dict] = []
    for ax, name in zip(grid.all_axes, names, strict=False):
        neutral = about[name].neutral
        ticks = sorted({neutral, *(row["level"] for row in at if row["change"] == name)})
        for init in inits:
            mine = [row for row in at if row["init"] == init]
            points = {row["level"]: row for row in mine if row["change"] == name}
            points[neutral] = next(row for row in mine if row["change"] == UNCHANGED)
            x = [place for place, tick in enumerate(ticks) if tick in points]
            y, low, high = (
                np.array([100 * points[tick][f"f1{end}"] for tick in ticks if tick in points])
                for end in ("", "_low", "_high")
            )
            color = figures.color(study, init)
            ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
            ax.plot(x, y, color=color, marker=figures.marker(study, init), markersize=5)
            drawn += [{"panel": name, "init": init, **points[tick], "level": tick} for tick in ticks if tick in points]
        ax.set_xticks(range(len(ticks)), [UNCHANGED if tick == neutral else f"{tick:g}" for tick in ticks])
        ax.axvline(ticks.index(neutral), color="0.7", linewidth=0.8, linestyle=":")
        ax.set_title(name)
        ax.set_xlabel(about[name].axis)
    if external:
        ax, ticks = grid.all_axes[len(names)], ["", *external]
        for place, init in enumerate(inits):
            shift = 0.12 * (place - (len(inits) - 1) / 2)
            points = {row["test_set"]: row for row in of_level if (row["change"], row["init"]) == (UNCHANGED, init)}
            there = [name for name in ticks if name in points]
            y = np.array([[100 * points[name][f"f1{end}"] for end in ("", "_low", "_high")] for name in there])
            ax.errorbar(
                [ticks.index(name) + shift for name in there], y[:, 0], np.maximum(0, abs(y[:, 1:].T - y[:, 0])),
                color=figures.color(study, init), marker=figures.marker(study, init), markersize=5, linestyle="",
            )  # fmt: skip
            drawn += [{"panel": titles[-1], **points[name]} for name in there]
        ax.set_xticks(range(len(ticks)), ["own", *(panels.short(name, 14) for name in external)])
        ax.set_xlim(-0.5, len(ticks) - 0.5)
        ax.set_title(titles[-1])
        ax.set_xlabel("test set, unchanged images")
    for ax in grid.all_axes[len(titles) :]:
        ax.set_axis_off()
    for line in grid.axes:
        line[0].set_ylabel("macro F1, %")
    return grid.figure, drawn


def text(table: Sequence[dict], level: Level) -> str:
    """The rows of one number of labels as a Markdown table for each test set; external ones have a heading."""
    parts = [_table_text([row for row in table if not row["test_set"]], level)]
    for name in dict.fromkeys(row["test_set"] for row in table if row["test_set"]):
        parts += [f"## External test set {name}", _table_text([row for row in table if row["test_set"] == name], level)]
    return "\n\n".join(parts)


def _table_text(table: Sequence[dict], level: Level) -> str:
    metrics = {"accuracy": "accuracy", "f1": "macro F1", "ece": "calibration error", "flipped": "flipped"}
    head = ("change", "level", "init", *metrics.values(), "difference of macro F1", "")
    lines = [head, ("---",) * len(head)]
    for row in table:
        if Level.of_row(row) != level:
            continue
        gain = "" if row["difference"] is None else (
            f"{100 * row['difference']:+.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
        )  # fmt: skip
        scores = [
            "" if row[m] is None else f"{100 * row[m]:.1f} ({100 * row[f'{m}_low']:.1f}–{100 * row[f'{m}_high']:.1f})"
            for m in metrics
        ]
        strength = "" if row["level"] is None else f"{row['level']:g}"
        lines.append((row["change"], strength, row["init"], *scores, gain, row["verdict"] or ""))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(
    out: Path, runs: Sequence[Run], changes: Sequence[Change], more: str = "", external: Sequence[ExternalTest] = ()
) -> tuple[list[dict], list[Path]]:
    """Writes robustness.csv, .md, .svg and .png to `out`. Returns the rows and the paths.

    `more` is Markdown for the end of robustness.md.
    """
    table = rows(runs, changes, external)
    level = max((run.level for run in runs), key=lambda level: (level.arm == runs[0].arm, level.fraction))
    out.mkdir(parents=True, exist_ok=True)
    paths = [tables.write_csv(out / "robustness.csv", table, COLUMNS)]
    words = f"Tested with {level}, in percent.\n\n{text(table, level)}\n" + (f"\n{more}\n" if more else "")
    paths.append(files.write(out / "robustness.md", words))
    with panels.style():
        drawing, _ = figure(runs, table, changes, level)
        for form in ("svg", "png"):
            drawn = io.BytesIO()
            drawing.savefig(drawn, format=form, dpi=150)
            paths.append(files.write(out / f"robustness.{form}", drawn.getvalue()))
    return table, paths
