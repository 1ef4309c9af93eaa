"""Numbers from predictions: metrics, intervals, paired tests, calibration, label efficiency.

Pure functions of NumPy arrays. Shapes: n images, c classes, s seeds, d bootstrap draws, k fractions,
t terms that are summed over images.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import linalg, optimize, stats

DRAWS = 10_000
BINS = 15
LEVEL = 0.95
SEEDS = 3  # minimum number of seeds for an interval that covers other seeds
SMALLEST = 1e-12  # lower bound of probabilities before their logarithm is taken
METRICS = ("accuracy", "precision", "recall", "f1", "balanced_accuracy")
SCORES = ("ece", "nll", "brier")  # smaller is better


# --- metrics as functions of sums over images, so that a bootstrap sample costs one matrix product


def image_terms(
    labels: Int[np.ndarray, " n"],
    predictions: Int[np.ndarray, " n"],
    confidence: Float[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n c"] | None,
    classes: int,
) -> Float[np.ndarray, "n t"]:
    """Each image's contribution to the sums that `metrics_from_sums` needs.

    Columns: label, prediction, and correct prediction (one-hot, c each); confidence minus correctness in its bin
    (15); negative log-likelihood; Brier score. The last two are NaN without probabilities.
    """
    one = np.eye(classes)
    right = labels == predictions
    gaps = np.zeros((len(labels), BINS))
    gaps[np.arange(len(labels)), width_bins(confidence)] = confidence - right
    nll = brier = np.full(len(labels), np.nan)
    if probabilities is not None:
        of_label = np.take_along_axis(probabilities, labels[:, None], 1)[:, 0]
        nll = -np.log(np.maximum(of_label, SMALLEST))
        brier = ((probabilities - one[labels]) ** 2).sum(1)
    hits = one[labels] * right[:, None]
    return np.column_stack([one[labels], one[predictions], hits, gaps, nll, brier])


def metrics_from_sums(sums: Float[np.ndarray, "*d t"], classes: int) -> dict[str, Float[np.ndarray, "*d"]]:
    """Every metric of METRICS and SCORES from summed `image_terms`.

    Precision, recall and F1 are macro averages over the classes that occur in the labels. A class that is never
    predicted has precision 0 (scikit-learn's `zero_division=0`). `ece` is the expected calibration error over 15 bins
    of equal width (Guo et al. 2017, eq. 3), `nll` is in nats, and `brier` is the sum of squared errors over classes,
    0 to 2 (Brier 1950).
    """
    labeled, predicted, hits = np.split(sums[..., : 3 * classes], 3, axis=-1)
    n = labeled.sum(-1)
    occurs = labeled > 0
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(labeled, 1)
    f1 = 2 * hits / np.maximum(labeled + predicted, 1)

    def macro(values: Float[np.ndarray, "*d c"]):
        return (values * occurs).sum(-1) / occurs.sum(-1)

    metrics = {
        "accuracy": hits.sum(-1) / n,
        "precision": macro(precision),
        "recall": macro(recall),
        "f1": macro(f1),
        "balanced_accuracy": macro(recall),
        "ece": np.abs(sums[..., 3 * classes : 3 * classes + BINS]).sum(-1) / n,
        "nll": sums[..., -2] / n,
        "brier": sums[..., -1] / n,
    }
    return {name: np.asarray(values) for name, values in metrics.items()}


# --- intervals and tests


def bootstrap(
    terms: Sequence[Float[np.ndarray, "n t"]],
    units: Int[np.ndarray, " n"],
    metrics: Callable[[np.ndarray], dict[str, np.ndarray]],
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Float[np.ndarray, "r d *m"]]:
    """Metrics of r runs on bootstrap samples of the test set. All runs share the samples, so they are paired.

    `metrics` maps the sums of d samples, of shape (d, t), to arrays of shape (d, *m). `units` has the index of each
    image's group (or of the image itself). Whole units are drawn with replacement, as many as there are (Efron and
    Tibshirani 1993, chapters 6 and 8).
    """
    rng = np.random.default_rng(seed)
    count = int(units.max()) + 1
    by_unit = [np.zeros((count, t.shape[1])) for t in terms]
    for target, t in zip(by_unit, terms, strict=True):
        np.add.at(target, units, t)
    by_unit = [t.astype(np.float32) for t in by_unit]
    parts = []
    step = max(1, min(draws, 2_000_000 // count))
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        drawn = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        weights = weights.astype(np.float32)
        parts.append([metrics((weights @ t).astype(np.float64)) for t in by_unit])
    names = parts[0][0]
    return {m: np.stack([np.concatenate([part[r][m] for part in parts]) for r in range(len(terms))]) for m in names}


def percentile_interval(draws: Float[np.ndarray, " d"]) -> tuple[float, float]:
    """The central 95 % of bootstrap draws."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mirrored_interval(draws: Float[np.ndarray, " d"], estimate: float) -> tuple[float, float]:
    """The basic bootstrap interval (Davison and Hinkley 1997, eq. 5.6), widened to contain the estimate.

    It is for calibration errors and their differences, because resampling biases them: it inflates small errors more.
    """
    low, high = percentile_interval(draws)
    return min(2 * estimate - high, estimate), max(2 * estimate - low, estimate)


def t_interval(values: Float[np.ndarray, " s"]) -> tuple[float, float]:
    """Student's 95 % interval of the mean over two or more seeds, for values that do not depend on test images."""
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def t_test(values: Float[np.ndarray, " s"]) -> float:
    """Student's two-sided p value that the mean over two or more seeds is 0; `t_interval` is its interval."""
    error = stats.sem(values)
    if not error:
        return 0.0 if np.mean(values) else 1.0
    return float(2 * stats.t.sf(abs(np.mean(values)) / error, len(values) - 1))


def allow_for_few_units(draws: Float[np.ndarray, "*r d"], units: int) -> Float[np.ndarray, "*r d"]:
    """Stretches bootstrap draws about their mean, so that intervals over a few units have their nominal coverage.

    The bootstrap of g units underestimates a variance by the factor (g - 1) / g and ignores its uncertainty. Each
    draw's distance from the mean is multiplied by sqrt(g / (g - 1)) and by the root of (g - 1) / chi-square(g - 1).
    This turns a normal distribution into Student's t with g - 1 degrees of freedom (Davison and Hinkley 1997, section
    2.3; Cameron, Gelbach and Miller 2008). With hundreds of images the effect is invisible. A draw has the same factor
    for all r runs, so that runs stay paired.
    """
    if units < 2:
        return draws
    degrees, count = units - 1, draws.shape[-1]
    quantiles = stats.chi2.ppf((np.arange(count) + 0.5) / count, degrees)
    factor = np.random.default_rng(units).permutation(np.sqrt(units / quantiles))
    mean = draws.mean(-1, keepdims=True)
    return mean + (draws - mean) * factor


def over_seeds(redrawn: Float[np.ndarray, "s d"], values: Float[np.ndarray, " s"]) -> Float[np.ndarray, " d"]:
    """Draws of the mean over s seeds, spread over test images and, from three seeds on, over seeds.

    `redrawn` has each seed's value (of a metric, or of a difference between two models) on the bootstrap samples, and
    `values` has the same on the original images. Images and seeds are crossed random effects, like cases and readers in
    Obuchowski and Rockette (1995). The variance of the mean is the covariance that the seeds share, because all are
    tested on the same images, plus the variance of `values` divided by s. A draw is therefore

        mean + sqrt(c / v) (redrawn mean - its mean) + sum_k (w_k - 1/s) values_k

    where v is the variance of the redrawn mean, c the part of it that the seeds share, and w the `seed_weights`, which
    give the last term Student's t distribution with s - 1 degrees of freedom. The image noise specific to each seed is
    already in `values` and is not added again. If seeds agree so well that this is narrower than resampling only the
    images, the redrawn means are returned. tools/simulate_studies.py measures the coverage. With one or two seeds, the
    draws are over test images only, because two values do not determine a variance.
    """
    seeds = len(values)
    image = redrawn.mean(0)
    if seeds < SEEDS:
        return image
    center, variance = image.mean(), image.var()
    specific = (redrawn - redrawn.mean(1, keepdims=True)).var(0, ddof=1).mean()
    shared = max(0.0, 1 - specific / (seeds * variance)) if variance > 0 else 0.0
    seed_term = (seed_weights(seeds, len(image)) - 1 / seeds).T @ values
    both = center + np.sqrt(shared) * (image - center) + seed_term
    widths = [high - low for low, high in (percentile_interval(both), percentile_interval(image))]
    return both if widths[0] >= widths[1] else image


def p_value(draws: Float[np.ndarray, " d"]) -> float:
    """The two-sided p value of a difference of 0 from the draws that also give its interval.

    It is below 0.05 if `percentile_interval` excludes 0 (Efron and Tibshirani 1993, section 15.4), and at least 1 / d,
    the resolution of d draws.
    """
    fewer = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return float(min(1.0, 2 * max(fewer, 0.5) / len(draws)))


@functools.cache
def seed_weights(seeds: int, draws: int = DRAWS, seed: int = 0) -> Float[np.ndarray, "s d"]:
    """Weights of the seeds in each draw, which sum to 1.

    A weighted sum of s values, or of s differences, is distributed about its mean like Student's t with s - 1 degrees
    of freedom times the standard error. Resampling so few seeds with replacement would give intervals that are far too
    narrow. Points of a Sobol' (1967) sequence, each with its mirror image, replace independent draws, whose interval
    ends would be about 4 % of its width off, and not symmetric.
    """
    if seeds == 1:
        return np.ones((1, draws))
    rng = np.random.default_rng([seed, seeds])
    half = -(-draws // 2)
    points = stats.qmc.Sobol(seeds, rng=rng).random_base2(int(half - 1).bit_length())[:half]
    points = np.clip(points, SMALLEST, 1 - SMALLEST)
    normal = stats.norm.ppf(points[:, 1:])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    length = np.sqrt(stats.f.ppf(points[:, :1], seeds - 1, seeds - 1) / seeds)
    deviations = length * normal @ linalg.helmert(seeds)
    weights = 1 / seeds + rng.permutation(np.concatenate([deviations, -deviations]))[:draws].T
    weights.flags.writeable = False  # the cache returns the same array to all callers
    return weights


def mcnemar(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> float:
    """Exact two-sided McNemar test that two models are correct equally often on the same images."""
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979) of p values, in the order given."""
    raw = np.asarray(p, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    stepped = np.maximum.accumulate(raw[order] * (len(raw) - np.arange(len(raw))))
    corrected = np.empty_like(raw)
    corrected[order] = np.minimum(stepped, 1)
    return corrected.tolist()


# --- label efficiency


def labels_to_reach(
    n: Float[np.ndarray, " k"],
    scores: Float[np.ndarray, "*d k"],
    target: Float[np.ndarray, "*d"],
) -> Float[np.ndarray, "*d"]:
    """The number of labels at which a curve of scores reaches the target.

    Interpolates linearly in log(n) between the measured points, which must ascend in n. A falling curve is replaced by
    its running maximum. Returns 0 if the target is below the whole curve, and infinity if it is above.
    """
    curve = np.maximum.accumulate(scores, axis=-1)
    log_n = np.log(n)
    reached = np.where(target > curve[..., -1], np.inf, 0.0)
    reached = np.where(target == curve[..., 0], n[0], reached)
    for i in range(len(n) - 1):
        low, high = curve[..., i], curve[..., i + 1]
        inside = (low < target) & (target <= high)
        share = np.where(inside, target - low, 0) / np.where(inside, high - low, 1)
        reached = np.where(inside, np.exp(log_n[i] + share * (log_n[i + 1] - log_n[i])), reached)
    return reached


def censored_interval(draws: Float[np.ndarray, " d"]) -> tuple[float, float]:
    """The central 95 % of draws, in which 0 and infinity mean "beyond what was measured"."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return float(low), float(high)


def power_law(n: Float[np.ndarray, " k"], errors: Float[np.ndarray, " k"]) -> tuple[float, float, float]:
    """Least squares of log(error) = log(a) - b log(n): a, b and R^2 of the fit in logarithms."""
    x, y = np.log(n), np.log(errors)
    slope, intercept = np.polyfit(x, y, 1)
    left, total = ((y - intercept - slope * x) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    return float(np.exp(intercept)), float(-slope), float(1 - left / total) if total else 1.0


# --- confidence and calibration


def width_bins(confidence: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The bin of each confidence among 15 of equal width, closed above: (0, 1/15], (1/15, 2/15] ..."""
    return np.clip(np.ceil(confidence * BINS - 1e-9).astype(int) - 1, 0, BINS - 1)


def mass_bins(confidence: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The bin of each confidence among (at most) 15 of equal counts; equal values share a bin."""
    edges = np.unique(np.quantile(confidence, np.arange(1, BINS) / BINS))
    return np.searchsorted(edges, confidence, side="left")


def reliability(
    confidence: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], bins: Int[np.ndarray, " n"]
) -> list[dict[str, float | int]]:
    """For each nonempty bin: its index, count, mean confidence and share of correct predictions."""
    return [
        {
            "bin": int(b),
            "n": int((bins == b).sum()),
            "confidence": float(confidence[bins == b].mean()),
            "accuracy": float(right[bins == b].mean()),
        }
        for b in np.unique(bins)
    ]


def calibration_error(table: Sequence[dict[str, float | int]]) -> float:
    """Expected calibration error of a `reliability` table: mean |share correct - confidence|."""
    n = sum(row["n"] for row in table)
    return sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in table) / n


def fit_temperature(probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    """The temperature that minimizes the negative log-likelihood (Guo et al. 2017, section 4.2).

    Log-probabilities are used as logits: they differ by a constant per image, which softmax ignores.
    """
    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        of_label = scale(probabilities, np.exp(log_t))[rows, labels]
        return float(-np.log(np.maximum(of_label, SMALLEST)).mean())

    fit = optimize.minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(fit.x))


def scale(probabilities: Float[np.ndarray, "n c"], temperature: float) -> Float[np.ndarray, "n c"]:
    """Probabilities after dividing the logits by the temperature."""
    logits = np.log(np.maximum(probabilities, SMALLEST)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def auroc(confidence: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> float:
    """The probability that a correct prediction has higher confidence than a wrong one; ties count half.

    NaN if all predictions are correct, or all are wrong.
    """
    good, bad = int(right.sum()), int((~right).sum())
    if not good or not bad:
        return float("nan")
    ranks = stats.rankdata(confidence)
    return float((ranks[right].sum() - good * (good + 1) / 2) / (good * bad))


def risk_coverage(confidence: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Share of errors among the i most confident predictions, i = 1 ... n; its mean is the AURC (Geifman 2019).

    For equal confidences, it is the mean over all orders.
    """
    order = np.argsort(-confidence, kind="stable")
    _, block = np.unique(-confidence[order], return_inverse=True)
    wrong = (~right[order]).astype(np.float64)
    wrong = (np.bincount(block, wrong) / np.bincount(block))[block]
    return np.cumsum(wrong) / np.arange(1, len(wrong) + 1)


BOX = ("n", "min", "whisker_low", "q1", "median", "q3", "whisker_high", "max", "mean")


def box(values: Float[np.ndarray, " n"]) -> dict[str, float | int]:
    """Quartiles (linear interpolation), and whiskers at the last value within 1.5 x the IQR."""
    q1, median, q3 = np.quantile(values, [0.25, 0.5, 0.75])
    reach = 1.5 * (q3 - q1)
    low, high = values[values >= q1 - reach].min(), values[values <= q3 + reach].max()
    return {
        "n": len(values),
        "min": float(values.min()),
        "whisker_low": float(min(low, q1)),
        "q1": float(q1),
        "median": float(median),
        "q3": float(q3),
        "whisker_high": float(max(high, q3)),
        "max": float(values.max()),
        "mean": float(values.mean()),
    }


def gray(error: float) -> float:
    """The root of a mean squared error of values in 0..1, in gray levels (0 to 255)."""
    return 255 * error**0.5
