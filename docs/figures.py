"""Draws docs/images/label_efficiency.svg from docs/data/real_study.csv: `python docs/figures.py`."""

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).resolve().parent
MOST_COMMON = 61.2  # accuracy in % of always predicting the most common class of the test images
SCRATCH, MAE = "#8a5a00", "#0b5fa5"


def rows(metric: str) -> dict[tuple[str, str], list[dict[str, float]]]:
    """The study's rows of one metric in percent, by (evaluation, training), in the order of the fractions."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    with open(DOCS / "data" / "real_study.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["metric"] == metric:
                numbers = {key: 100 * float(row[key]) for key in ("scratch", "mae", "gain", "gain_low", "gain_high")}
                key = (row["evaluation"], row["training"])
                found.setdefault(key, []).append({"images": float(row["images"]), **numbers})
    return found


def draw(out: Path) -> None:
    """Accuracy against the number of labels, and the gain with its 95 % interval, as one SVG file."""
    plt.rcParams.update({"svg.hashsalt": "mae_jax", "svg.fonttype": "none", "font.size": 11})
    table = rows("accuracy")
    epochs, updates = table["finetune", "20 epochs"], table["finetune", "equal updates"]
    updates = [*updates, epochs[-1]]  # all labels for 20 epochs are the updates that the others are given
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6), width_ratios=(1.1, 1), layout="constrained")
    for name, color, label in (("mae", MAE, "MAE pre-training"), ("scratch", SCRATCH, "from scratch")):
        for series, style, marker, words in (
            (updates, "-", "o", "1,260 updates"),
            (epochs, "--", "s", "20 epochs"),
        ):
            x, y = [r["images"] for r in series], [r[name] for r in series]
            left.plot(x, y, style, marker=marker, color=color, label=f"{label}, {words}")
    left.axhline(MOST_COMMON, color="0.55", linewidth=1, linestyle=":")
    left.text(2100, MOST_COMMON - 2.6, "most common class", ha="right", color="0.35", fontsize=10)
    left.set(ylabel="test accuracy (%)", ylim=(55, 100), title="Accuracy")

    for series, offset, marker, color, label in (
        (updates[:-1], 0.93, "o", "black", "gain at 1,260 updates"),
        (epochs, 1.07, "s", "0.55", "gain at 20 epochs"),
    ):
        x, y = [r["images"] * offset for r in series], [r["gain"] for r in series]
        errors = [[r["gain"] - r["gain_low"] for r in series], [r["gain_high"] - r["gain"] for r in series]]
        right.errorbar(x, y, errors, fmt=marker, color=color, capsize=3, label=label)
    right.axhline(0, color="0.55", linewidth=1, linestyle=":")
    right.set(ylabel="MAE minus scratch (points)", title="Gain with 95 % interval")
    figure.legend(loc="outside lower center", ncols=3, fontsize=10, frameon=False)
    for axes in (left, right):
        axes.set(xscale="log", xlabel="labeled training images", xlim=(15, 2700))
        axes.set_xticks([r["images"] for r in epochs], [f"{r['images']:,.0f}" for r in epochs], fontsize=10)
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, facecolor="white", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "images" / "label_efficiency.svg")
