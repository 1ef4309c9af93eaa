"""Classifiers on frozen features: multinomial logistic regression and nearest neighbors, in NumPy.

Hyperparameters are chosen by validation accuracy, then by lower validation loss, then by the order of the candidates.
The validation images are a separate set (`Apart`) or the folds of a cross-validation (`Folds`). A fitted classifier is
saved as an .npz file and read back without its training images.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special
from threadpoolctl import threadpool_limits

from mae_jax.runtime import files
from mae_jax.runtime.errors import UserError

EPSILON = 1e-6  # added to the variance of a feature, as in batch norm
SMALLEST = 1e-12  # lower bound of norms, and of probabilities before their logarithm is taken
TOLERANCE, ITERATIONS = 1e-6, 1000  # of L-BFGS: largest gradient entry at convergence, maximum number of iterations


@dataclasses.dataclass(frozen=True)
class Logistic:
    """A linear classifier on features standardized with the training images' mean and standard deviation."""

    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]
    kernel: Float[np.ndarray, "d classes"]
    bias: Float[np.ndarray, " classes"]

    def probabilities(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n classes"]:
        return special.softmax((x - self.mean) * self.scale @ self.kernel + self.bias, axis=1)

    def folded(self) -> tuple[Float[np.ndarray, "d classes"], Float[np.ndarray, " classes"]]:
        """Kernel and bias, in float64, of the same classifier on features that are not standardized."""
        kernel = self.kernel * self.scale[:, None]
        return kernel, self.bias - self.mean @ kernel


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The k training images with the highest cosine similarity s vote, each with weight exp(s / temperature).

    See Wu et al. 2018, section 3.4; used by Caron et al. 2021 (DINO).
    """

    train: Float[np.ndarray, "n d"]  # rows of unit length
    labels: Int[np.ndarray, " n"]
    n_classes: int
    k: int
    temperature: float

    def probabilities(self, x: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m classes"]:
        x, votes = unit(x), np.zeros((len(x), self.n_classes))
        for start in range(0, len(x), 1024):  # 1,024 rows at a time, to bound memory
            near = x[start : start + 1024] @ self.train.T
            # A stable sort breaks ties in favor of the first image.
            chosen = np.argsort(-near, axis=1, kind="stable")[:, : self.k]
            near = np.take_along_axis(near, chosen, axis=1)
            weights = np.exp((near - near[:, :1]) / self.temperature)
            rows = np.repeat(np.arange(start, start + len(near)), near.shape[1])
            np.add.at(votes, (rows, self.labels[chosen].ravel()), weights.ravel())
        return votes / votes.sum(1, keepdims=True)


def unit(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows scaled to unit length, in float64."""
    x = x.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), SMALLEST)


def logistic_regression(
    x: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    n_classes: int,
    l2: float,
    start: Float[np.ndarray, "e classes"] | None = None,
) -> tuple[Float[np.ndarray, "e classes"], bool]:
    """Minimizes mean cross-entropy (nats) + l2 / 2 * |kernel|^2 by L-BFGS (Liu and Nocedal 1989), from `start`.

    Returns the kernel with the bias as its last row (e = d + 1), and whether L-BFGS converged. The bias has no
    penalty.
    """
    n, d = x.shape
    x, true_class = x.astype(np.float64), (labels, np.arange(n))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = flat.reshape(d + 1, n_classes)
        logits = parameters[:d].T @ x.T + parameters[d][:, None]  # classes as rows, which is several times faster
        logits -= logits.max(0)  # avoids overflow and does not change the softmax
        loss = -logits[true_class]
        error = np.exp(logits, out=logits)
        total = error.sum(0)
        loss = (loss + np.log(total)).mean() + 0.5 * l2 * np.square(parameters[:d]).sum()
        error /= total
        error[true_class] -= 1
        error /= n
        return loss, np.concatenate([(error @ x).T + l2 * parameters[:d], error.sum(1)[None]]).ravel()

    first = np.zeros((d + 1) * n_classes) if start is None else start.ravel()
    options = {"maxiter": ITERATIONS, "maxcor": 20, "ftol": 1e-15, "gtol": TOLERANCE}
    # Narrow products run faster on one thread, and results do not depend on the number of cores.
    with threadpool_limits(1, "blas"):
        optimum = optimize.minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
    return optimum.x.reshape(d + 1, n_classes), bool(np.abs(objective(optimum.x)[1]).max() <= 10 * TOLERANCE)


@dataclasses.dataclass(frozen=True)
class Apart:
    """Validation images that are not training images. There may be none."""

    x: Float[np.ndarray, "v d"]
    labels: Int[np.ndarray, " v"]


@dataclasses.dataclass(frozen=True)
class Folds:
    """The fold of each training image, for cross-validation (see `data.subsets.folds`)."""

    fold: Int[np.ndarray, " n"]


Candidates = Sequence[tuple[Any, dict[str, Any]]]  # classifiers, each with its hyperparameters


def fit_logistic(
    x: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    n_classes: int,
    l2: Sequence[float],
    validation: Apart | Folds,
) -> tuple[Logistic, dict[str, Any]]:
    """Logistic regression with the best of the penalties `l2`, and a description of the choice (see `choose`).

    The strongest penalty is fitted first; each fit starts from the previous one.
    """

    def fit(x: Float[np.ndarray, "m d"], labels: Int[np.ndarray, " m"]) -> Candidates:
        mean, scale = x.mean(0, dtype=np.float64), 1 / np.sqrt(x.var(0, dtype=np.float64) + EPSILON)
        standardized, solution = (x - mean) * scale, None
        candidates = []
        for penalty in sorted(l2, reverse=True):
            solution, converged = logistic_regression(standardized, labels, n_classes, penalty, solution)
            classifier = Logistic(mean, scale, solution[:-1], solution[-1])
            candidates.append((classifier, {"l2": penalty, "converged": converged}))
        return candidates

    return choose(fit, x, labels, validation)


def fit_neighbours(
    x: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    n_classes: int,
    neighbours: Sequence[int],
    temperatures: Sequence[float],
    validation: Apart | Folds,
) -> tuple[Neighbours, dict[str, Any]]:
    """Nearest neighbors with the best k of `neighbours` and the best temperature, and the choice (see `choose`).

    k is at most the number of training images.
    """

    def fit(x: Float[np.ndarray, "m d"], labels: Int[np.ndarray, " m"]) -> Candidates:
        train, pairs = unit(x), itertools.product((min(k, len(x)) for k in neighbours), temperatures)
        return [(Neighbours(train, labels, n_classes, k, t), {"neighbours": k, "temperature": t}) for k, t in pairs]

    return choose(fit, x, labels, validation)


def choose(
    fit: Callable[[np.ndarray, np.ndarray], Candidates],
    x: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    validation: Apart | Folds,
) -> tuple[Any, dict[str, Any]]:
    """The best of the candidates that `fit` makes of training images, or the first one without validation images.

    With folds, every image is predicted by candidates that are fitted to the other folds; the best candidate is then
    fitted to all images. Returns the classifier and its hyperparameters, with its validation accuracy and loss (nats)
    if there are any.
    """
    candidates = fit(x, labels)
    if isinstance(validation, Apart):
        truth, predicted = validation.labels, (each.probabilities(validation.x) for each, _ in candidates)
    else:
        truth, predicted = labels, _out_of_fold(fit, x, labels, validation.fold)
    if not len(truth):
        return candidates[0]
    best, score = None, (-math.inf, -math.inf)
    for (classifier, about), p in zip(candidates, predicted, strict=True):
        loss = -np.log(np.maximum(p[np.arange(len(truth)), truth], SMALLEST)).mean()
        accuracy = float((p.argmax(1) == truth).mean())
        if best is None or (accuracy, -loss) > score:
            score = accuracy, -loss
            best = classifier, about | {"val_accuracy": accuracy, "val_loss": float(loss)}
    assert best is not None  # there is at least one candidate
    return best


def _out_of_fold(
    fit: Callable[[np.ndarray, np.ndarray], Candidates],
    x: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"],
) -> list[Float[np.ndarray, "n classes"]]:
    """For each candidate, the probabilities of every image by a classifier that was fitted to the other folds."""
    parts, order = [], []
    for number in np.unique(fold):
        held = fold == number
        order.append(np.flatnonzero(held))
        parts.append([each.probabilities(x[held]) for each, _ in fit(x[~held], labels[~held])])
    back = np.argsort(np.concatenate(order))
    return [np.concatenate(candidate)[back] for candidate in zip(*parts, strict=True)]


def save(path: Path, head: Logistic | Neighbours, encoder: str, features: Float[np.ndarray, "n d"]) -> None:
    """Writes `head` as an .npz file. `encoder` is the digest of the encoder's parameters (`models.params.digest`).

    `features` are those of the training images; they are saved only for nearest neighbors. Raises OSError.
    """
    if isinstance(head, Logistic):
        arrays = {f.name: getattr(head, f.name) for f in dataclasses.fields(head)}
    else:
        arrays = {"features": features, "labels": head.labels, "n_classes": head.n_classes}
        arrays |= {"k": head.k, "temperature": head.temperature}
    files.save_arrays(path, {name: np.asarray(value) for name, value in (arrays | {"encoder": encoder}).items()})


def load(path: Path, field: str, n_classes: int) -> tuple[Logistic | Neighbours, str]:
    """Reads what `save` wrote: a classifier with bit-identical predictions, and the digest of its encoder.

    Raises UserError that names `field` if the file is missing, damaged or for another number of classes.
    """
    try:
        saved = files.load_arrays(path)
        encoder = str(saved["encoder"])
        if "kernel" in saved:
            head: Logistic | Neighbours = Logistic(*(saved[f.name] for f in dataclasses.fields(Logistic)))
            fits = head.kernel.shape == (len(head.mean), n_classes) and head.bias.shape == (n_classes,)
            fits = fits and head.mean.shape == head.scale.shape
        else:
            train, labels = unit(saved["features"]), saved["labels"]
            k, temperature = int(saved["k"]), float(saved["temperature"])
            head = Neighbours(train, labels, int(saved["n_classes"]), k, temperature)
            fits = head.n_classes == n_classes and labels.shape == (len(train),) and 0 < k <= len(train)
            fits = fits and temperature > 0 and 0 <= labels.min() and labels.max() < n_classes
    except FileNotFoundError:
        raise UserError(
            f"{field}: {path} is missing; it was deleted, or fitted by a version that did not save the classifier. "
            f"Delete {path.parent / 'results.json'} and rerun the run's command to fit it again"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{field}: {path} cannot be read ({error}); restore it from a backup") from None
    if not fits:
        raise UserError(f"{field}: {path} does not hold a classifier of {n_classes} classes; restore it from a backup")
    return head, encoder
