"""The figures about confidence: box plots, reliability diagrams, risk against coverage."""

from collections.abc import Sequence

import numpy as np
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mae_jax.report import stats
from mae_jax.report.analysis import Study
from mae_jax.report.cell_types import MOST
from mae_jax.report.figures import ACROSS, SMALL, color, handle, marker
from mae_jax.report.panels import Handle, Numbers, grid, short, wrapped
from mae_jax.report.runs import Level, Run

FEW = 10  # a bin with fewer predictions gets an open mark
OUTLIERS = 40  # maximum number of outliers to draw for one box, evenly spaced
WIDE = 0.3  # width of a box with its gap, in inches


def boxes(study: Study, level: Level) -> Numbers:
    """Box plots of the confidence per class, for correct and wrong predictions and each initialization.

    With many classes, only the rarest are drawn; the numbers include all.
    """
    first = study.runs[0]
    inits = [init for at, init in study.cells if at == level]
    counts = np.bincount(first.test.labels, minlength=len(first.classes))
    present = np.flatnonzero(counts).tolist()
    drawn = sorted(sorted(present, key=lambda label: counts[label])[:MOST])
    handles: list[Handle] = [Patch(facecolor=color(study, init), edgecolor=color(study, init)) for init in inits]
    handles += [Patch(facecolor="0.6", edgecolor="0.3"), Patch(facecolor="white", edgecolor="0.3")]
    block = 2 * len(inits)
    width = WIDE * (block + 1) * len(drawn)
    labels = [*map(short, inits), "right", "wrong"]
    figure = grid(1, 1, panel=(width, 2.3), handles=handles, labels=labels, title=1, ticks=2)
    (ax,), rows, marks, texts = figure.all_axes, [], [], []
    for label in present:
        for i, init in enumerate(inits):
            runs = [study.runs[j] for j in study.of(level, init)]
            for j, outcome in enumerate(("right", "wrong")):
                values = _confidences(runs, label, outcome)
                row = {**level.columns, "init": init, "class": first.classes[label]}
                row |= {"outcome": outcome, "n": len(values)}
                box = stats.box(values) if len(values) else dict.fromkeys(stats.BOX[1:])
                rows.append(row | box | {"whisker_rule": "1.5 IQR"})
                if label in drawn:
                    at = drawn.index(label) * (block + 1) + 2 * i + j
                    texts.append((at, len(values)))
                    if len(values):
                        marks.append((at, box, values, color(study, init), outcome == "right"))
    _draw_boxes(ax, marks)
    ends = len(drawn) * (block + 1) - 1
    ax.set_xlim(-1, ends)
    ax.set_ylim(-2, 102)
    ax.set_xticks([at for at, _ in texts], [f"{n:,}" for _, n in texts], rotation=90)
    ax.tick_params(axis="x", length=0)
    ax.set_ylabel("confidence, %")
    ax.set_xlabel("number of predictions")
    ax.grid(axis="y", color="0.92")
    for i, label in enumerate(drawn):
        middle = i * (block + 1) + (block - 1) / 2
        room = int(WIDE * (block + 1) / 0.085)
        ax.text(middle, 104, short(first.classes[label], max(4, room)), ha="center", va="bottom")
    return figure.figure, rows


def _confidences(runs: Sequence[Run], label: int, outcome: str) -> np.ndarray:
    """Confidences of correct or wrong predictions for the images of one class, of all seeds together."""
    tests = [run.test for run in runs]
    return np.concatenate([t.confidence[(t.labels == label) & (t.right == (outcome == "right"))] for t in tests])


def _draw_boxes(ax, marks: Sequence[tuple[int, dict, np.ndarray, str, bool]]) -> None:
    """Draws all boxes of a panel as a few collections. `marks`: (position, box, values, color, whether filled)."""
    half, cap = 0.36, 0.18
    polygons, lines, medians, shades, faces = [], [], [], [], []
    for at, box, values, shade, filled in marks:
        low, q1, median, q3, high = (100 * box[k] for k in ("whisker_low", "q1", "median", "q3", "whisker_high"))
        polygons.append([(at - half, q1), (at + half, q1), (at + half, q3), (at - half, q3)])
        faces.append(shade if filled else "white")
        shades.append(shade)
        lines += [[(at, low), (at, q1)], [(at, q3), (at, high)]]
        lines += [[(at - cap, low), (at + cap, low)], [(at - cap, high), (at + cap, high)]]
        medians.append([(at - half, median), (at + half, median)])
        beyond = np.sort(100 * values[(values < box["whisker_low"]) | (values > box["whisker_high"])])
        if len(beyond) > OUTLIERS:
            beyond = beyond[np.linspace(0, len(beyond) - 1, OUTLIERS).astype(int)]
        if len(beyond):
            ax.plot(np.full(len(beyond), at), beyond, ".", color=shade, markersize=3, markeredgecolor="none", alpha=0.6)
    ax.add_collection(LineCollection(lines, colors=np.repeat(shades, 4).tolist(), linewidths=1.1, zorder=3))
    ax.add_collection(PolyCollection(polygons, facecolors=faces, edgecolors=shades, linewidths=1.1, zorder=3))
    ax.add_collection(LineCollection(medians, colors="black", linewidths=1.5, zorder=4))


def reliability(study: Study, arms: Sequence[str]) -> Numbers:
    """Share of correct predictions against confidence in 15 equal bins, with the number of predictions per bin."""
    levels = study.in_arms(arms)
    inits = [init for init in study.inits if any(init == i for at, i in study.cells if at in levels)]
    handles: list[Handle] = [handle(study, init, markersize=4) for init in inits]
    handles += [tuple(handle(study, i, markersize=4, markerfacecolor="white", linewidth=0) for i in inits)]
    handles += [Line2D([], [], color="0.6", linestyle=":", linewidth=1)]
    labels = [*map(short, inits), f"fewer than {FEW} predictions", "confidence is exact"]
    columns = min(ACROSS, len(levels))
    blocks = -(-len(levels) // columns)
    titles = [wrapped(str(level), SMALL) for level in levels]
    high = max(map(len, titles))
    figure = grid(
        *(2 * blocks, columns),
        panel=(SMALL, 1.4),
        heights=[1.4, 0.5] * blocks,
        handles=handles,
        labels=labels,
        title=high,
        own_x=False,
    )
    rows, most = [], 1
    for i, (level, title) in enumerate(zip(levels, titles, strict=True)):
        top, bottom = (figure.axes[2 * (i // columns) + k][i % columns] for k in (0, 1))
        top.plot([0, 100], [0, 100], color="0.6", linestyle=":", linewidth=1)
        for init in [init for at, init in study.cells if at == level]:
            tests = [study.runs[j].test for j in study.of(level, init)]
            values = np.concatenate([t.confidence for t in tests])
            right = np.concatenate([t.right for t in tests])
            table = stats.reliability(values, right, stats.width_bins(values))
            x, y, n = (np.array([row[k] for row in table]) for k in ("confidence", "accuracy", "n"))
            shade, mark = color(study, init), marker(study, init)
            top.plot(100 * x, 100 * y, color=shade, linewidth=1.3, marker=mark, markersize=4)
            few = n < FEW
            top.plot(100 * x[few], 100 * y[few], mark, color=shade, markersize=4, markerfacecolor="white")
            counts = np.bincount(stats.width_bins(values), minlength=stats.BINS)
            bottom.stairs(counts, np.linspace(0, 100, stats.BINS + 1), color=shade, linewidth=1.3)
            most = max(most, counts.max())
            rows += [{**level.columns, "init": init} | row for row in table]
        top.set_title("\n".join(title))
        bottom.set_xlabel("confidence, %")
    ticks = [t for t in (1, 10, 100, 1_000, 10_000, 100_000) if t < 2 * most]
    for line, row in enumerate(figure.axes):
        row[0].set_xlim(0, 100)
        row[0].set_xticks([0, 50, 100])
        if line % 2:
            row[0].set_yscale("log")
            row[0].set_ylim(0.7, 2 * most)
            row[0].set_yticks(ticks[::2], [f"{t:,}" for t in ticks[::2]])
            row[0].minorticks_off()
            row[0].set_ylabel("number")
        else:
            row[0].set_ylim(-3, 103)
            row[0].set_ylabel("right, %")
    for i in range(len(levels), blocks * columns):
        for k in (0, 1):
            figure.axes[2 * (i // columns) + k][i % columns].set_axis_off()
    return figure.figure, rows


def risk_coverage(study: Study, arms: Sequence[str]) -> Numbers:
    """Share of errors among the most confident predictions, against the share of predictions kept."""
    levels = study.in_arms(arms)
    inits = [init for init in study.inits if any(init == i for at, i in study.cells if at in levels)]
    columns = min(ACROSS, len(levels))
    titles = [wrapped(str(level), SMALL) for level in levels]
    figure = grid(
        *(-(-len(levels) // columns), columns),
        panel=(SMALL, 1.4),
        handles=[handle(study, init, markersize=4) for init in inits],
        labels=[short(init) for init in inits],
        title=max(map(len, titles)),
    )
    rows = []
    for ax, level, title in zip(figure.all_axes, levels, titles, strict=False):
        for init in [init for at, init in study.cells if at == level]:
            tests = [study.runs[i].test for i in study.of(level, init)]
            risk = np.mean([stats.risk_coverage(t.confidence, t.right) for t in tests], axis=0)
            coverage = np.arange(1, len(risk) + 1) / len(risk)
            keep = np.unique(np.linspace(0, len(risk) - 1, 101).astype(int))
            keep = keep[coverage[keep] >= 0.02]
            look = {"color": color(study, init), "marker": marker(study, init), "markersize": 4}
            ax.plot(100 * coverage[keep], 100 * risk[keep], markevery=0.25, **look)
            rows += [
                {**level.columns, "init": init, "coverage": c, "wrong": r}
                for c, r in zip(coverage[keep].tolist(), risk[keep].tolist(), strict=True)
            ]
        ax.set_title("\n".join(title))
        ax.set_xlim(0, 100)
        ax.set_xticks([0, 50, 100])
        ax.set_xlabel("kept, %")
        ax.grid(axis="y", color="0.92")
    for ax in figure.all_axes[len(levels) :]:
        ax.set_axis_off()
    for line in figure.axes:
        line[0].set_ylim(bottom=0)
        line[0].set_ylabel("wrong, % of the kept")
    return figure.figure, rows
