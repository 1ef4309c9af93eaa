"""What the runs of one report show: every metric on the test set and on redrawn test sets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from mae_jax.report import stats
from mae_jax.report.runs import Level, Run, init_order

BASELINE = "scratch"
PROBES = "temperature", "ece_scaled", "nll_scaled"
FEW_GROUPS = 20  # intervals from redrawing fewer are too narrow (Cameron, Gelbach and Miller 2008)


@dataclass(frozen=True)
class Study:
    """The runs of one report with every metric: on the test set, and on the redrawn test sets.

    `estimates[metric]` has one value per run, `draws[metric]` one row of 10,000 per run; `unit_of` numbers the unit
    that each image is redrawn with, `units` names these units, and `warnings` are lines on them; `random_probe` has the
    scores by fraction of a linear probe on random weights.
    """

    runs: list[Run]
    estimates: dict[str, Float[np.ndarray, "r"]]
    draws: dict[str, Float[np.ndarray, "r d"]]
    units: str
    unit_of: Int[np.ndarray, "n"]
    random_probe: dict[float, dict[str, float]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def cells(self) -> list[tuple[Level, str]]:
        """(level, init) of every row of the table, in order."""
        return list(dict.fromkeys((run.level, run.init) for run in self.runs))

    @property
    def levels(self) -> list[Level]:
        return list(dict.fromkeys(level for level, _ in self.cells))

    @property
    def arms(self) -> list[str]:
        """The one that the answer is about comes first, see `runs.usual_arm`."""
        return list(dict.fromkeys(level.arm for level in self.levels))

    def in_arms(self, arms: Sequence[str]) -> list[Level]:
        return [level for level in self.levels if level.arm in arms]

    @property
    def inits(self) -> list[str]:
        return sorted({run.init for run in self.runs}, key=init_order)

    def levels_of(self, init: str, arm: str | None = None) -> list[Level]:
        """Those of an initialisation in an arm, the first one unless another is given."""
        arm = self.arms[0] if arm is None else arm
        return [level for level, i in self.cells if i == init and level.arm == arm]

    def of(self, level: Level, init: str) -> list[int]:
        """Indices of the cell's runs, by seed."""
        return [i for i, r in enumerate(self.runs) if (r.level, r.init) == (level, init)]

    def mean(self, metric: str, runs: Sequence[int]) -> float:
        return float(self.estimates[metric][list(runs)].mean())

    def mean_draws(self, metric: str, runs: Sequence[int]) -> Float[np.ndarray, "d"]:
        """Means over the seeds, spread as Student's t, on redrawn images; as many seeds are spread alike."""
        return (stats.seed_weights(len(runs)) * self.draws[metric][list(runs)]).sum(0)

    def n_train(self, level: Level, init: str) -> int | None:
        counts = [self.runs[i].n_train for i in self.of(level, init)]
        known = [count for count in counts if count is not None]
        return round(sum(known) / len(known)) if len(known) == len(counts) else None


def analyze(runs: list[Run], probes: Sequence[Run] = ()) -> Study:
    """Compute every metric of every run (as read by `read_runs`) on 10,000 redrawn test sets.

    `probes`: the linear probes on random weights, a reference beside the majority class.
    """
    classes = len(runs[0].classes)
    groups = next((run.test.groups for run in runs if run.test.groups), None)
    units, words, warnings = redrawn(groups, len(runs[0].test.labels))

    def metrics(sums: np.ndarray) -> dict[str, np.ndarray]:
        return stats.metrics_from_sums(sums, classes)

    def terms(run: Run) -> np.ndarray:
        t = run.test
        return stats.image_terms(t.labels, t.predictions, t.confidence, t.probabilities, classes)

    random_probe = {}
    for fraction in {run.fraction for run in probes}:
        scores = [metrics(terms(run).sum(0)) for run in probes if run.fraction == fraction]
        random_probe[fraction] = {m: float(np.mean([one[m] for one in scores])) for m in ("accuracy", "f1")}
    every = [terms(run) for run in runs]
    found = [metrics(t.sum(0)) for t in every]
    estimates = {m: np.array([one[m] for one in found]) for m in found[0]}
    return Study(runs, estimates, stats.bootstrap(every, units, metrics), words, units, random_probe, warnings)


def redrawn(
    groups: Sequence[str] | None, n: int, what: str = "test images"
) -> tuple[Int[np.ndarray, "n"], str, list[str]]:
    """What the bootstrap redraws whole: the unit of each of n images, the units in words, and warnings on them."""
    names, units = np.unique(groups or [], return_inverse=True)
    if len(names) > 1:
        few = (
            f"The {what} are of only {len(names)} groups: intervals from redrawing so few are too narrow; they say "
            f"little of other groups."
        )
        return units, f"{len(names):,} groups of {what}", [few] if len(names) < FEW_GROUPS else []
    one = f"The {what} are all of one group: the intervals redraw single images and say nothing of other groups."
    return np.arange(n), f"{n:,} {what}", [one] if len(names) else []


def calibration(run: Run) -> dict[str, float]:
    """Equal-mass calibration error, AUROC and AURC of the confidence; temperature, before and after.

    The temperature comes from the run's validation predictions alone; NaN where these, or the
    probabilities, are missing.
    """
    test, validation = run.test, run.validation
    found = {
        "ece_mass": stats.calibration_error(
            stats.reliability(test.confidence, test.right, stats.mass_bins(test.confidence))
        ),
        "auroc": stats.auroc(test.confidence, test.right),
        "aurc": float(stats.risk_coverage(test.confidence, test.right).mean()),
    } | dict.fromkeys(PROBES, math.nan)
    if validation and validation.probabilities is not None and test.probabilities is not None:
        temperature = stats.fit_temperature(validation.probabilities, validation.labels)
        scaled = stats.scale(test.probabilities, temperature)
        classes = len(run.classes)
        confidence = scaled[np.arange(len(scaled)), test.predictions]
        terms = stats.image_terms(test.labels, test.predictions, confidence, scaled, classes)
        after = stats.metrics_from_sums(terms.sum(0), classes)
        values = temperature, float(after["ece"]), float(after["nll"])
        found |= dict(zip(PROBES, values, strict=True))
    return found


def known(value: float) -> float | None:
    return None if math.isnan(value) else value
