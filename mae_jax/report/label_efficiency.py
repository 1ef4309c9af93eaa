"""How many labels a start is worth, and from which number on more labels change nothing."""

import itertools

import numpy as np

from mae_jax.report import stats
from mae_jax.report.analysis import BASELINE, Study

COLUMNS = ("fraction", "init", "metric", "times", "low", "high", "least", "most", "arm")  # of efficiency.csv


def worth(study: Study, metric: str = "accuracy") -> list[dict]:
    """How many times the labels each initialisation is worth, per fraction, with a 95 % interval.

    `times` is the number of labels from scratch that reach the same score, over the labels used;
    0 and infinity stand for beyond the scratch curve, which spans `least` to `most` times. The curve is
    taken as never falling: at each number of labels it has the best score up to there. Of the first arm alone; empty
    with fewer than two fractions from scratch.
    """
    curve = study.levels_of(BASELINE)
    if len(curve) < 2:
        return []
    known = all(study.n_train(f, BASELINE) for f in curve)
    n = np.array([study.n_train(f, BASELINE) if known else f.fraction for f in curve], dtype=np.float64)
    if (np.diff(n) <= 0).any():
        n = np.array([f.fraction for f in curve])
    scores = np.array([study.mean(metric, study.of(f, BASELINE)) for f in curve])
    redrawn = np.stack([study.mean_draws(metric, study.of(f, BASELINE)) for f in curve], -1)
    found = []
    for level, init in study.cells:
        if init == BASELINE or level not in curve:
            continue
        used, ours = n[curve.index(level)], study.of(level, init)
        times = stats.labels_to_reach(n, scores, np.array(study.mean(metric, ours))) / used
        draws = stats.labels_to_reach(n, redrawn, study.mean_draws(metric, ours)) / used
        low, high = stats.censored_interval(draws)
        row = {"fraction": level.fraction, "init": init, "metric": metric, "times": float(times)}
        row |= {"low": low, "high": high, "least": float(n[0] / used), "most": float(n[-1] / used), "arm": level.arm}
        found.append(row)
    return found


def plateau(study: Study, init: str, metric: str = "accuracy") -> tuple[float, float] | None:
    """The smallest fraction from which on no two differ measurably, and the largest gain over it that is
    not ruled out; None if there is none.

    Paired on the same images: the 95 % interval of every difference between two of the fractions from there on holds 0,
    and the gain is the highest end of those to the smallest. The largest fraction alone is no plateau.
    """
    levels = study.levels_of(init)
    draws = [study.mean_draws(metric, study.of(level, init)) for level in levels]
    for i, level in enumerate(levels[:-1]):
        changes = [stats.percentile_interval(more - less) for less, more in itertools.combinations(draws[i:], 2)]
        if all(low <= 0 <= high for low, high in changes):
            return level.fraction, max(high for _, high in changes[: len(draws) - 1 - i])
    return None
