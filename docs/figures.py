"""Draws docs/images/label_efficiency.svg from the tables of the real study in docs/data/: `python docs/figures.py`."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from real_study import rows

DOCS = Path(__file__).resolve().parent
SCRATCH, MAE = "#8a5a00", "#0b5fa5"


def series() -> dict[bool, list[dict[str, float]]]:
    """Accuracy and gain in percent at each number of labels, for 20 epochs (False) and for equal updates (True).

    All labels are in both, because their 20 epochs are the updates that the others are given. Collapsed models have no
    gain.
    """
    pairs = {(p["arm"], p["fraction"]): p for p in rows("paired") if p["metric"] == "accuracy"}
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows("table"):
        point = found.setdefault((row["arm"], row["fraction"]), {"images": float(row["n_train"])})
        point[row["init"]] = 100 * float(row["accuracy"])
        pair = pairs.get((row["arm"], row["fraction"]))
        if pair and pair["difference"]:
            point |= {key: 100 * float(pair[key]) for key in ("difference", "low", "high")}
    epochs = [point for (arm, _), point in found.items() if not arm]
    return {False: epochs, True: [point for (arm, _), point in found.items() if arm] + epochs[-1:]}


def draw(out: Path) -> None:
    """Accuracy against the number of labels, and the gain with its 95 % interval, as one SVG file."""
    plt.rcParams.update({"svg.hashsalt": "mae_jax", "svg.fonttype": "none", "font.size": 11})
    epochs, updates = (series()[equal] for equal in (False, True))
    most_common = 100 * float(rows("table")[0]["majority_rate"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6), width_ratios=(1.1, 1), layout="constrained")
    for name, color, label in (("mae", MAE, "MAE pre-training"), ("scratch", SCRATCH, "from scratch")):
        for points, style, marker, words in (
            (updates, "-", "o", "1,260 updates"),
            (epochs, "--", "s", "20 epochs"),
        ):
            x, y = [r["images"] for r in points], [r[name] for r in points]
            left.plot(x, y, style, marker=marker, color=color, label=f"{label}, {words}")
    left.axhline(most_common, color="0.55", linewidth=1, linestyle=":")
    left.text(2100, most_common - 2.6, "most common class", ha="right", color="0.35", fontsize=10)
    left.set(ylabel="test accuracy (%)", ylim=(55, 100), title="Accuracy")

    for points, offset, marker, color, label in (
        (updates[:-1], 0.93, "o", "black", "gain at 1,260 updates"),
        (epochs, 1.07, "s", "0.55", "gain at 20 epochs"),
    ):
        points = [point for point in points if "difference" in point]
        x, y = [r["images"] * offset for r in points], [r["difference"] for r in points]
        errors = [[r["difference"] - r["low"] for r in points], [r["high"] - r["difference"] for r in points]]
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
