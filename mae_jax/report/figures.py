"""The figures of the report; each function returns a Matplotlib figure and its numbers as rows.

Scratch and mae keep their colours throughout (Okabe and Ito's palette, told apart by the colour-blind),
and every initialisation has its own marker besides.
"""

import math
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mae_jax.report import stats
from mae_jax.report.analysis import BASELINE, Study
from mae_jax.report.runs import Level, is_number, percent
from mae_jax.report.tables import NOTHING, level_of

COLOURS = {"scratch": "#D55E00", "mae": "#0072B2"}
OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B", "#999933", "#882255", "#7F7F7F", "#332288")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "svg.hashsalt": "mae_jax",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "axes.unicode_minus": True,
}
WIDTH = 4.8  # inches: the text stays legible on a phone
Numbers = tuple[Figure, list[dict]]


def colour(study: Study, init: str) -> str:
    others = [name for name in study.inits if name not in COLOURS]
    return COLOURS.get(init) or OTHERS[others.index(init) % len(OTHERS)]


def marker(study: Study, init: str) -> str:
    return MARKERS[study.inits.index(init) % len(MARKERS)]


def short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def curve(study: Study, rows: Sequence[dict], metric: str, arms: Sequence[str]) -> Numbers:
    """Accuracy or macro F1 against the number of labels, with 95 % intervals; the first of `arms` drawn through."""
    figure, (ax,) = grid(1, 1, height=3.4, width=4.2)
    rows = [row for row in rows if row["arm"] in arms]
    counts = all(row["n_train"] for row in rows)
    for i, (init, arm) in enumerate((i, a) for i in study.inits for a in arms):
        own = [row for row in rows if (row["init"], row["arm"]) == (init, arm)]
        if not own:
            continue
        x = np.array([row["n_train"] if counts else 100 * row["fraction"] for row in own])
        y = np.array([row[metric] for row in own])
        ends = np.array([[row[f"{metric}_low"], row[f"{metric}_high"]] for row in own]).T
        ax.errorbar(
            x * 1.03 ** (i - (len(study.inits) * len(arms) - 1) / 2),  # side by side, not on top
            y,
            yerr=np.maximum([y - ends[0], ends[1] - y], 0),
            color=colour(study, init),
            marker=marker(study, init),
            markersize=5,
            linewidth=1.5,
            capsize=3,
            **arm_style(arms, arm),
        )
    handles = [handle(study, init) for init in study.inits if any(row["init"] == init for row in rows)]
    handles += [Line2D([], [], color="0.4", marker="o", label=arm, **arm_style(arms, arm)) for arm in arms[1:]]
    if metric == "accuracy":
        line = ax.axhline(rows[0]["majority_rate"], color="0.5", linestyle=":")
        line.set_label("always the commonest class")
        handles.append(line)
    at = {row["fraction"]: row["n_train"] if counts else 100 * row["fraction"] for row in rows}
    known = sorted((x, study.random_probe[f][metric]) for f, x in at.items() if f in study.random_probe)
    if known:
        (line,) = ax.plot(*zip(*known, strict=True), color="0.5", linestyle="-.", marker="x", markersize=4)
        line.set_label("random weights, linear probe")
        handles.append(line)
    _label_axis(ax, rows, counts)
    ax.set_ylabel(("accuracy" if metric == "accuracy" else "macro F1") + " on the test images")
    ax.grid(axis="y", color="0.92")
    legend(figure, handles)
    names = ["fraction", "init", "n_train", metric, f"{metric}_low", f"{metric}_high", f"random_probe_{metric}", "arm"]
    return figure, [{name: row[name] for name in names} for row in rows]


def differences(study: Study, paired: Sequence[dict]) -> Numbers:
    """Forest plot of the paired differences to scratch, in points of accuracy and macro F1; a block for each arm."""
    inits = [init for init in study.inits if init != BASELINE]
    levels = list(dict.fromkeys(level_of(row) for row in paired))[::-1]
    tall = 0.9 + sum(max(0.26 + 0.14 * bool(level.arm), 0.24 * len(inits)) for level in levels)
    figure, axes = grid(1, 2, height=max(1.9, tall), sharey=True)
    for ax, metric, title in zip(axes, ("accuracy", "f1"), ("Accuracy", "Macro F1"), strict=True):
        ax.axvline(0, color="0.3", linewidth=1)
        for row in paired:
            if row["metric"] != metric:
                continue
            at = levels.index(level_of(row))
            at += min(0.25, 0.8 / len(inits)) * ((len(inits) - 1) / 2 - inits.index(row["init"]))
            sure = row["verdict"] != NOTHING
            ax.plot([100 * row["low"], 100 * row["high"]], [at, at], color=colour(study, row["init"]))
            ax.plot(
                100 * row["difference"],
                at,
                marker=marker(study, row["init"]),
                color=colour(study, row["init"]),
                markerfacecolor=colour(study, row["init"]) if sure else "white",
                markersize=7,
            )
        ax.set_title(title)
        ends = [100 * row[k] for row in paired if row["metric"] == metric for k in ("low", "high")]
        most = max(0.5, 0.1 * np.ptp([0, *ends]))
        ax.set_xlim(min(0, *ends) - most, max(0, *ends) + most)
        ax.grid(axis="x", color="0.92")
    for ax in axes:
        ax.set_xlabel("points")
    axes[0].set_yticks(range(len(levels)), [heading(level) for level in levels], fontsize=8)
    axes[0].set_ylim(-0.6, len(levels) - 0.4)
    handles = [handle(study, init) for init in inits]
    handles.append(Line2D([], [], color="0.4", marker="o", markerfacecolor="white", label=NOTHING))
    legend(figure, handles)
    return figure, [row for row in paired if row["metric"] in ("accuracy", "f1")]


def fitted(study: Study, rows: Sequence[dict]) -> Numbers | None:
    """Share wrong against labels on logarithmic axes, with a power law and its fit (R squared)."""
    counts = all(row["n_train"] for row in rows)
    found, figure, ax = [], *grid(1, 1, height=2.8 + 0.2 * len(study.inits), width=4.2)
    for init in study.inits:
        own = [row for row in rows if row["init"] == init and row["accuracy"] < 1 and row["arm"] == study.arms[0]]
        n = np.array([row["n_train"] if counts else 100 * row["fraction"] for row in own], float)
        wrong = 1 - np.array([row["accuracy"] for row in own])
        if len(set(n.tolist())) < 3 or np.ptp(wrong) == 0:
            continue
        a, b, r2 = stats.power_law(n, wrong)
        ax[0].plot(n, 100 * wrong, marker(study, init), color=colour(study, init))
        ax[0].plot(n, 100 * a * n**-b, "--", color=colour(study, init), linewidth=1)
        ax[0].plot(
            [],
            [],
            color=colour(study, init),
            marker=marker(study, init),
            linestyle="--",
            label=f"{short(init)}: errors {'fall' if b > 0 else 'rise'} as n^{-b:.2f}, R² {r2:.2f}".replace("-", "−"),
        )
        found += [
            {"init": init, "labels": x, "wrong": y, "fitted": a * x**-b, "a": a, "b": b, "r2": r2}
            for x, y in zip(n.tolist(), wrong.tolist(), strict=True)
        ]
    if not found:
        return None
    ax[0].set_yscale("log")
    _label_axis(ax[0], rows, counts)
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)]
    ax[0].set_yticks(ticks, [f"{t:g}" for t in ticks])
    wrong = [100 * row["wrong"] for row in found] + [100 * row["fitted"] for row in found]
    ax[0].set_ylim(min(wrong) / 1.3, max(wrong) * 1.3)
    ax[0].minorticks_off()
    ax[0].set_ylabel("wrong, % of the test images")
    legend(figure, ax[0].get_legend_handles_labels()[0], columns=1)
    return figure, found


def training(study: Study, arms: Sequence[str]) -> Numbers | None:
    """Loss and accuracy during training: one row of panels per level, a line per run."""
    logged = [run for run in study.runs if run.log and run.arm in arms]
    levels = sorted({run.level for run in logged})
    if not levels:
        return None
    by_epoch = all(any("epoch" in line for line in run.log) for run in logged)
    alike = by_epoch and "as many updates" not in arms[0]  # of few labels, as many updates are more epochs
    figure, axes = grid(len(levels), 2, height=1.7 * len(levels) + 0.6, sharex=alike)
    found = []
    for ax, (level, name) in zip(axes, [(f, m) for f in levels for m in ("loss", "accuracy")], strict=False):
        for run in logged:
            if run.level != level:
                continue
            for split, line in (("train", "--"), ("val", "-")):
                points = series(run.log, "epoch" if by_epoch else "step", f"{split}/{name}")
                if points:
                    ax.plot(
                        [x for x, _ in points],
                        [y for _, y in points],
                        linestyle=line,
                        color=colour(study, run.init),
                        linewidth=1.3,
                        alpha=0.9,
                        marker="." if len(points) < 3 else "",
                    )
                found += [
                    {
                        "fraction": level.fraction,
                        "arm": level.arm,
                        "init": run.init,
                        "seed": run.seed,
                        "split": split,
                        "metric": name,
                        "epoch" if by_epoch else "step": x,
                        "value": y,
                    }
                    for x, y in points
                ]
        ax.set_title(heading(level), fontsize=9)
        ax.set_ylabel(name)
        if level == levels[-1] or not alike:
            ax.set_xlabel("epoch" if by_epoch else "step")
        ax.grid(axis="y", color="0.92")
    handles = [
        Line2D([], [], color=colour(study, i), label=short(i))
        for i in study.inits
        if any(run.init == i for run in logged)
    ]
    handles.append(Line2D([], [], color="0.3", linestyle="--", label="training"))
    handles.append(Line2D([], [], color="0.3", label="validation"))
    legend(figure, handles)
    return (figure, found) if found else None


def heading(level: Level) -> str:
    """A panel's title; the arm stands in lines of its own."""
    arm = "\n".join(textwrap.wrap(level.arm, 26))
    return f"{percent(level.fraction)} of the labels" + (f",\n{arm}" if arm else "")


def arm_style(arms: Sequence[str], arm: str) -> dict:
    """The line of an arm: the first one is drawn through, the others are not."""
    at = arms.index(arm)
    return {"linestyle": ("--", ":", "-.")[(at - 1) % 3], "markerfacecolor": "white"} if at else {}


def series(log: Sequence[dict], axis: str, key: str) -> list[tuple[float, float]]:
    """The finite points of one logged scalar, in order; of a step logged twice the last one."""
    points = {
        float(line[axis]): float(line[key]) for line in log if is_number(line.get(axis)) and is_number(line.get(key))
    }
    return sorted(points.items())


def grid(lines: int, columns: int, height: float, width: float = WIDTH, ratios=None, **share):
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, height_ratios=ratios, **share)
    return figure, list(axes.ravel())


def legend(figure: Figure, handles: Sequence[Artist], columns: int = 0) -> None:
    """One legend for the whole figure, below it, with as many entries a line as fit, or in `columns`."""
    names = [len(str(one.get_label())) for one in handles]

    def inches(n: int) -> float:
        """About how wide n columns are: handle and gap, and the longest name, in each."""
        return sum(0.55 + 0.058 * part.max() for part in np.array_split(names, n))

    fit = [n for n in (4, 3, 2) if n <= len(names) and inches(n) < figure.get_figwidth()]
    columns = columns or (fit[0] if fit else 1)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8)


def handle(study: Study, init: str) -> Line2D:
    """An initialisation's line and mark, for a legend."""
    return Line2D([], [], color=colour(study, init), marker=marker(study, init), label=short(init))


def _label_axis(ax: Axes, rows: Sequence[dict], counts: bool) -> None:
    """A logarithmic axis of labels that names the measured points and no others."""
    at = {row["fraction"]: row["n_train"] if counts else 100 * row["fraction"] for row in rows}
    ax.set_xscale("log")
    texts = [f"{n:,}\n{percent(f)}" if counts else percent(f) for f, n in at.items()]
    places = np.log(np.array(list(at.values()), float))
    last = math.inf
    for i in np.argsort(-places):  # a label that would run into the one to its right is left out
        if last - places[i] < 0.11 * max(np.ptp(places), 1e-9):
            texts[i] = ""
        else:
            last = places[i]
    ax.set_xticks(list(at.values()), texts, fontsize=7.5)
    ax.minorticks_off()
    ax.set_xlabel("labelled training images" if counts else "share of the labelled training images")


def style() -> AbstractContextManager:
    """The settings under which every figure is drawn and saved."""
    return matplotlib.rc_context(STYLE)
