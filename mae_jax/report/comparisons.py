"""Which differences are shown: one rule for every comparison of a report.

A difference is shown if its 95 % interval excludes 0, and its p value is still below 0.05 after Holm's correction for
all comparisons of its family. A family is every comparison that a report makes of one quantity: all fractions, arms
and initializations, and all classes or evaluations. Interval and p value of a difference have the same source.

With one or two seeds, a p value is about these models alone, with more also about other seeds. The two kinds are
corrected apart, each for the number of all comparisons, so that what is known of one does not make another significant.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

from mae_jax.report import stats

SURE = 0.05  # significance level for a corrected p value
NOTHING = "no difference shown"
COLLAPSED = "collapsed: nothing to compare"
TOO_FEW = "too few images to compare"
UNSURE = "not confirmed by Holm's correction"
TIMES = {1: "once", 2: "twice"}  # how often a model was trained, in words

T = TypeVar("T")


class Difference(NamedTuple):
    """A value of some models minus that of others, averaged over seeds, with its 95 % interval and p value.

    Interval and p value are NaN where there are too few images for them, see `untested`.
    """

    value: float
    low: float
    high: float
    p: float
    seeds: int

    @property
    def tested(self) -> bool:
        """Whether there is an interval and a p value."""
        return not math.isnan(self.p)

    @property
    def numbers(self) -> tuple[float, float | None, float | None, float | None]:
        """Value, ends of the interval and p value for a table; None where there is none."""
        return (self.value, self.low, self.high, self.p) if self.tested else (self.value, None, None, None)


def untested(value: float, seeds: int) -> Difference:
    """A difference on too few images for an interval and a p value."""
    return Difference(value, math.nan, math.nan, math.nan, seeds)


D = TypeVar("D", bound=Difference | None)


def judge(family: Sequence[Difference | None]) -> list[dict]:
    """`holm_p` and `verdict` of each difference of a family; None stands for models that collapsed."""
    tested = [each for each in family if each is not None and each.tested]
    corrected = {few: iter(stats.holm([e.p if of_models(e) == few else 1.0 for e in tested])) for few in (True, False)}
    entries = []
    for each in family:
        if each is None or not each.tested:
            entries.append({"holm_p": None, "verdict": COLLAPSED if each is None else TOO_FEW})
        else:
            holm_p = {few: next(values) for few, values in corrected.items()}[of_models(each)]
            entries.append({"holm_p": holm_p, "verdict": verdict(each, holm_p)})
    return entries


def of_models(difference: Difference) -> bool:
    """Whether a difference is one between these models alone, because there are too few seeds to tell about others."""
    return difference.seeds < stats.SEEDS


def judged(family: Sequence[tuple[T, D]]) -> Iterator[tuple[T, D, dict]]:
    """Each (key, difference) of a family with its entry of `judge`."""
    for (key, each), entry in zip(family, judge([each for _, each in family]), strict=True):
        yield key, each, entry


def verdict(difference: Difference, holm_p: float) -> str:
    """A difference in words. With one or two seeds, it is only about these models."""
    if difference.low <= 0 <= difference.high:
        return NOTHING
    text = "higher" if difference.low > 0 else "lower"
    text += f", each trained {TIMES[difference.seeds]}" if of_models(difference) else ""
    return text if holm_p < SURE else f"{text}, {UNSURE}"


def is_higher(row: dict) -> bool:
    """Whether a row with `low`, `high` and `holm_p` shows a higher value."""
    return row["low"] is not None and row["low"] > 0 and is_sure(row)


def is_lower(row: dict) -> bool:
    """Whether a row with `low`, `high` and `holm_p` shows a lower value."""
    return row["high"] is not None and row["high"] < 0 and is_sure(row)


def is_unsure(row: dict) -> bool:
    """Whether the interval of a row excludes 0, but Holm's correction does not confirm the difference."""
    return row["low"] is not None and not row["low"] <= 0 <= row["high"] and not is_sure(row)


def is_sure(row: dict) -> bool:
    """Whether a row's p value is below 0.05 after Holm's correction."""
    return row["holm_p"] is not None and row["holm_p"] < SURE
