"""The figures of the report; each function returns a Matplotlib figure and its numbers as rows.

Scratch and mae have the same colors in all figures (Okabe and Ito's palette, which color-blind readers can
distinguish), and every initialization has its own marker. Legends show the marks as they are drawn.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mae_jax.report import stats
from mae_jax.report.analysis import Study
from mae_jax.report.autoencoder_pictures import Pretraining
from mae_jax.report.cell_types import CellTypes
from mae_jax.report.comparisons import NOTHING, is_higher, is_lower, is_unsure
from mae_jax.report.panels import LETTER, LINE, Handle, Numbers, grid, short, wrapped
from mae_jax.report.runs import BASELINE, Level, series
from mae_jax.rundir.contents import is_linear

COLORS = {"scratch": "#D55E00", "mae": "#0072B2"}
OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B", "#999933", "#882255", "#7F7F7F", "#332288")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")
WATCHED = {"loss": "removed patches", "visible_loss": "visible patches"}  # errors that a pre-training logs
NAMES = {"accuracy": "accuracy", "f1": "macro F1"}
SUPERSCRIPT = str.maketrans("0123456789-.", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻·")
ACROSS = 4  # maximum number of panels side by side
SMALL = 1.12  # width in inches of a panel of a figure that shares a line of the page with another figure


def color(study: Study, init: str) -> str:
    others = [name for name in study.inits if name not in COLORS]
    return COLORS.get(init) or OTHERS[others.index(init) % len(OTHERS)]


def marker(study: Study, init: str) -> str:
    return MARKERS[study.inits.index(init) % len(MARKERS)]


def handle(study: Study, init: str, **look) -> Line2D:
    """The line and mark of an initialization, for a legend."""
    return Line2D([], [], **{"color": color(study, init), "marker": marker(study, init), "markersize": 5} | look)


class Curve(NamedTuple):
    """One panel of `curves`: a metric of table rows against the number of labels, the first of `arms` solid."""

    title: str
    study: Study
    rows: Sequence[dict]
    metric: str
    arms: Sequence[str]


def curves(panels: Sequence[Curve], width: float = 3.45) -> Numbers:
    """Scores in percent against the number of labels, with 95 % intervals; the panels share one y axis.

    `width` is that of a panel in inches. By default there is room for the labels of 50 % and 100 % side by side.
    """
    study = max((panel.study for panel in panels), key=lambda study: len(study.inits))  # colors and marks of all inits
    handles: dict[str, Handle] = {}
    for panel in panels:
        for init, arm in _drawn(panel):
            label = ", ".join(filter(None, (short(init), arm if arm != panel.arms[0] else "")))
            handles.setdefault(label, handle(study, init, linewidth=1.5, **arm_style(panel.arms, arm)))
    if any(panel.metric == "accuracy" for panel in panels):
        handles["always the most common class"] = Line2D([], [], color="0.5", linestyle=":")
    if any(_random_probe(panel) for panel in panels):
        look = {"color": "0.5", "linestyle": "-.", "marker": "x", "markersize": 4}
        handles["random weights, linear probe"] = Line2D([], [], **look)
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = grid(
        *(lines, columns),
        panel=(width, 2.4),
        handles=list(handles.values()),
        labels=list(handles),
        title=1,
        ticks=2,
    )
    numbers = []
    for ax, panel in zip(figure.all_axes, panels, strict=False):
        numbers += _curve(ax, panel, study, width)
    for ax in figure.all_axes[len(panels) :]:
        ax.set_axis_off()
    for line in figure.axes:
        line[0].set_ylabel("% of the test images" if {p.metric for p in panels} == {"accuracy"} else "score, %")
    return figure.figure, numbers


def _drawn(panel: Curve) -> list[tuple[str, str]]:
    """(init, arm) of every line to draw."""
    known = {(row["init"], row["arm"]) for row in panel.rows}
    return [(i, a) for i in panel.study.inits for a in panel.arms if (i, a) in known]


def _counted(rows: Sequence[dict]) -> bool:
    return all(row["n_train"] for row in rows)


def _random_probe(panel: Curve) -> list[tuple[float, float]]:
    rows = [row for row in panel.rows if row["arm"] in panel.arms]
    at = {row["fraction"]: row["n_train"] if _counted(rows) else 100 * row["fraction"] for row in rows}
    probe, runs = panel.study.random_probe, panel.study.runs
    if is_linear(runs[0].evaluation) and BASELINE in panel.study.inits:
        return []  # the line from scratch is of these probes
    return sorted((x, 100 * probe[f][panel.metric]) for f, x in at.items() if panel.metric in probe.get(f, {}))


def _curve(ax: Axes, panel: Curve, colors: Study, width: float) -> list[dict]:
    rows = [row for row in panel.rows if row["arm"] in panel.arms]
    counts, lines = _counted(rows), _drawn(panel)
    for i, (init, arm) in enumerate(lines):
        points = [row for row in rows if (row["init"], row["arm"]) == (init, arm)]
        x = np.array([row["n_train"] if counts else 100 * row["fraction"] for row in points])
        y, low, high = (np.array([100 * row[panel.metric + end] for row in points]) for end in ("", "_low", "_high"))
        ax.errorbar(
            x * 1.03 ** (i - (len(lines) - 1) / 2),  # shifted sideways, so that points do not overlap
            y,
            yerr=np.maximum([y - low, high - y], 0),
            color=color(colors, init),
            marker=marker(colors, init),
            markersize=5,
            linewidth=1.5,
            capsize=3,
            **arm_style(panel.arms, arm),
        )
    if panel.metric == "accuracy":
        ax.axhline(100 * rows[0]["majority_rate"], color="0.5", linestyle=":")
    if known := _random_probe(panel):
        ax.plot(*zip(*known, strict=True), color="0.5", linestyle="-.", marker="x", markersize=4)
    _label_axis(ax, rows, counts, width)
    ax.set_title(short(panel.title, 30))
    ax.grid(axis="y", color="0.92")
    names = ["fraction", "label_count", "init", "n_train"]
    values = {"": "score", "_low": "score_low", "_high": "score_high"}
    return [
        {"panel": panel.title, "metric": panel.metric}
        | {name: row[name] for name in names}
        | {name: row[panel.metric + end] for end, name in values.items()}
        | {"random_probe": row.get(f"random_probe_{panel.metric}"), "arm": row["arm"]}
        for row in rows
    ]


def differences(study: Study, paired: Sequence[dict]) -> Numbers:
    """Forest plot of the paired differences from the baselines, in points of accuracy and macro F1."""
    paired = [row for row in paired if row["low"] is not None]  # collapsed models cannot be compared
    inits = [init for init in study.compared if any(row["init"] == init for row in paired)]
    levels = list(dict.fromkeys(Level.of_row(row) for row in paired))[::-1]
    names = [heading(level) for level in levels]
    most = max(len(line) for name in names for line in name.splitlines())
    handles: list[Handle] = [handle(study, init, markersize=6) for init in inits]
    labels = [short(init) for init in inits]
    drawn = [row for row in paired if row["metric"] in NAMES]
    if not all(is_higher(row) or is_lower(row) for row in drawn):
        handles.append(tuple(handle(study, i, markersize=6, markerfacecolor="white", linewidth=0) for i in inits))
        labels.append(NOTHING + (", or not confirmed" if any(map(is_unsure, drawn)) else ""))
    tall = sum(max(0.3 + LINE * name.count("\n"), 0.24 * len(inits)) for name in names)
    figure = grid(
        *(1, 2), panel=(1.7, max(0.8, tall)), handles=handles, labels=labels, title=1, left=0.15 + LETTER * most
    )
    for ax, (metric, title) in zip(figure.all_axes, (("accuracy", "Accuracy"), ("f1", "Macro F1")), strict=True):
        ax.axvline(0, color="0.3", linewidth=1)
        for row in drawn:
            if row["metric"] != metric:
                continue
            at = levels.index(Level.of_row(row))
            at += min(0.25, 0.8 / len(inits)) * ((len(inits) - 1) / 2 - inits.index(row["init"]))
            shade = color(study, row["init"])
            ax.plot([100 * row["low"], 100 * row["high"]], [at, at], color=shade)
            face = shade if is_higher(row) or is_lower(row) else "white"
            mark = marker(study, row["init"])
            ax.plot(100 * row["difference"], at, marker=mark, color=shade, markerfacecolor=face, markersize=6)
        ends = [100 * row[k] for row in drawn if row["metric"] == metric for k in ("low", "high")]
        room = max(0.5, 0.1 * np.ptp([0, *ends]))
        ax.set_xlim(min(0, *ends) - room, max(0, *ends) + room)
        ax.set_title(title)
        ax.set_xlabel("points")
        ax.grid(axis="x", color="0.92")
    figure.all_axes[0].set_yticks(range(len(levels)), names)
    figure.all_axes[0].set_ylim(-0.6, len(levels) - 0.4)
    return figure.figure, drawn


def fitted(study: Study, rows: Sequence[dict]) -> Numbers | None:
    """Share of errors against labels on logarithmic axes, with a fitted power law and its R squared.

    Each point is the mean over the models that did not collapse.
    """
    usual = [row for row in rows if row["arm"] == study.arms[0]]
    counts = _counted(usual)
    lines = []
    for init in study.inits:
        learned = [(row, study.learned(Level.of_row(row), init)) for row in usual if row["init"] == init]
        points = [(row, 1 - study.mean("accuracy", runs)) for row, runs in learned if runs]
        points = [(row, errors) for row, errors in points if errors > 0]
        n = np.array([row["n_train"] if counts else 100 * row["fraction"] for row, _ in points], float)
        wrong = np.array([errors for _, errors in points])
        if len(set(n.tolist())) < 3 or np.ptp(wrong) == 0:
            continue
        lines.append((init, n, wrong, *stats.power_law(n, wrong)))
    if not lines:
        return None
    figure = grid(
        *(1, 1),
        panel=(3.4, 2.3),
        handles=[handle(study, init, linestyle="--", linewidth=1) for init, *_ in lines],
        labels=[
            f"{short(init)}: errors {'fall' if b > 0 else 'rise'} as n{raised(-b)}, R² {r2:.2f}".replace("-", "−")
            for init, _, _, _, b, r2 in lines
        ],
        ticks=2,
        legend_columns=1,
    )
    (ax,), numbers = figure.all_axes, []
    for init, n, wrong, a, b, r2 in lines:
        ax.plot(n, 100 * wrong, marker(study, init), color=color(study, init), markersize=5)
        ax.plot(n, 100 * a * n**-b, "--", color=color(study, init), linewidth=1)
        numbers += [
            {"init": init, "labels": x, "wrong": y, "fitted": a * x**-b, "a": a, "b": b, "r2": r2}
            for x, y in zip(n.tolist(), wrong.tolist(), strict=True)
        ]
    ax.set_yscale("log")
    _label_axis(ax, usual, counts, 3.4)
    ticks = (0.1, 0.2, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60, 100)
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    wrong = [100 * row["wrong"] for row in numbers] + [100 * row["fitted"] for row in numbers]
    ax.set_ylim(min(wrong) / 1.3, max(wrong) * 1.3)
    ax.minorticks_off()
    ax.set_ylabel("wrong, % of the test images")
    return figure.figure, numbers


def raised(exponent: float) -> str:
    """An exponent with two decimals in superscript characters, such as `⁻⁰·³⁶`."""
    return f"{exponent:.2f}".translate(SUPERSCRIPT)


def sensitivities(study: Study, types: CellTypes) -> Numbers | None:
    """Sensitivity for each shown class against the number of labels, with 95 % intervals and a common y axis."""
    usual = [row for row in types.rows if row["arm"] == study.arms[0]]
    levels = sorted({Level.of_row(row) for row in usual})
    if len(levels) < 2:
        return None
    counted = all(level.label_count for level in levels)
    columns = min(ACROSS + 1, len(types.shown))
    lines = -(-len(types.shown) // columns)
    inits = [init for init in study.inits if any(row["init"] == init for row in usual)]
    figure = grid(
        *(lines, columns),
        panel=(1.55, 1.6),
        handles=[handle(study, init) for init in inits],
        labels=[short(init) for init in inits],
        title=1,
    )
    for ax, name in zip(figure.all_axes, types.shown, strict=False):
        for i, init in enumerate(inits):
            points = [row for row in usual if (row["class"], row["init"]) == (name, init)]
            x = np.array([row["label_count"] or 100 * row["fraction"] for row in points]) * 1.06 ** (
                i - (len(inits) - 1) / 2
            )
            y, low, high = (
                np.array([100 * row["sensitivity" + end] for row in points]) for end in ("", "_low", "_high")
            )
            bars = np.maximum([y - low, high - y], 0)
            look = {"color": color(study, init), "marker": marker(study, init), "markersize": 5}
            ax.errorbar(x, y, yerr=bars, capsize=2, linewidth=1.3, **look)
        n = next(row["n"] for row in usual if row["class"] == name)
        ax.set_title(f"{short(name, 14)} ({n:,})")
        ax.set_ylim(-4, 104)
        ax.grid(axis="y", color="0.92")
        _label_axis(ax, [level.columns | {"n_train": level.label_count} for level in levels], counted, 1.55)
        ax.set_xlabel("labels" if counted else "% of the labels")
        ax.set_xticks(ax.get_xticks(), [t.get_text().removesuffix(" %") for t in ax.get_xticklabels()])
    for ax in figure.all_axes[len(types.shown) :]:
        ax.set_axis_off()
    for line in figure.axes:
        line[0].set_ylabel("sensitivity, %")
    keys = ("fraction", "label_count", "init", "class", "n", "sensitivity", "sensitivity_low", "sensitivity_high")
    keys += ("arm",)
    return figure.figure, [{key: row[key] for key in keys} for row in usual]


def training(study: Study, arms: Sequence[str]) -> Numbers | None:
    """Loss and accuracy during training, with a column of panels for each level and a line for each run."""
    logged = [run for run in study.runs if run.log and run.arm in arms]
    levels = sorted({run.level for run in logged})
    if not levels:
        return None
    axis = "epoch" if all(any("epoch" in line for line in run.log) for run in logged) else "step"
    inits = [init for init in study.inits if any(run.init == init for run in logged)]
    handles: list[Handle] = [Line2D([], [], color=color(study, init), linewidth=1.3) for init in inits]
    handles += [Line2D([], [], color="0.3", linestyle="--"), Line2D([], [], color="0.3")]
    columns = min(ACROSS, len(levels))
    blocks = -(-len(levels) // columns)
    titles = [wrapped(str(level), SMALL) for level in levels]
    figure = grid(
        *(2 * blocks, columns),
        panel=(SMALL, 1.3),
        handles=handles,
        labels=[*map(short, inits), "training", "validation"],
        title=max(map(len, titles)),
    )
    numbers = []
    for i, (level, title) in enumerate(zip(levels, titles, strict=True)):
        for offset, name in enumerate(("loss", "accuracy")):
            ax = figure.axes[2 * (i // columns) + offset][i % columns]
            for run in logged:
                if run.level == level:
                    numbers += _training_lines(ax, run, axis, name, color(study, run.init))
            ax.set_title("\n".join(title) if not offset else "")
            ax.set_xlabel(axis if offset else "")
            ax.grid(axis="y", color="0.92")
    for line, row in enumerate(figure.axes):
        row[0].set_ylabel("accuracy, %" if line % 2 else "loss")
    for i in range(len(levels), blocks * columns):
        for offset in (0, 1):
            figure.axes[2 * (i // columns) + offset][i % columns].set_axis_off()
    return (figure.figure, numbers) if numbers else None


def _training_lines(ax: Axes, run, axis: str, name: str, shade: str) -> list[dict]:
    numbers = []
    for split, dashes in (("train", "--"), ("val", "-")):
        points = series(run.log, axis, f"{split}/{name}")
        if not points:
            continue
        x, y = np.array(_thin(points)).T
        mark = "." if len(points) < 3 else ""
        scale = 100 if name == "accuracy" else 1
        ax.plot(x, scale * y, linestyle=dashes, color=shade, linewidth=1.3, alpha=0.9, marker=mark)
        start = {**run.level.columns, "init": run.init, "seed": run.seed}
        numbers += [start | {"split": split, "metric": name, axis: a, "value": b} for a, b in points]
    return numbers


def pretraining(study: Study, pretrainings: Sequence[Pretraining]) -> Numbers | None:
    """Errors on removed and visible patches during pre-training, with a line for each and a common y axis."""
    lines = []
    for each in pretrainings:
        axis = "epoch" if any("epoch" in line for line in each.log) else "step"
        for key, title in WATCHED.items():
            for split in ("train", "val"):
                if points := series(each.log, axis, f"{split}/{key}"):
                    lines.append((each, axis, title, split, points))
    if not lines:
        return None
    titles = [title for title in WATCHED.values() if any(line[2] == title for line in lines)]
    inits = list(dict.fromkeys(each.init for each, *_ in lines))
    splits = [split for split in ("train", "val") if any(line[3] == split for line in lines)]
    handles: list[Handle] = [Line2D([], [], color=color(study, init), linewidth=1.3) for init in inits]
    handles += [Line2D([], [], color="0.3", linestyle="--" if split == "train" else "-") for split in splits]
    names = {"train": "training images", "val": "held-out images"}
    labels = [*map(short, inits), *(names[split] for split in splits)]
    figure = grid(1, len(titles), panel=(1.9, 1.7), handles=handles, labels=labels, title=1)
    numbers = []
    for each, axis, title, split, points in lines:
        ax = figure.all_axes[titles.index(title)]
        x, y = np.array(_thin(points)).T
        dashes = "--" if split == "train" else "-"
        mark = "." if len(points) < 3 else ""
        ax.plot(x, y, linestyle=dashes, color=color(study, each.init), linewidth=1.3, marker=mark)
        start = {"init": each.init, "split": split, "error": title}
        numbers += [start | {"axis": axis, "at": a, "value": b} for a, b in points]
    for ax, title in zip(figure.all_axes, titles, strict=True):
        ax.set_title(f"Error on {title}")
        ax.set_xlabel(lines[0][1])
        ax.grid(axis="y", color="0.92")
    figure.all_axes[0].set_ylabel("mean squared error")
    return figure.figure, numbers


def _thin(points: Sequence[tuple[float, float]], most: int = 300) -> list[tuple[float, float]]:
    """At most `most` evenly spaced points, including the last."""
    if len(points) <= most:
        return list(points)
    return [points[i] for i in np.linspace(0, len(points) - 1, most).astype(int)]


def heading(level: Level) -> str:
    """A level in words, with the arm on separate lines."""
    arm = "\n".join(wrapped(level.arm, 2.0)) if level.arm else ""
    return level.labels + (f",\n{arm}" if arm else "")


def arm_style(arms: Sequence[str], arm: str) -> dict:
    """The line style of an arm: solid for the first one, and other styles for the others."""
    at = arms.index(arm)
    return {"linestyle": ("--", ":", "-.")[(at - 1) % 3], "markerfacecolor": "white"} if at else {}


def _label_axis(ax: Axes, rows: Sequence[dict], counts: bool, width: float) -> None:
    """Formats a logarithmic axis of labels, `width` inches wide, with ticks only at the measured points."""
    at = {Level.of_row(row)._replace(arm=""): row["n_train"] if counts else 100 * row["fraction"] for row in rows}
    ax.set_xscale("log")
    counted = counts and all(level.label_count for level in at)  # shares were not asked for
    texts = [f"{n:,}" if counted else f"{n:,}\n{level}" if counts else str(level) for level, n in at.items()]
    places = np.log(np.array(list(at.values()), float))
    inches = max(np.ptp(places), 1e-9) / (0.9 * width)  # logarithms per inch of the axis
    last, taken = math.inf, 0.0
    for i in np.argsort(-places):  # omit a label that would overlap the one to its right
        half_width = 0.5 * LETTER * max(map(len, texts[i].split("\n")))
        if last - places[i] < (half_width + taken + 0.03) * inches:
            texts[i] = ""
        else:
            last, taken = places[i], half_width
    ax.set_xticks(list(at.values()), texts)
    ax.minorticks_off()
    ax.set_xlabel("labeled training images" if counts else "share of the labeled training images")
