"""The figures of a sweep; each is a Matplotlib figure and its numbers as rows."""

from collections.abc import Iterator

import numpy as np
from matplotlib.lines import Line2D

from mae_jax.report.analysis import BASELINE
from mae_jax.report.figures import MARKERS, OTHERS, Numbers, grid, legend, series
from mae_jax.report.runs import percent
from mae_jax.report.stats import grey
from mae_jax.report.sweep.networks import Sweep

PALETTE = ("#0072B2", "#D55E00", *OTHERS)
DASHES = ("-", "--", "-.", ":")
WATCHED = {"loss": "removed patches", "visible_loss": "visible patches", "spam": "patch spamming"}  # val/...
CAPTIONS = {
    "tradeoff": "The trade-off: error on removed patches against error on visible ones, a panel for each share of "
    "patches removed in evaluation. A point is a network, named by the share removed in its training; lower and "
    "further left is better. Normalised errors as they are, errors in pixels as grey levels.",
    "errors": "Errors against the share removed in training, all on the same images with the same patches removed. "
    "Bars: 95 % intervals over the images. Dotted: no network, each removed patch in the mean colour of the visible "
    "ones around it.",
    "spam": "Patch spamming of removed patches: 0 as diverse as the originals, 1 one patch everywhere. Bars: 95 % "
    "intervals over the images.",
    "training": "Held-out images during pre-training, each network at the share it removes in training: errors on "
    "removed and on visible patches as its loss has them, and patch spamming of the removed ones.",
    "classifiers": "Accuracy on the test images of classifiers that began with each network, with 95 % intervals. "
    "Dashed, with its interval shaded: from scratch. Dotted: always the commonest class.",
}


def draw(sweep: Sweep, rows: list[dict], classifiers: list[dict]) -> Iterator[tuple[str, Numbers]]:
    """Every figure that the runs allow: (name, (figure, numbers))."""
    yield "tradeoff_normalised", tradeoff(sweep, rows, "normalised")
    yield "tradeoff_pixel", tradeoff(sweep, rows, "pixel")
    yield "errors", errors(sweep, rows)
    yield "spam", spam(sweep, rows)
    if (trained := training(sweep)) is not None:
        yield "training", trained
    if classifiers:
        yield "classifiers", accuracies(sweep, classifiers)


def _look(sweep: Sweep, weight: float) -> dict:
    i = sweep.weights.index(weight)
    return {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]}


def _handles(sweep: Sweep) -> list[Line2D]:
    return [Line2D([], [], label=f"visible weight {w:g}", **_look(sweep, w)) for w in sweep.weights]


def tradeoff(sweep: Sweep, rows: list[dict], space: str) -> Numbers:
    """Removed against visible error, one panel for each evaluated ratio."""
    columns = min(2, len(sweep.ratios))
    lines = -(-len(sweep.ratios) // columns)
    figure, axes = grid(lines, columns, height=2.5 * lines + 0.5)
    scale = (lambda v: v) if space == "normalised" else grey
    found = []
    for ax, ratio in zip(axes, sweep.ratios, strict=False):
        for weight in sweep.weights:
            own = [r for r in rows if r["evaluated_at"] == ratio and r["visible_weight"] == weight]
            x, y = ([scale(r[f"{where}_{space}"]) for r in own] for where in ("removed", "visible"))
            ax.plot(x, y, linewidth=1, markersize=5, alpha=0.9, **_look(sweep, weight))
            ranks = np.argsort(np.argsort(x))  # names of neighbours stand above and below in turn
            for r, a, b, rank in zip(own, x, y, ranks, strict=True):
                place = (3, -9 if rank % 2 else 3)
                ax.annotate(f"{100 * r['mask_ratio']:g}", (a, b), place, textcoords="offset points", fontsize=7)
                found.append(
                    {
                        "evaluated_at": ratio,
                        "visible_weight": weight,
                        "mask_ratio": r["mask_ratio"],
                        "removed": a,
                        "visible": b,
                    }
                )
        ax.set_title(f"{percent(ratio)} removed in evaluation", fontsize=9)
        ax.margins(x=0.12)
        ax.set_ylim(0, 1.15 * max(p["visible"] for p in found if p["evaluated_at"] == ratio) or 1)
        ax.grid(color="0.93")
    for ax in axes[len(sweep.ratios) :]:
        ax.set_axis_off()
    unit = "normalised" if space == "normalised" else "grey levels"
    for i, ax in enumerate(axes):
        if i % columns == 0:
            ax.set_ylabel(f"visible patches, {unit}")
        if i // columns == lines - 1:
            ax.set_xlabel(f"removed patches, {unit}")
    legend(figure, _handles(sweep))
    return figure, found


def errors(sweep: Sweep, rows: list[dict]) -> Numbers:
    """Removed and visible error, normalised and in grey levels, against the ratio of training."""
    figure, axes = grid(2, 2, height=4.8, sharex=True)
    own = [row for row in rows if row["evaluated_at"] == sweep.reference]
    found = []
    for ax, (where, space) in zip(
        axes, [(w, s) for w in ("removed", "visible") for s in ("normalised", "pixel")], strict=True
    ):
        column, scale = f"{where}_{space}", (lambda v: v) if space == "normalised" else grey
        found += _lines(ax, sweep, own, column, scale)
        if column == "removed_pixel":
            ax.axhline(grey(own[0]["removed_pixel_no_network"]), color="0.5", linestyle=":")
        ax.set_title(f"{where} patches, {'normalised' if space == 'normalised' else 'grey levels'}", fontsize=9)
        if where == "visible":
            ax.set_ylim(0, 1.1 * max(p["high"] for p in found if p["column"] == column) or 1)
            ax.set_xlabel("removed in training, %")
    legend(figure, [*_handles(sweep), Line2D([], [], color="0.5", linestyle=":", label="no network")])
    return figure, found


def spam(sweep: Sweep, rows: list[dict]) -> Numbers:
    """The index of patch spamming against the ratio of training."""
    figure, (ax,) = grid(1, 1, height=3.0, width=4.2)
    found = _lines(ax, sweep, [row for row in rows if row["evaluated_at"] == sweep.reference], "spam", lambda v: v)
    ax.set_ylim(0, 1)
    ax.set_ylabel(f"spam, {percent(sweep.reference)} removed in evaluation")
    ax.set_xlabel("removed in training, %")
    legend(figure, _handles(sweep))
    return figure, found


def accuracies(sweep: Sweep, classifiers: list[dict]) -> Numbers:
    """Accuracy of the classifiers against the ratio of pre-training, beside scratch."""
    figure, (ax,) = grid(1, 1, height=3.4, width=4.2)
    networks = [row for row in classifiers if row["init"] != BASELINE]
    found = _lines(ax, sweep, networks, "accuracy", lambda v: v)
    handles = _handles(sweep)
    for row in classifiers:
        if row["init"] == BASELINE:
            ax.axhspan(row["accuracy_low"], row["accuracy_high"], color="0.88", zorder=0)
            handles.append(ax.axhline(row["accuracy"], color="0.3", linestyle="--", label="from scratch"))
            found.append({"column": "accuracy", "mask_ratio": None, "visible_weight": None, "value": row["accuracy"]}
                         | {"low": row["accuracy_low"], "high": row["accuracy_high"]})  # fmt: skip
    handles.append(ax.axhline(classifiers[0]["majority_rate"], color="0.5", linestyle=":", label="commonest class"))
    ax.set_ylabel(f"accuracy at {percent(classifiers[0]['fraction'])} of the labels")
    ax.set_xlabel("removed in pre-training, %")
    legend(figure, handles)
    return figure, found


def training(sweep: Sweep) -> Numbers | None:
    """Errors and patch spamming on held-out images during pre-training, a line for each network."""
    figure, axes = grid(1, 3, height=2.9)
    ratios = sorted({network.mask_ratio for network in sweep.networks})
    found = []
    for ax, (key, title) in zip(axes, WATCHED.items(), strict=True):
        for network in sweep.networks:
            points = series(network.log, "epoch", f"val/{key}")
            look = _look(sweep, network.visible_weight) | {"marker": "." if len(points) < 3 else ""}
            line = DASHES[ratios.index(network.mask_ratio) % len(DASHES)]
            ax.plot([x for x, _ in points], [y for _, y in points], linestyle=line, linewidth=1.2, **look)
            one = {"metric": key, "mask_ratio": network.mask_ratio, "visible_weight": network.visible_weight}
            found += [one | {"epoch": x, "value": y} for x, y in points]
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("epoch")
        ax.grid(axis="y", color="0.92")
    handles = [Line2D([], [], color=_look(sweep, w)["color"], label=f"visible weight {w:g}") for w in sweep.weights]
    for i, ratio in enumerate(ratios):
        handles.append(
            Line2D([], [], color="0.3", linestyle=DASHES[i % len(DASHES)], label=f"{percent(ratio)} removed")
        )
    legend(figure, handles, columns=3)
    return (figure, found) if found else None


def _lines(ax, sweep: Sweep, rows: list[dict], column: str, scale) -> list[dict]:
    """One line for each weight with intervals; the numbers drawn."""
    found = []
    for i, weight in enumerate(sweep.weights):
        own = [row for row in rows if row["visible_weight"] == weight]
        x = np.array([100 * row["mask_ratio"] for row in own]) + 0.8 * (i - (len(sweep.weights) - 1) / 2)
        y, low, high = (np.array([scale(row[column + end]) for row in own]) for end in ("", "_low", "_high"))
        bars = np.maximum([y - low, high - y], 0)
        ax.errorbar(x, y, yerr=bars, linewidth=1.3, markersize=5, capsize=3, **_look(sweep, weight))
        for row, *values in zip(own, y.tolist(), low.tolist(), high.tolist(), strict=True):
            one = {"column": column, "mask_ratio": row["mask_ratio"], "visible_weight": weight}
            found.append(one | dict(zip(("value", "low", "high"), values, strict=True)))
    ax.set_xticks(sorted({100 * row["mask_ratio"] for row in rows}))
    ax.grid(axis="y", color="0.92")
    return found
