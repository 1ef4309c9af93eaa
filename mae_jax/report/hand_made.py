"""Classifiers on hand-made features, against trained networks: whether a network is worth its training at all."""

import dataclasses
from collections.abc import Sequence

from mae_jax.report import analysis, stats
from mae_jax.report.analysis import Cell, Study
from mae_jax.report.comparisons import TIMES, Difference, is_higher, judged
from mae_jax.report.frozen_encoders import Frozen, title
from mae_jax.report.label_efficiency import PRIMARY
from mae_jax.report.phrases import amounts
from mae_jax.report.runs import Level, Run
from mae_jax.rundir.contents import hand_made_features
from mae_jax.runtime.text import joined


def headlines(study: Study, probes: Sequence[Frozen]) -> list[str]:
    """A sentence if hand-made features are shown to be better than the networks of a study; else nothing.

    At each number of labels, the strongest classifier on hand-made features is compared with the strongest network,
    both chosen on validation images where these are there (see `Study.choose`). Differences are in macro F1, paired
    over the test images and the seeds that both have, with Holm's correction over the numbers of labels.
    """
    features = [named for run in [*study.runs, *(r for p in probes for r in p.study.runs)] if (named := _named(run))]
    networks = [run for run in study.runs if not _named(run)]
    if not (features and networks):
        return []
    both = analysis.analyze([*networks, *features])
    ours, theirs = (both.strongest(list(dict.fromkeys(run.init for run in side))) for side in (features, networks))
    family: list[tuple[tuple[Cell, Cell], Difference]] = []
    for fraction in [fraction for fraction in ours if fraction in theirs]:
        cells = ours[fraction], theirs[fraction]
        pairs = both.shared_seeds(both.of(*cells[0]), both.of(*cells[1]))
        if pairs[0]:
            family.append((cells, both.difference(PRIMARY, *pairs)))
    better = [
        (cells[0], each)
        for cells, each, entry in judged(family)
        if is_higher({"difference": each.value, **each._asdict(), **entry})
    ]
    sentences = []
    for name in dict.fromkeys(cell[1] for cell, _ in better):
        shown = [(cell[0], each) for cell, each in better if cell[1] == name]
        counts = sorted({each.seeds for _, each in shown}, reverse=True)
        sentences += [_sentence(name, shown, seeds) for seeds in counts]
    return sentences


def _sentence(name: str, better: Sequence[tuple[Level, Difference]], seeds: int) -> str:
    """That one classifier is better than the best network, at the levels with so many seeds."""
    shown = [(level, each) for level, each in better if each.seeds == seeds]
    points = joined([f"{100 * each.value:.1f}" for _, each in shown])
    few = f", each trained {TIMES[seeds]}" if seeds < stats.SEEDS else ""
    return (
        f"{name}, without any network, is better than the best network here{few}: macro F1 is higher by {points} "
        f"points at {amounts([level.amount for level, _ in shown])}."
    )


def _named(run: Run) -> Run | None:
    """A run on hand-made features with its classifier in its name, as in "Logistic regression on color histograms"."""
    config = run.info.get("config")
    features = hand_made_features(config.get("init")) if isinstance(config, dict) else ""
    return dataclasses.replace(run, init=f"{title(run.evaluation)} on {features}") if features else None
