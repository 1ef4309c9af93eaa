"""The figures of a sweep. Each function returns a Matplotlib figure and its numbers as rows."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from mae_jax.report.figures import MARKERS, OTHERS
from mae_jax.report.panels import Numbers, grid
from mae_jax.report.runs import BASELINE, Level, percent, series
from mae_jax.report.stats import gray
from mae_jax.report.sweep.networks import Line, Sweep

PALETTE = ("#0072B2", "#D55E00", *OTHERS)
DASHES = ("-", "--", "-.", ":")
WATCHED = {"loss": "removed patches", "visible_loss": "visible patches", "spam": "patch repetition"}  # val/...
CAPTIONS = {
    "tradeoff": "Error on visible patches against error on removed ones. Each panel removes a different share "
    "of the patches in evaluation. A point is a network; its number is the share removed in its training. Lower and "
    "further left is better. One figure has normalized errors, the other gray levels.",
    "errors": "Errors against the share removed in training. All networks see the same images with the "
    "same patches removed. Bars are 95 % intervals over the images. The dotted line uses no network: it fills each "
    "removed patch with the mean color of the visible ones around it.",
    "spam": "Patch repetition among removed patches: 0 means as diverse as the originals, 1 means one patch "
    "everywhere. Bars are 95 % intervals over the images.",
    "training": "Errors and patch repetition on held-out images during pre-training. Each network removes the "
    "same share as in training. Errors are those of its loss.",
    "classifiers": "Test accuracy of classifiers that start from each network, with 95 % intervals. The dashed "
    "line and its shaded interval show training from scratch; the dotted line always predicts the most common "
    "class.",
}

PARTS = {"tradeoff_pixel": "in gray levels"}  # what distinguishes a figure from the previous one of its kind


def kind(name: str) -> str:
    """The kind of figure, from its file name."""
    return next(kind for kind in CAPTIONS if name.startswith(kind))


def draw(sweep: Sweep, rows: list[dict], classifiers: list[dict]) -> Iterator[tuple[str, Numbers]]:
    """Yields every figure for which the runs have data: (name, (figure, numbers))."""
    yield "tradeoff_normalised", tradeoff(sweep, rows, "normalised")
    yield "tradeoff_pixel", tradeoff(sweep, rows, "pixel")
    yield "errors", errors(sweep, rows)
    yield "spam", spam(sweep, rows)
    if (trained := training(sweep)) is not None:
        yield "training", trained
    if classifiers:
        yield "classifiers", accuracies(sweep, classifiers)


def _look(sweep: Sweep, line: Line) -> dict[str, Any]:
    i = sweep.lines.index(line)
    return {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)], "markersize": 5}


def _handles(sweep: Sweep, **look) -> tuple[list[Line2D], list[str]]:
    """The lines of a legend, and their names."""
    lines = [Line2D([], [], **_look(sweep, line) | look) for line in sweep.lines]
    return lines, [line.name(sweep.counted) for line in sweep.lines]


def tradeoff(sweep: Sweep, rows: list[dict], space: str) -> Numbers:
    """Error on removed against error on visible patches, with a panel for each evaluated ratio."""
    columns = min(2, len(sweep.ratios))
    lines = -(-len(sweep.ratios) // columns)
    handles, labels = _handles(sweep, linewidth=1)
    figure = grid(lines, columns, panel=(2.1, 2.0), handles=handles, labels=labels, title=1)
    scale = (lambda v: v) if space == "normalised" else gray
    numbers = []
    for ax, ratio in zip(figure.all_axes, sweep.ratios, strict=False):
        for line in sweep.lines:
            points = [r for r in rows if r["evaluated_at"] == ratio and line.has(r)]
            x, y = ([scale(r[f"{where}_{space}"]) for r in points] for where in ("removed", "visible"))
            ax.plot(x, y, linewidth=1, alpha=0.9, **_look(sweep, line))
            ranks = np.argsort(np.argsort(x))  # names of neighboring points alternate above and below
            for r, a, b, rank in zip(points, x, y, ranks, strict=True):
                place = (3, -11 if rank % 2 else 3)
                ax.annotate(f"{100 * r['mask_ratio']:g}", (a, b), place, textcoords="offset points")
                numbers.append(
                    {
                        "evaluated_at": ratio,
                        "visible_weight": line.weight,
                        "unlabeled": line.unlabeled,
                        "mask_ratio": r["mask_ratio"],
                        "removed": a,
                        "visible": b,
                    }
                )
        ax.set_title(f"{percent(ratio)} removed in evaluation")
        ax.margins(x=0.12)
        ax.grid(color="0.93")
    for ax in figure.all_axes[len(sweep.ratios) :]:
        ax.set_axis_off()
    unit = "normalized" if space == "normalised" else "gray levels"
    for row in figure.axes:
        row[0].set_ylabel(f"visible patches, {unit}")
        row[0].set_ylim(0, 1.15 * max(p["visible"] for p in numbers) or 1)
    for ax in figure.axes[-1]:
        ax.set_xlabel(f"removed patches, {unit}")
    return figure.figure, numbers


def errors(sweep: Sweep, rows: list[dict]) -> Numbers:
    """Removed and visible error, normalized and in gray levels, against the ratio of training."""
    handles, labels = _handles(sweep, linewidth=1.3)
    handles.append(Line2D([], [], color="0.5", linestyle=":"))
    figure = grid(2, 2, panel=(2.3, 1.7), handles=handles, labels=[*labels, "no network"], title=1, own_x=False)
    at_reference = [row for row in rows if row["evaluated_at"] == sweep.reference]
    numbers = []
    for row, space, unit in zip(figure.axes, ("normalised", "pixel"), ("normalized", "gray levels"), strict=True):
        scale = (lambda v: v) if space == "normalised" else gray
        for ax, where in zip(row, ("removed", "visible"), strict=True):
            column = f"{where}_{space}"
            numbers += _lines(ax, sweep, at_reference, column, scale)
            if column == "removed_pixel":
                ax.axhline(gray(at_reference[0]["removed_pixel_no_network"]), color="0.5", linestyle=":")
            if space == "normalised":
                ax.set_title(f"{where} patches")
        row[0].set_ylabel(f"error, {unit}")
        row[0].set_ylim(bottom=0)
    for ax in figure.axes[-1]:
        ax.set_xlabel("removed in training, %")
    return figure.figure, numbers


def spam(sweep: Sweep, rows: list[dict]) -> Numbers:
    """The patch-repetition index against the mask ratio in training."""
    handles, labels = _handles(sweep, linewidth=1.3)
    figure = grid(1, 1, panel=(3.4, 2.1), handles=handles, labels=labels)
    (ax,) = figure.all_axes
    numbers = _lines(ax, sweep, [row for row in rows if row["evaluated_at"] == sweep.reference], "spam", lambda v: v)
    ax.set_ylim(0, 1)
    ax.set_ylabel(f"spam, {percent(sweep.reference)} removed")
    ax.set_xlabel("removed in training, %")
    return figure.figure, numbers


def accuracies(sweep: Sweep, classifiers: list[dict]) -> Numbers:
    """Accuracy of the classifiers against the ratio of pre-training, next to scratch."""
    networks = [row for row in classifiers if row["init"] != BASELINE]
    base = next((row for row in classifiers if row["init"] == BASELINE), None)
    handles, labels = _handles(sweep, linewidth=1.3)
    if base:
        handles.append(Line2D([], [], color="0.3", linestyle="--"))
        labels.append("from scratch")
    handles.append(Line2D([], [], color="0.5", linestyle=":"))
    labels.append("most common class")
    figure = grid(1, 1, panel=(3.4, 2.5), handles=handles, labels=labels)
    (ax,) = figure.all_axes
    numbers = _lines(ax, sweep, networks, "accuracy", lambda v: 100 * v)
    if base:
        low, value, high = (base[f"accuracy{end}"] for end in ("_low", "", "_high"))
        ax.axhspan(100 * low, 100 * high, color="0.88", zorder=0)
        ax.axhline(100 * value, color="0.3", linestyle="--")
        numbers.append(
            {"column": "accuracy", "mask_ratio": None, "visible_weight": None, "unlabeled": None, "value": 100 * value}
        )
        numbers[-1] |= {"low": 100 * low, "high": 100 * high}
    ax.axhline(100 * classifiers[0]["majority_rate"], color="0.5", linestyle=":")
    ax.set_ylabel(f"accuracy at {Level.of_row(classifiers[0]).labels}, %")
    ax.set_xlabel("removed in pre-training, %")
    return figure.figure, numbers


def training(sweep: Sweep) -> Numbers | None:
    """Errors and patch repetition on held-out images during pre-training, a line for each network."""
    ratios = sorted({network.mask_ratio for network in sweep.networks})
    handles = [Line2D([], [], color=_look(sweep, line)["color"], linewidth=1.2) for line in sweep.lines]
    labels = [line.name(sweep.counted) for line in sweep.lines]
    for i, ratio in enumerate(ratios):
        handles.append(Line2D([], [], color="0.3", linestyle=DASHES[i % len(DASHES)]))
        labels.append(f"{percent(ratio)} removed")
    figure = grid(1, 3, panel=(1.7, 1.9), handles=handles, labels=labels, title=1, left=0.5, own_y=True)
    numbers = []
    for ax, (key, title) in zip(figure.all_axes, WATCHED.items(), strict=True):
        for network in sweep.networks:
            points = series(network.log, "epoch", f"val/{key}")
            look: dict[str, Any] = _look(sweep, network.line) | {"marker": "." if len(points) < 3 else ""}
            dashes = DASHES[ratios.index(network.mask_ratio) % len(DASHES)]
            ax.plot([x for x, _ in points], [y for _, y in points], linestyle=dashes, linewidth=1.2, **look)
            one = {"metric": key, "mask_ratio": network.mask_ratio, "visible_weight": network.visible_weight}
            one |= {"unlabeled": network.unlabeled}
            numbers += [one | {"epoch": x, "value": y} for x, y in points]
        ax.set_title(title)
        ax.set_xlabel("epoch")
        ax.grid(axis="y", color="0.92")
    return (figure.figure, numbers) if numbers else None


def _lines(ax, sweep: Sweep, rows: list[dict], column: str, scale) -> list[dict]:
    """Draws each line with intervals. Returns the numbers drawn."""
    numbers = []
    for i, line in enumerate(sweep.lines):
        points = [row for row in rows if line.has(row)]
        x = np.array([100 * row["mask_ratio"] for row in points]) + 0.8 * (i - (len(sweep.lines) - 1) / 2)
        y, low, high = (np.array([scale(row[column + end]) for row in points]) for end in ("", "_low", "_high"))
        bars = np.maximum([y - low, high - y], 0)
        ax.errorbar(x, y, yerr=bars, linewidth=1.3, capsize=3, **_look(sweep, line))
        for row, *values in zip(points, y.tolist(), low.tolist(), high.tolist(), strict=True):
            one = {"column": column, "mask_ratio": row["mask_ratio"], "visible_weight": line.weight}
            one |= {"unlabeled": line.unlabeled}
            numbers.append(one | dict(zip(("value", "low", "high"), values, strict=True)))
    ax.set_xticks(sorted({100 * row["mask_ratio"] for row in rows}))
    ax.grid(axis="y", color="0.92")
    return numbers
