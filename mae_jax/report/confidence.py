"""The figures about confidence: box plots, reliability diagrams, risk against coverage."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from mae_jax.report import stats
from mae_jax.report.analysis import Study
from mae_jax.report.figures import WIDTH, Numbers, colour, grid, handle, heading, legend, marker, short
from mae_jax.report.runs import Level, Run

FEW = 10  # a bin with fewer predictions has an open mark


def boxes(study: Study, level: Level) -> Numbers:
    """Box plots of the confidence per class: right beside wrong, each initialisation beside it."""
    classes = study.runs[0].classes
    inits = [init for at, init in study.cells if at == level]
    present = np.unique(study.runs[0].test.labels).tolist()
    columns = min(len(present), 2 if len(inits) <= 2 else 1)
    lines = -(-len(present) // columns)
    wide = 4.4 if len(inits) <= 2 else WIDTH  # the narrower, the larger its text on a phone
    high = 1.75 if len(inits) <= 4 else 2.3
    figure, axes = grid(lines, columns, height=high * lines + 0.8, width=wide, sharey=True)
    found = []
    for ax, label in zip(axes, present, strict=False):
        shown, texts = [], []
        for init in inits:
            runs = [study.runs[i] for i in study.of(level, init)]
            for outcome in ("right", "wrong"):
                values = _confidences(runs, label, outcome)
                texts.append(f"{outcome}\nn={len(values)}")
                row = {"fraction": level.fraction, "arm": level.arm, "init": init, "class": classes[label]}
                row |= {"outcome": outcome, "n": len(values)}
                if not len(values):
                    found.append(row | dict.fromkeys(stats.BOX[1:]) | {"whisker_rule": "1.5 IQR"})
                    continue
                box = stats.box(values)
                found.append(row | box | {"whisker_rule": "1.5 IQR"})
                beyond = values[(values < box["whisker_low"]) | (values > box["whisker_high"])]
                at = {"med": box["median"], "q1": box["q1"], "q3": box["q3"], "fliers": beyond}
                at |= {"whislo": box["whisker_low"], "whishi": box["whisker_high"]}
                shown.append((len(texts), at, colour(study, init), outcome))
        for position, at, shade, outcome in shown:
            _draw_box(ax, position, at, shade, filled=outcome == "right")
        ax.set_title(short(classes[label]))
        if len(texts) > 8:  # side by side they would run together
            ax.set_xticks(range(1, len(texts) + 1), [t.replace("\n", ", ") for t in texts], fontsize=7.5, rotation=90)
        else:
            ax.set_xticks(range(1, len(texts) + 1), texts, fontsize=7.5)
        ax.set_xlim(0.4, len(texts) + 0.6)
        ax.set_ylim(-0.02, 1.03)
        ax.grid(axis="y", color="0.92")
    for ax in axes[len(present) :]:
        ax.set_axis_off()
    for ax in axes[: len(present) : columns]:
        ax.set_ylabel("confidence")
    handles = [Patch(facecolor=colour(study, init), label=short(init)) for init in inits]
    handles += [
        Patch(facecolor="0.6", edgecolor="0.3", label="right"),
        Patch(facecolor="white", edgecolor="0.3", label="wrong"),
    ]
    legend(figure, handles)
    figure.suptitle(f"Confidence with {heading(level)}", fontsize=11)
    return figure, found


def medians(study: Study) -> list[dict]:
    """How many predictions of each cell are right and wrong, of all seeds together, and their median confidence."""
    rows = []
    for level, init in study.cells:
        row = {"fraction": level.fraction, "arm": level.arm, "init": init}
        tests = [study.runs[i].test for i in study.of(level, init)]
        for outcome in ("right", "wrong"):
            values = np.concatenate([t.confidence[t.right == (outcome == "right")] for t in tests])
            row |= {f"n_{outcome}": len(values), outcome: float(np.median(values)) if len(values) else None}
        rows.append(row)
    return rows


def _confidences(runs: Sequence[Run], label: int, outcome: str) -> np.ndarray:
    """Confidences on the images of one class, right or wrong, of all seeds together."""
    tests = [run.test for run in runs]
    return np.concatenate([t.confidence[(t.labels == label) & (t.right == (outcome == "right"))] for t in tests])


def _draw_box(ax: Axes, position: int, at: dict, shade: str, filled: bool) -> None:
    ax.bxp(
        [at],
        positions=[position],
        widths=0.65,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": shade if filled else "white", "edgecolor": shade, "linewidth": 1.2},
        medianprops={"color": "black", "linewidth": 1.6},
        whiskerprops={"color": shade},
        capprops={"color": shade},
        flierprops={
            "marker": ".",
            "markersize": 3,
            "markerfacecolor": shade,
            "alpha": 0.5,
            "markeredgecolor": "none",
            "rasterized": True,
        },
    )


def reliability(study: Study, arms: Sequence[str]) -> Numbers:
    """Share right against confidence in 15 equal bins, with the number of predictions per bin."""
    levels = study.in_arms(arms)
    columns = min(2, len(levels))
    lines = -(-len(levels) // columns)
    figure, axes = grid(2 * lines, columns, height=2.9 * lines + 0.3, ratios=[3, 1] * lines)
    axes, found = np.array(axes).reshape(2 * lines, columns), []
    for i in range(lines * columns):
        top, bottom = (
            axes[2 * (i // columns), i % columns],
            axes[2 * (i // columns) + 1, i % columns],
        )
        if i >= len(levels):
            top.set_axis_off()
            bottom.set_axis_off()
            continue
        top.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
        most = 1
        for init in [init for at, init in study.cells if at == levels[i]]:
            tests = [study.runs[j].test for j in study.of(levels[i], init)]
            values = np.concatenate([t.confidence for t in tests])
            right = np.concatenate([t.right for t in tests])
            table = stats.reliability(values, right, stats.width_bins(values))
            style = {"color": colour(study, init), "linewidth": 1.3}
            x, y = ([row[k] for row in table] for k in ("confidence", "accuracy"))
            top.plot(x, y, marker=marker(study, init), markersize=4, **style)
            few = [row for row in table if row["n"] < FEW]
            x, y = ([row[k] for row in few] for k in ("confidence", "accuracy"))
            style |= {"markerfacecolor": "white"}
            top.plot(x, y, marker(study, init), markersize=4, **style)
            counts = np.bincount(stats.width_bins(values), minlength=stats.BINS)
            edges = np.linspace(0, 1, stats.BINS + 1)
            bottom.stairs(counts, edges, color=colour(study, init), linewidth=1.3)
            most = max(most, counts.max())
            found += [{"fraction": levels[i].fraction, "arm": levels[i].arm, "init": init} | row for row in table]
        top.set_title(heading(levels[i]))
        top.set_xticks([0, 0.5, 1], [])
        bottom.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        top.set_ylim(-0.03, 1.03)
        bottom.set_yscale("log")
        bottom.set_ylim(0.7, 2 * most)
        ticks = [t for t in (1, 10, 100, 1_000, 10_000, 100_000) if t < 2 * most]
        bottom.set_yticks(ticks, [f"{t:,}" for t in ticks], fontsize=7.5)
        bottom.minorticks_off()
        for ax in (top, bottom):
            ax.set_xlim(0, 1)
        bottom.set_xlabel("confidence")
        if i % columns == 0:
            top.set_ylabel("share right")
            bottom.set_ylabel("predictions")
    legend(figure, [handle(study, init) for init in study.inits])
    return figure, found


def risk_coverage(study: Study, arms: Sequence[str]) -> Numbers:
    """Share wrong among the most confident predictions, against how many of them are kept."""
    levels = study.in_arms(arms)
    columns = min(2, len(levels))
    lines = -(-len(levels) // columns)
    figure, axes = grid(lines, columns, height=2.1 * lines + 0.2)
    found = []
    for ax, level in zip(axes, levels, strict=False):
        for init in [init for at, init in study.cells if at == level]:
            tests = [study.runs[i].test for i in study.of(level, init)]
            risk = np.mean([stats.risk_coverage(t.confidence, t.right) for t in tests], axis=0)
            coverage = np.arange(1, len(risk) + 1) / len(risk)
            keep = np.unique(np.linspace(0, len(risk) - 1, 101).astype(int))
            keep = keep[coverage[keep] >= 0.02]
            ax.plot(
                100 * coverage[keep],
                100 * risk[keep],
                color=colour(study, init),
                marker=marker(study, init),
                markersize=4,
                markevery=0.25,
            )
            found += [
                {"fraction": level.fraction, "arm": level.arm, "init": init, "coverage": c, "wrong": r}
                for c, r in zip(coverage[keep].tolist(), risk[keep].tolist(), strict=True)
            ]
        ax.set_title(heading(level))
        ax.set_xlim(0, 100)
        ax.set_ylim(bottom=0)
        ax.set_xticks([0, 50, 100])
        ax.set_xlabel("kept, % of the predictions")
        ax.grid(axis="y", color="0.92")
    for ax in axes[len(levels) :]:
        ax.set_axis_off()
    for ax in axes[: len(levels) : columns]:
        ax.set_ylabel("wrong, % of the kept")
    legend(figure, [handle(study, init) for init in study.inits])
    return figure, found
