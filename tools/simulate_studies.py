"""Measures how often the report's intervals and claims are right, on simulated studies.

    python tools/simulate_studies.py [--studies 1000] [--draws 2000] [--f1] [--sentences]

Each simulated study compares two models for every random seed at four fractions of the labels, with or without a true
gain, on the same test images. Intervals, p values and corrections are those of `mae_jax.report.stats`. The script
prints Markdown tables; docs/explanation/statistics.md shows and explains them. It uses no images and no training.

`--sentences` counts false sentences: whole studies without any gain are analyzed and put into words by the report.

`width` is the mean interval width relative to that of an oracle, 2 x 1.96 true standard errors. `claims` is the
fraction of single differences called higher or lower at 95 %. `any claim` is the fraction of studies with at least one
claim among four fractions after Holm's correction. Without a gain, all claims are false.
"""

import argparse
import dataclasses
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtr, ndtri
from scipy.stats import norm

from mae_jax.report import analysis, label_efficiency, stats, tables, words
from mae_jax.report.runs import Run
from mae_jax.rundir.predictions import Predictions

ACCURACY = 0.9
IMAGES = 600
GROUPS = 10
FRACTIONS = 4
OWN = 0.3  # fraction of the variance of images and groups that is specific to one arm
MANY = 8000  # number of studies that estimate the oracle's standard errors
AT_ONCE = 500  # studies that are simulated together, to bound memory
CURVE = {0.01: 0.75, 0.1: 0.85, 0.5: 0.90, 1.0: 0.91}  # true accuracy of both arms by share of labels, for sentences
EQUAL = "as many updates as 100 %"  # the arm that is trained for equal updates, whose curve is flatter
SHARES = np.array([0.05, 0.08, 0.24, 0.06, 0.57])  # class frequencies, for macro F1


@dataclasses.dataclass(frozen=True)
class Setting:
    """Parameters of a simulation.

    `deviation` is the standard deviation of one arm's accuracy over seeds, and `gain` the true difference between the
    arms, both in percentage points. `groups` is 0 for independent images. `image` and `group` are the standard
    deviations of an image's and a group's difficulty, in units of the noise of a single prediction. 30 % of both
    variances are specific to one arm, so some images are hard for only one of them.
    """

    seeds: int
    deviation: float
    groups: int = 0
    gain: float = 0.0
    image: float = 1.0
    group: float = 0.6


def simulate(
    rng: np.random.Generator, setting: Setting, studies: int
) -> tuple[Bool[np.ndarray, "studies 2 k n"], Float[np.ndarray, "studies 2 k"]]:
    """Whether each prediction is right, and each model's true accuracy on the population of images.

    This is a probit model with crossed random effects: a prediction's latent score is the sum of the model's skill,
    the difficulties of image and group, and noise.
    """
    group = setting.group if setting.groups else 0.0
    total = np.sqrt(setting.image**2 + group**2 + 1)
    slope = norm.pdf(ndtri(ACCURACY))  # change in accuracy per unit of skill
    skills = setting.deviation / 100 / slope
    wanted = ndtri(np.array([ACCURACY, ACCURACY + setting.gain / 100]))
    skill = wanted[:, None] * np.sqrt(1 + skills**2) + skills * rng.normal(size=(studies, 2, setting.seeds))

    def effect(count: int) -> Float[np.ndarray, "studies 2 {count}"]:
        shared, specific = rng.normal(size=(studies, 1, count)), rng.normal(size=(studies, 2, count))
        return np.sqrt(1 - OWN) * shared + np.sqrt(OWN) * specific

    difficulty = setting.image * effect(IMAGES)
    if setting.groups:
        difficulty = difficulty + group * effect(setting.groups)[..., units_of(setting)]
    noise = rng.normal(size=(studies, 2, setting.seeds, IMAGES))
    return skill[..., None] * total + difficulty[:, :, None] + noise > 0, ndtr(skill)


def units_of(setting: Setting) -> Int[np.ndarray, " n"]:
    """Index of each image's group, or of the image itself if there are no groups."""
    return np.arange(IMAGES) * setting.groups // IMAGES if setting.groups else np.arange(IMAGES)


def redraw(right: Bool[np.ndarray, "*r n"], units: Int[np.ndarray, " n"], draws: int) -> Float[np.ndarray, "*r d"]:
    """The accuracy of every model on bootstrap samples of the test images, as in the report. Groups have equal size."""
    # the models are terms of one run: a single matrix product
    all_models = right.reshape(-1, IMAGES).T.astype(np.float64)
    (drawn,) = stats.bootstrap([all_models], units, lambda sums: {"accuracy": sums / IMAGES}, draws)["accuracy"]
    return stats.allow_for_few_units(drawn.T, int(units.max()) + 1).reshape(*right.shape[:-1], draws)


MEANS = ("coverage", "width", "claims")


@dataclasses.dataclass(frozen=True)
class Result:
    """Coverage, width relative to the oracle, fraction of intervals without 0, and p values over simulated studies."""

    coverage: float
    width: float
    claims: float
    p: Float[np.ndarray, " studies"]


def judge(
    redrawn: Float[np.ndarray, "studies k d"],
    values: Float[np.ndarray, "studies k"],
    truth: Float[np.ndarray, " studies"],
    error: float,
) -> Result:
    """Evaluates the report's intervals of the mean over seeds. `error` is the true standard error."""
    draws = [stats.over_seeds(*one) for one in zip(redrawn, values, strict=True)]
    low, high = np.array([stats.percentile_interval(one) for one in draws]).T
    return Result(
        coverage=float(((low <= truth) & (truth <= high)).mean()),
        width=float((high - low).mean() / (2 * norm.ppf(0.975) * error)),
        claims=float(((low > 0) | (high < 0)).mean()),
        p=np.array([stats.p_value(one) for one in draws]),
    )


def merged(parts: Sequence[Result], sizes: Sequence[int]) -> Result:
    """The result of all studies from results of parts of them."""
    mean = {name: float(np.average([getattr(p, name) for p in parts], weights=sizes)) for name in MEANS}
    return Result(**mean, p=np.concatenate([part.p for part in parts]))


def study(setting: Setting, studies: int, draws: int, seed: int = 0, oracle: int = MANY) -> dict[str, Result]:
    """Evaluates the intervals of one arm's accuracy, of the difference, and of the difference between these models.

    The last covers other images but not other seeds, which is what one or two seeds can show. `oracle` is the number
    of studies that estimate the true standard errors.
    """
    rng = np.random.default_rng([seed, setting.seeds, round(10 * setting.deviation), setting.groups])
    many = [[each.reshape(250, 2, -1).mean(2) for each in simulate(rng, setting, 250)] for _ in range(oracle // 250)]
    measured, true = (np.concatenate(each) for each in zip(*many, strict=True))  # accuracy of both arms, over seeds
    gains, models = measured[:, 1] - measured[:, 0], true[:, 1] - true[:, 0]
    errors = {"accuracy": measured[:, 0].std(), "difference": gains.std(), "these models": (gains - models).std()}
    sizes = [min(AT_ONCE, studies - start) for start in range(0, studies, AT_ONCE)]
    parts: dict[str, list[Result]] = {name: [] for name in errors}
    for size in sizes:
        right, skill = simulate(rng, setting, size)
        redrawn, values = redraw(right, units_of(setting), draws), right.mean(-1)
        difference, gains = redrawn[:, 1] - redrawn[:, 0], values[:, 1] - values[:, 0]
        models = (skill[:, 1] - skill[:, 0]).mean(1)
        for name, numbers in {
            "accuracy": (redrawn[:, 0], values[:, 0], np.full(size, ACCURACY)),
            "difference": (difference, gains, np.full(size, setting.gain / 100)),
            "these models": (difference, gains, models),
        }.items():
            redrawn_of, values_of, truth = numbers
            parts[name].append(judge(redrawn_of, values_of, truth, float(errors[name])))
    return {name: merged(judged, sizes) for name, judged in parts.items()}


def any_claim(p: Float[np.ndarray, " studies"]) -> float:
    """The fraction of studies (four p values each) with a p value below 0.05 after Holm's correction."""
    families = p[: len(p) // FRACTIONS * FRACTIONS].reshape(-1, FRACTIONS)
    return float(np.mean([min(stats.holm(family.tolist())) < 0.05 for family in families]))


def f1_study(deviation: float, seeds: int, studies: int, draws: int, seed: int = 0) -> Result:
    """Evaluates the report's interval of one arm's macro F1 with five unequal classes.

    The mean of many simulated studies serves as the true value.
    """
    setting = Setting(seeds, deviation)
    rng = np.random.default_rng([seed, 5, seeds, round(10 * deviation)])

    def sums(count: int) -> tuple[Float[np.ndarray, "studies k n t"], Float[np.ndarray, "studies k"]]:
        right = simulate(rng, setting, count)[0][:, 0]
        labels = np.broadcast_to(np.repeat(np.arange(5), (SHARES * IMAGES).round().astype(int)), right.shape)
        wrong = (labels + 1 + rng.choice(4, right.shape)) % 5
        one = np.eye(5)
        predictions = np.where(right, labels, wrong)
        terms = np.concatenate([one[labels], one[predictions], one[labels] * right[..., None]], -1)
        return terms, macro_f1(terms.sum(-2))

    many = np.concatenate([sums(100)[1].mean(1) for _ in range(MANY // 400)])
    terms, values = sums(studies)
    runs = list(terms.reshape(-1, IMAGES, 15))
    drawn = stats.bootstrap(runs, np.arange(IMAGES), lambda s: {"f1": macro_f1(s)}, draws)["f1"]
    redrawn = stats.allow_for_few_units(drawn, IMAGES).reshape(studies, seeds, draws)
    return judge(redrawn, values, np.full(studies, many.mean()), float(many.std()))


def macro_f1(sums: Float[np.ndarray, "*d 15"]) -> Float[np.ndarray, "*d"]:
    """Macro F1 of five classes from the counts of labels, predictions and hits per class."""
    padding = np.zeros((*sums.shape[:-1], stats.BINS + 2))
    return stats.metrics_from_sums(np.concatenate([sums, padding], -1), 5)["f1"]


# --- false sentences


def null_study(rng: np.random.Generator, seeds: int, deviation: float, updates: bool, draws: int) -> analysis.Study:
    """A study in which pre-training changes nothing: four fractions, two initializations, five unequal classes.

    `deviation` is the standard deviation of accuracy over seeds, in points. With `updates`, there is an arm of equal
    updates at the three smaller fractions, as the default protocol has. 223 validation images choose the arm.
    """
    labels = {n: np.repeat(np.arange(5), (SHARES * n).round().astype(int)) for n in (IMAGES, 223)}
    hard = {n: rng.normal(size=len(labels[n])) for n in labels}
    runs = []
    arms = {"": CURVE} | ({EQUAL: {f: min(CURVE[f] + 0.05, CURVE[1.0]) for f in (0.01, 0.1, 0.5)}} if updates else {})
    for (arm, curve), init in itertools.product(arms.items(), ("scratch", "mae")):
        for (fraction, accuracy), seed in itertools.product(curve.items(), range(seeds)):
            wanted = ndtri(accuracy)
            skills = deviation / 100 / norm.pdf(wanted)
            skill = np.sqrt(2) * (wanted * np.sqrt(1 + skills**2) + skills * rng.normal())
            tested = {}
            for n, truth in labels.items():
                right = skill + hard[n] + rng.normal(size=len(truth)) > 0
                given = np.where(right, truth, (truth + 1 + rng.choice(4, len(truth))) % 5)
                names = tuple(f"{n}-{i}" for i in range(len(truth)))
                tested[n] = Predictions(names, truth, given, np.full(len(truth), 0.9), None, None)
            run = Run(
                path=Path(), init=init, arm=arm, fraction=fraction, seed=seed, classes=tuple("abcde"),
                test=tested[IMAGES], validation=tested[223], n_train=round(2000 * fraction), info={}, log=(),
            )  # fmt: skip
            runs.append(run)
    runs.sort(key=lambda run: (run.arm, run.fraction, run.init != "scratch", run.seed))
    return analysis.analyze(runs, draws=draws)


SENTENCE_ROWS = (
    *((False, 1, 1.3), (False, 1, 5.0), (False, 2, 5.0)),
    *((False, 3, 1.3), (True, 3, 1.3), (False, 3, 0.0), (False, 3, 5.0), (False, 5, 1.3)),
)
SENTENCES = {  # false in a study without a gain, by words of the headlines
    "fewer labels": ("it takes", "no number that was tried does"),
    "worth": ("is worth", "it costs", "pre-training costs", "better than", "worse than", "macro f1 differs"),
}
MODELS = "each trained"  # part of a sentence about these models
DOUBTS = ("but with as many labels", "not better than", "not shown to be better")


def false_sentences(seeds: int, deviation: float, updates: bool, studies: int, draws: int) -> dict[str, float]:
    """The share of studies without a gain whose headlines say that fewer labels suffice, or claim a gain or a loss."""
    rng = np.random.default_rng([7, seeds, round(10 * deviation), updates])
    counts = dict.fromkeys(SENTENCES, 0)
    for _ in range(studies):
        null = null_study(rng, seeds, deviation, updates, draws)
        rows, (paired, _) = tables.rows(null), tables.paired(null)
        headlines = words.answer(null, rows, paired, label_efficiency.worth(null, paired))["headlines"]
        sentences = [each for each in " ".join(headlines).lower().split(". ") if MODELS not in each]
        clauses = [clause for each in sentences for clause in each.split("; ")]
        doubtless = [clause for clause in clauses if not any(doubt in clause for doubt in DOUBTS)]
        for name, claims in SENTENCES.items():
            counts[name] += any(claim in clause for claim in claims for clause in doubtless)
    return {name: count / studies for name, count in counts.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="simulated comparisons per setting")
    parser.add_argument("--draws", type=int, default=2000, help="bootstrap samples; the report uses 10,000")
    parser.add_argument("--f1", action="store_true", help="also evaluate macro F1 of five unequal classes")
    parser.add_argument("--sentences", action="store_true", help="only count false sentences, in 300 studies a row")
    options = parser.parse_args(argv)
    start = time.perf_counter()
    if options.sentences:
        studies = min(options.studies, 300)
        print("| seeds | spread, points | equal updates | fewer labels suffice | a gain or a loss |")
        print("|---|---|---|---|---|")
        for updates, seeds, deviation in SENTENCE_ROWS:
            shares = false_sentences(seeds, deviation, updates, studies, min(options.draws, 500))
            cells = [str(seeds), f"{deviation:g}", "yes" if updates else "no", *(f"{v:.3f}" for v in shares.values())]
            print("| " + " | ".join(cells) + " |", flush=True)
        print(f"\n{studies} studies per row, {time.perf_counter() - start:.0f} s")
        return
    print(f"{IMAGES} test images, accuracy {ACCURACY}, {options.studies} studies per row, {options.draws} draws\n")
    print("| units | seeds | spread, points | accuracy: coverage | width | difference: coverage | width | claims "
          "| any claim | these models: coverage | gain of 3 points: coverage | claims |")  # fmt: skip
    print("|" + "---|" * 12)
    for groups in (0, GROUPS):
        for seeds in (1, 2, 3, 5):
            for deviation in (0.0, 1.3, 5.0):
                null = study(Setting(seeds, deviation, groups), options.studies, options.draws)
                gain = study(Setting(seeds, deviation, groups, gain=3.0), options.studies, options.draws, seed=1)
                accuracy, difference, models = null["accuracy"], null["difference"], null["these models"]
                cells = [f"{groups} groups" if groups else "images", str(seeds), f"{deviation:g}"]
                cells += [f"{accuracy.coverage:.2f}", f"{accuracy.width:.2f}"]
                cells += [f"{difference.coverage:.2f}", f"{difference.width:.2f}", f"{difference.claims:.2f}"]
                cells += [f"{any_claim(difference.p):.2f}", f"{models.coverage:.2f}"]
                cells += [f"{gain['difference'].coverage:.2f}", f"{gain['difference'].claims:.2f}"]
                print("| " + " | ".join(cells) + " |", flush=True)
    if options.f1:
        print("\n| seeds | spread, points | macro F1: coverage | width |\n|---|---|---|---|")
        for seeds in (1, 3, 5):
            for deviation in (0.0, 1.3, 5.0):
                result = f1_study(deviation, seeds, min(options.studies, 300), min(options.draws, 1000))
                print(f"| {seeds} | {deviation:g} | {result.coverage:.2f} | {result.width:.2f} |", flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
