"""Every metric of the runs of one report, on the test set and on bootstrap samples of it ("redrawn test sets")."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from mae_jax.report import stats
from mae_jax.report.comparisons import Difference
from mae_jax.report.runs import BASELINE, Level, Run, init_order

PROBES = "temperature", "ece_scaled", "nll_scaled"
FEW_GROUPS = 20  # with fewer groups, intervals are not reliable (Cameron, Gelbach and Miller 2008)
NEARLY = 0.99  # share of one class among the predictions of a model that has (nearly) collapsed
COMMON = 0.98  # if the most common class has at least this share, predicting it everywhere is not a collapse
Cell = tuple[Level, str]  # a level and an initialization: the runs of one row of the table, which differ in seeds
HIGHEST = {"nll": math.inf, "brier": 2.0}  # maximum of a metric; 1 for all others


@dataclass(frozen=True)
class Study:
    """The runs of one report with every metric, on the test set and on redrawn test sets.

    `estimates[metric]` has one value per run, and `draws[metric]` a row of 10,000 values per run. The bootstrap
    resamples units (groups or images): `unit_of` has the unit's index for each image, `units` names them, and
    `warnings` are sentences about them. `random_probe` has the scores of a linear probe on random weights, by fraction.
    """

    runs: list[Run]
    estimates: dict[str, Float[np.ndarray, " r"]]
    draws: dict[str, Float[np.ndarray, "r d"]]
    units: str
    unit_of: Int[np.ndarray, " n"]
    random_probe: dict[float, dict[str, float]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def cells(self) -> list[Cell]:
        """(level, init) of every row of the table, in order."""
        return list(dict.fromkeys((run.level, run.init) for run in self.runs))

    @property
    def levels(self) -> list[Level]:
        return list(dict.fromkeys(level for level, _ in self.cells))

    @property
    def arms(self) -> list[str]:
        """The arms. The one that the answer is about comes first, see `runs.usual_arm`."""
        return list(dict.fromkeys(level.arm for level in self.levels))

    def in_arms(self, arms: Sequence[str]) -> list[Level]:
        return [level for level in self.levels if level.arm in arms]

    @property
    def inits(self) -> list[str]:
        return sorted({run.init for run in self.runs}, key=init_order)

    def levels_of(self, init: str, arm: str | None = None) -> list[Level]:
        """The levels of an initialization in `arm`, by default in the first arm."""
        arm = self.arms[0] if arm is None else arm
        return [level for level, i in self.cells if i == init and level.arm == arm]

    def of(self, level: Level, init: str) -> list[int]:
        """Indices of the cell's runs, by seed."""
        return [i for i, r in enumerate(self.runs) if (r.level, r.init) == (level, init)]

    def mean(self, metric: str, runs: Sequence[int]) -> float:
        return float(self.estimates[metric][list(runs)].mean())

    def mean_draws(self, metric: str, runs: Sequence[int]) -> Float[np.ndarray, " d"]:
        """Bootstrap draws of the mean over runs with different seeds, see `stats.over_seeds`."""
        return stats.over_seeds(self.draws[metric][list(runs)], self.estimates[metric][list(runs)])

    def image_draws(self, metric: str, runs: Sequence[int]) -> Float[np.ndarray, " d"]:
        """Bootstrap draws of the mean over these runs on other test images, as if there were no other seeds."""
        return self.draws[metric][list(runs)].mean(0)

    def interval(self, metric: str, runs: Sequence[int]) -> tuple[float, float]:
        """The 95 % interval of the mean over runs with different seeds, within the metric's bounds."""
        draws = self.mean_draws(metric, runs)
        if metric == "ece":
            low, high = stats.mirrored_interval(draws, self.mean(metric, runs))
        else:
            low, high = stats.percentile_interval(draws)
        return max(low, 0.0), min(high, HIGHEST.get(metric, 1.0))

    def shared_seeds(self, ours: Sequence[int], base: Sequence[int]) -> tuple[list[int], list[int]]:
        """The runs of two cells with seeds that both have, in the order of the seeds."""
        seeds = {self.runs[i].seed for i in ours} & {self.runs[i].seed for i in base}
        first, second = ([i for i in side if self.runs[i].seed in seeds] for side in (ours, base))
        return first, second

    def difference_draws(self, metric: str, ours: Sequence[int], base: Sequence[int]) -> Float[np.ndarray, " d"]:
        """Bootstrap draws of the mean difference over pairs of runs with the same images and seeds."""
        draws, values = self.draws[metric], self.estimates[metric]
        return stats.over_seeds(draws[list(ours)] - draws[list(base)], values[list(ours)] - values[list(base)])

    def difference(self, metric: str, ours: Sequence[int], base: Sequence[int]) -> Difference:
        """`ours` minus `base`, paired run by run. Interval and p value come from the same draws.

        The interval ends at what is possible: a share differs from another by at most 1.
        """
        value = round(self.mean(metric, ours) - self.mean(metric, base), 12) + 0.0
        draws = self.difference_draws(metric, ours, base)
        if metric == "ece":  # resampling biases it, see `stats.mirrored_interval`
            low, high = stats.mirrored_interval(draws, value)
            draws = 2 * value - draws
        else:
            low, high = stats.percentile_interval(draws)
        most = HIGHEST.get(metric, 1.0)
        return Difference(value, max(low, -most), min(high, most), stats.p_value(draws), len(ours))

    def collapsed(self, runs: Sequence[int]) -> int:
        """How many of the runs predict one class for (nearly) every image of several classes."""
        return sum(self.has_collapsed(self.runs[i]) for i in runs)

    def has_collapsed(self, run: Run) -> bool:
        """Whether a run predicts one class for at least 99 % of the images although less than 98 % have this class.

        Predicting one class for all images also counts, if they have several classes.
        """
        counts = np.bincount(run.test.labels)
        majority, share = counts.max() / counts.sum(), top_share(run)
        return bool((majority < 1 and share == 1) or (majority < COMMON and share >= NEARLY))

    def learned(self, level: Level, init: str) -> list[int]:
        """Indices of the cell's runs that have not collapsed, by seed."""
        return [i for i in self.of(level, init) if not self.has_collapsed(self.runs[i])]

    def collapsed_cell(self, level: Level, init: str) -> bool:
        """Whether all runs of a cell have collapsed, so that there is nothing to compare."""
        runs = self.of(level, init)
        return self.collapsed(runs) == len(runs)

    @functools.cached_property
    def baselines(self) -> list[str]:
        """The initializations that the others are compared with: all trainings from random weights.

        If a study has no others, these are compared with scratch.
        """
        from_scratch = [init for init in self.inits if all(run.from_scratch for run in self.runs if run.init == init)]
        return (
            from_scratch if len(from_scratch) < len(self.inits) else [init for init in from_scratch if init == BASELINE]
        )

    @property
    def compared(self) -> list[str]:
        """The initializations that are compared with the baselines."""
        return [init for init in self.inits if init not in self.baselines]

    @property
    def baseline_name(self) -> str:
        """The baseline of the whole study, in words for the head of a table."""
        return "the baseline" if len(self.baselines) > 1 else (self.baselines or [BASELINE])[0]

    def baseline(self, level: Level) -> str | None:
        """The strongest training from scratch at a level, see `choose`; None if there is none."""
        cells = [(level, init) for init in self.baselines if self.of(level, init)]
        chosen = self.choose(cells) or next(iter(cells), None)  # if all collapsed, there is nothing to compare
        return chosen[1] if chosen else None

    def strongest(self, inits: Sequence[str]) -> dict[float, Cell]:
        """The strongest cell of these initializations at each fraction, among all arms, in order; see `choose`."""
        by_fraction: dict[float, list[Cell]] = {}
        for cell in self.cells:
            if cell[1] in inits:
                by_fraction.setdefault(cell[0].fraction, []).append(cell)
        best = {fraction: self.choose(cells) for fraction, cells in sorted(by_fraction.items())}
        return {fraction: cell for fraction, cell in best.items() if cell}

    def choose(self, cells: Sequence[Cell]) -> Cell | None:
        """The cell with the highest macro F1 on the validation images; None if all collapsed. The first of equal ones.

        Choosing on the test images would favor the luckiest cell there. They are used only if a cell has no
        validation predictions, see `chosen_on_test`.
        """
        learned = [cell for cell in cells if not self.collapsed_cell(*cell)]
        scores = self.estimates["f1"] if self.chosen_on_test(learned) else self.validation_f1
        return max(learned, key=lambda cell: float(scores[self.of(*cell)].mean()), default=None)

    def chosen_on_test(self, cells: Sequence[Cell]) -> bool:
        """Whether a choice among these cells needs their test scores, because validation predictions are missing."""
        return any(np.isnan(self.validation_f1[self.of(*cell)]).any() for cell in cells)

    @functools.cached_property
    def validation_f1(self) -> Float[np.ndarray, " r"]:
        """The macro F1 of every run on its validation images; NaN without validation predictions."""
        scores = []
        for run in self.runs:
            v, classes = run.validation, len(run.classes)
            terms = (
                stats.image_terms(v.labels, v.predictions, v.confidence, None, classes) if v and len(v.labels) else None
            )
            scores.append(math.nan if terms is None else float(stats.metrics_from_sums(terms.sum(0), classes)["f1"]))
        return np.array(scores)

    def n_train(self, level: Level, init: str) -> int | None:
        counts = [self.runs[i].n_train for i in self.of(level, init)]
        known = [count for count in counts if count is not None]
        return round(sum(known) / len(known)) if len(known) == len(counts) else None


def analyze(runs: list[Run], probes: Sequence[Run] = (), draws: int = stats.DRAWS) -> Study:
    """Computes every metric of all runs (as read by `read_runs`) on the test set and on `draws` redrawn test sets.

    `probes`: linear probes on random weights, a baseline in addition to the majority class.
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
    terms_of_runs = [terms(run) for run in runs]
    metrics_of_runs = [metrics(t.sum(0)) for t in terms_of_runs]
    estimates = {m: np.array([one[m] for one in metrics_of_runs]) for m in metrics_of_runs[0]}
    drawn = stats.bootstrap(terms_of_runs, units, metrics, draws)
    drawn = {m: stats.allow_for_few_units(values, int(units.max()) + 1) for m, values in drawn.items()}
    return Study(runs, estimates, drawn, words, units, random_probe, warnings)


def top_share(run: Run) -> float:
    """The share of the most common prediction."""
    return float(np.bincount(run.test.predictions).max() / len(run.test.predictions))


def redrawn(
    groups: Sequence[str] | None, n: int, what: str = "test images"
) -> tuple[Int[np.ndarray, " n"], str, list[str]]:
    """What the bootstrap resamples: the unit of each of n images, the units in words, and warnings about them."""
    names, units = np.unique(groups or [], return_inverse=True)
    if len(names) > 1:
        few = (
            f"The {what} come from only {len(names)} groups: intervals are widened for that, but so few groups say "
            f"little about others."
        )
        return units, f"{len(names):,} groups of {what}", [few] if len(names) < FEW_GROUPS else []
    one = (
        f"The {what} all come from one group: the intervals resample single images and say nothing about other groups."
    )
    return np.arange(n), f"{n:,} {what}", [one] if len(names) else []


def calibration(run: Run) -> dict[str, float]:
    """Equal-mass calibration error, AUROC and AURC of the confidence; temperature, before and after.

    The temperature is fitted on the run's validation predictions only. Values are NaN if these or the probabilities
    are missing.
    """
    test, validation = run.test, run.validation
    measures = {
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
        measures |= dict(zip(PROBES, values, strict=True))
    return measures


def known(value: float) -> float | None:
    return None if math.isnan(value) else value
