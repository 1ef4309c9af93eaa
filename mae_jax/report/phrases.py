"""Parts of the report's sentences: amounts, scores and differences in words, and the rows they come from."""

import math
from collections.abc import Sequence

from mae_jax.report.analysis import Cell, Study
from mae_jax.report.comparisons import COLLAPSED
from mae_jax.report.label_efficiency import EQUAL_UPDATES, PRIMARY
from mae_jax.report.runs import BASELINE, Level
from mae_jax.report.starts import start_of
from mae_jax.report.tables import further
from mae_jax.runtime.text import joined


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def listed(parts: Sequence[str]) -> str:
    """Parts in a row, separated by semicolons where one of them has a comma."""
    return "; ".join(parts) if any("," in part for part in parts) else joined(parts)


def amounts(parts: Sequence[str]) -> str:
    """`1 %, 10 % and 50 %`; `20, 63 and 200 labels`."""
    if all(part.endswith(" labels") for part in parts):
        return joined([part.removesuffix(" labels") for part in parts]) + " labels"
    return joined(parts)


def start(study: Study, cell: Cell) -> str:
    """How a cell's models began, with its arm if it is not the usual one, and its name if it is one of several."""
    level, name = cell
    began = start_of(study, name)
    how = [began.name] if began.name else []
    if level.arm != study.arms[0]:
        how.append(f"trained for {level.arm}" if EQUAL_UPDATES in level.arm else level.arm)
    return began.phrase + (f" ({', '.join(how)})" if how else "")


def score(row: dict) -> str:
    """Macro F1 with its interval."""
    return f"{row['f1']:.2f} ({row['f1_low']:.2f} to {row['f1_high']:.2f})"


def labels(row: dict) -> str:
    """The labels of a row of table.csv without those that chose, as a number where it is known."""
    return f"{row['n_train']:,}" if row["n_train"] else Level.of_row(row).labels


def amount(row: dict, what: str = " labeled images") -> str:
    """The labels of a row of table.csv, as in `200 labeled images (+ 223 for choosing)`, or their share."""
    if not row["n_train"]:
        return Level.of_row(row).labels
    return f"{row['n_train']:,}{what}" + (f" ({more})" if (more := further(row)) else "")


def same(a: dict, b: dict) -> bool:
    return all(a[k] == b[k] for k in ("fraction", "init", "metric")) and Level.of_row(a) == Level.of_row(b)


def f1_of(row: dict, paired: Sequence[dict]) -> dict | None:
    """The row of macro F1 that belongs to one of accuracy; None if there is none."""
    return next((r for r in paired if r["metric"] == PRIMARY and same(r | {"metric": "accuracy"}, row)), None)


def outcome(row: dict, paired: Sequence[dict]) -> str:
    """Verdict and difference in accuracy, and in macro F1 where its verdict is another."""
    if row["verdict"] == COLLAPSED:
        return COLLAPSED
    f1 = f1_of(row, paired)
    more = f" (macro F1: {f1['verdict']}, {points(f1)})" if f1 and f1["verdict"] != row["verdict"] else ""
    return f"{row['verdict']}, {points(row)}{more}"


def points(row: dict) -> str:
    """The difference of a row, such as `+3.3 points (95 % interval +2.1 to +4.7)`."""
    low, high, difference = (signed(100 * row[k]) for k in ("low", "high", "difference"))
    return f"{difference} points (95 % interval {low} to {high})"


def signed(value: float) -> str:
    """A number with sign and one decimal, or two if one would round it to zero. Zero has no sign."""
    digits = 1 if abs(value) >= 0.05 or abs(value) < 0.005 else 2
    value = round(value, digits)
    return f"{value:+.{digits}f}".replace("-", "−") if value else "0.0"


def number(times: float) -> str:
    """A multiple with one decimal if it is at least 1, else with two."""
    return f"{times:.1f}" if times >= 0.995 else f"{times:.2f}"


def times(worth: dict) -> str:
    """`3.2 times the labels`, or a bound if the scratch curve ends before."""
    if worth["times"] == math.inf:
        if worth["most"] == 1:
            return (
                f"more than all the labels from {BASELINE}"
                if worth["fraction"] == 1
                else (f"more labels than {BASELINE} was ever given")
            )
        return f"more than {worth['most']:.3g} times the labels"
    if worth["times"] == 0:
        return f"less than {worth['least']:.3g} times the labels"
    return f"{number(worth['times'])} times the labels"


def times_interval(worth: dict) -> str:
    """The interval of `times`, limited to the range of the scratch curve."""
    ends = []
    for end in (worth["low"], worth["high"]):
        over, under = f"more than {worth['most']:.3g}", f"less than {worth['least']:.3g}"
        ends.append(over if end == math.inf else under if end == 0 else number(end))
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def saved(row: dict, worth: Sequence[dict]) -> dict | None:
    """The row of `worth` for a row of paired.csv: how many times the labels a better accuracy is worth.

    None if there is no such value, or if the curve from scratch is so flat, or falls, that it reaches this accuracy
    without more labels.
    """
    matches = [w for w in worth if same(w, row)]
    return matches[0] if matches and matches[0]["times"] is not None and matches[0]["times"] >= 1.05 else None
