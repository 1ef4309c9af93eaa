"""The robustness index of frozen features: are an image's neighbors of its class, or of its own laboratory?

The definition is that of PathoROB (Kömen et al. 2025, "Towards Robust Foundation Models for Digital Pathology",
arXiv:2507.17845; code in github.com/bifold-pathomics/PathoROB). Let SO_k(i) be the number of image i's k nearest
neighbors, by cosine similarity, with the Same class and an Other value of the confounder, such as the medical center.
Let OS_k(i) be the number of those with an Other class and the Same value. Then

    R_k = sum_i SO_k(i) / (sum_i SO_k(i) + sum_i OS_k(i)).

It is 1 if the class alone decides which images are alike, and 0 if the confounder does. As there, features are scaled
to unit length, and images of one slide are not neighbors of each other. PathoROB fixes k for each of its data sets.
Here the k of an encoder has the highest balanced accuracy of a majority vote, and all encoders that are compared get
the median of theirs. The published data sets are balanced; for others, compare with the value by chance, which is R
with all other images as neighbors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from mae_jax.report import ratios, tables
from mae_jax.report.comparisons import Difference, judged
from mae_jax.report.ratios import Ratio
from mae_jax.report.runs import BASELINE
from mae_jax.runtime.text import count

KS = (1, 3, 5, 7, 9, *range(11, 102, 10))  # numbers of neighbors, of which one is chosen, as in PathoROB's code
FILE = "robustness_index.csv"
COLUMNS = (
    *("confounder", "values", "encoder", "encoders", "images", "units", "k", "balanced_accuracy"),
    *("index", "low", "high", "by_chance", "baseline", "difference", "difference_low", "difference_high"),
    *("p", "holm_p", "verdict"),
)


@dataclass(frozen=True)
class Neighborhood:
    """The nearest neighbors of the same images by the features of several encoders. Shapes: n images, m neighbors.

    `confounder` names what may be confounded with the class, in the plural. `center` has its value for each image, an
    index into `values`. Images with the same number in `apart` are not each other's neighbors. `unit` has the index of
    each image's group or, if groups are not known, of the image. `neighbors` has for each name the images, nearest
    first, by one or several encoders; -1: there are no more.
    """

    confounder: str
    values: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    center: Int[np.ndarray, " n"]
    apart: Int[np.ndarray, " n"]
    unit: Int[np.ndarray, " n"]
    neighbors: dict[str, list[Int[np.ndarray, "n m"]]]


@dataclass(frozen=True)
class NotKnown:
    """A confounder for which there is no index, with the reason."""

    confounder: str
    reason: str


def counted(
    near: Int[np.ndarray, "n m"], labels: Int[np.ndarray, " n"], center: Int[np.ndarray, " n"]
) -> tuple[Bool[np.ndarray, "n m"], Bool[np.ndarray, "n m"]]:
    """Which neighbors have the same class and another center (SO), and which another class and the same center (OS)."""
    there = near >= 0
    same_class, same_center = labels[near] == labels[:, None], center[near] == center[:, None]
    return there & same_class & ~same_center, there & ~same_class & same_center


def index_at(near: Sequence[Int[np.ndarray, "n m"]], hood: Neighborhood, k: int) -> Ratio | None:
    """R_k, averaged over encoders; None if no neighbor counts. Its interval is over images, for these encoders."""
    same, other = zip(*(counted(each[:, :k], hood.labels, hood.center) for each in near), strict=True)
    numerator = np.stack([each.sum(1).astype(float) for each in same])
    ratio = ratios.ratio(numerator, numerator + np.stack([each.sum(1) for each in other]), hood.unit)
    return ratio and Ratio(**{**vars(ratio), "seeds": np.array([ratio.estimate])})


def by_chance(hood: Neighborhood) -> float:
    """The index if all images that may be neighbors were; NaN if none counts."""
    same = other = 0
    for i in range(len(hood.labels)):
        allowed = hood.apart != hood.apart[i]
        same_class, same_center = hood.labels == hood.labels[i], hood.center == hood.center[i]
        same += int((allowed & same_class & ~same_center).sum())
        other += int((allowed & ~same_class & same_center).sum())
    return same / (same + other) if same + other else float("nan")


def balanced_accuracy(near: Int[np.ndarray, "n m"], labels: Int[np.ndarray, " n"], k: int) -> float:
    """The mean over classes of the share of images that a majority vote of k neighbors gives their own class.

    Of classes with equally many votes, the first wins.
    """
    near = near[:, :k]
    votes = np.stack([((labels[near] == c) & (near >= 0)).sum(1) for c in range(int(labels.max()) + 1)], axis=1)
    right = votes.argmax(1) == labels
    return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))


def chosen_k(hood: Neighborhood) -> int:
    """The median over encoders of the k of KS with the highest balanced accuracy; the smallest of several."""
    best = []
    for near in (each for encoders in hood.neighbors.values() for each in encoders):
        ks = [k for k in KS if k <= near.shape[1]] or [near.shape[1]]
        scores = [balanced_accuracy(near, hood.labels, k) for k in ks]
        best.append(ks[int(np.argmax(scores))])
    return sorted(best)[(len(best) - 1) // 2]


def rows(parts: Sequence[Neighborhood | NotKnown]) -> list[dict]:
    """A row for each confounder and encoder.

    `difference` is that of the index from random weights ("scratch") on the same images; Holm's correction is for all
    rows. A confounder without an index has one row with the reason as its verdict.
    """
    table: list[dict] = []
    family: list[tuple[dict, Difference | None]] = []
    for part in parts:
        empty: dict = dict.fromkeys(COLUMNS)
        if isinstance(part, NotKnown):
            table.append(empty | {"confounder": part.confounder, "verdict": f"not known: {part.reason}"})
            continue
        k, chance = chosen_k(part), by_chance(part)
        results = {name: index_at(near, part, k) for name, near in part.neighbors.items()}
        base_name = next((name for name in results if BASELINE in name.split(", ")), "")
        for name, result in results.items():
            near = part.neighbors[name]
            accuracy = float(np.mean([balanced_accuracy(each, part.labels, k) for each in near]))
            low, high = ratios.mean_interval(result) if result else (None, None)
            table.append(
                empty
                | {"confounder": part.confounder, "values": len(part.values), "encoder": name, "encoders": len(near)}
                | {"images": len(part.labels), "units": len(np.unique(part.unit)), "k": k}
                | {"balanced_accuracy": accuracy, "index": result.estimate if result else None}
                | {"low": low, "high": high, "by_chance": chance}
            )
            base = results.get(base_name)
            if base is not None and result is not None and name != base_name:
                table[-1]["baseline"] = base_name
                family.append((table[-1], ratios.difference(result, base)))
    names = ("difference", "difference_low", "difference_high", "p")
    for row, each, verdict in judged(family):
        row |= verdict | dict(zip(names, each.numbers if each else (None,) * 4, strict=True))
    return table


def text(table: Sequence[dict]) -> str:
    """The rows as Markdown, with what the index is."""
    lines = [
        "## Robustness index of frozen features",
        "",
        "The share of neighbors of the same class from elsewhere, among these and the neighbors of another class from "
        "the same place (PathoROB, arXiv:2507.17845), in percent. 100: only the class decides which images are alike; "
        "0: only the place does.",
    ]
    for confounder in dict.fromkeys(row["confounder"] for row in table):
        mine = [row for row in table if row["confounder"] == confounder]
        if mine[0]["encoder"] is None:
            lines += ["", f"**{confounder}**: {mine[0]['verdict']}."]
            continue
        first = mine[0]
        lines += [
            "",
            f"**{confounder}**: {count(first['images'], 'image')} in {first['values']} {confounder}, "
            f"{first['k']} nearest neighbors; by chance {100 * first['by_chance']:.1f}.",
            "",
            "| encoder | index | nearest neighbors' balanced accuracy | difference from random weights | |",
            "|---|---|---|---|---|",
        ]
        for row in mine:
            index = "" if row["index"] is None else _percent(row["index"], row["low"], row["high"])
            gain = "" if row["difference"] is None else _percent(
                row["difference"], row["difference_low"], row["difference_high"], "+"
            )  # fmt: skip
            accuracy = f"{100 * row['balanced_accuracy']:.1f}"
            lines.append(f"| {row['encoder']} | {index} | {accuracy} | {gain} | {row['verdict'] or ''} |")
    return "\n".join(lines)


def _percent(value: float, low: float | None, high: float | None, sign: str = "") -> str:
    interval = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * value:{sign}.1f}{interval}"


def write(out: Path, parts: Sequence[Neighborhood | NotKnown]) -> tuple[str, Path]:
    """Writes robustness_index.csv to `out`. Returns the text and the path."""
    table = rows(parts)
    out.mkdir(parents=True, exist_ok=True)
    return text(table), tables.write_csv(out / FILE, table, COLUMNS)
