"""Classifiers on frozen features: multinomial logistic regression and nearest neighbors, in NumPy.

Hyperparameters are chosen on the validation images: by accuracy, at equal accuracy by the lower loss, then in the
order of the candidates. A fitted classifier is saved as an .npz file and read back without its training images.
"""

import dataclasses
import math
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special
from threadpoolctl import threadpool_limits

from mae_jax.runtime import files
from mae_jax.runtime.errors import UserError

EPSILON = 1e-6  # added to the variance of a feature, as in batch norm
SMALLEST = 1e-12  # probabilities are at least this in a logarithm
TOLERANCE, ITERATIONS = 1e-6, 1000  # of L-BFGS: the gradient's largest entry at the end


@dataclasses.dataclass(frozen=True)
class Logistic:
    """A linear map of features that are standardized by the training images' mean and standard deviation."""

    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]
    kernel: Float[np.ndarray, "d classes"]
    bias: Float[np.ndarray, " classes"]

    def probabilities(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n classes"]:
        return special.softmax((x - self.mean) * self.scale @ self.kernel + self.bias, axis=1)


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The k training images of highest cosine similarity s vote, each with weight exp(s / temperature).

    Wu et al. 2018, section 3.4, as in Caron et al. 2021 (DINO).
    """

    train: Float[np.ndarray, "n d"]  # rows of length 1
    labels: Int[np.ndarray, " n"]
    n_classes: int
    k: int
    temperature: float

    def probabilities(self, x: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m classes"]:
        x, votes = unit(x), np.zeros((len(x), self.n_classes))
        for start in range(0, len(x), 1024):  # the similarities of so many rows are held at once
            near = x[start : start + 1024] @ self.train.T
            # Of equally similar images the first counts.
            chosen = np.argsort(-near, axis=1, kind="stable")[:, : self.k]
            near = np.take_along_axis(near, chosen, axis=1)
            weights = np.exp((near - near[:, :1]) / self.temperature)
            rows = np.repeat(np.arange(start, start + len(near)), near.shape[1])
            np.add.at(votes, (rows, self.labels[chosen].ravel()), weights.ravel())
        return votes / votes.sum(1, keepdims=True)


def unit(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows of length 1, in float64."""
    x = x.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), SMALLEST)


def logistic_regression(
    x: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    n_classes: int,
    l2: float,
    start: Float[np.ndarray, "e classes"] | None = None,
) -> tuple[Float[np.ndarray, "e classes"], bool]:
    """Minimises mean cross entropy (nats) + l2 / 2 * |kernel|^2 by L-BFGS (Liu and Nocedal 1989), from `start`.

    Returns kernel and bias, one above the other (e = d + 1), and whether the optimum was reached. The bias has no
    penalty.
    """
    n, d = x.shape
    x, own = x.astype(np.float64), (labels, np.arange(n))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        both = flat.reshape(d + 1, n_classes)
        logits = both[:d].T @ x.T + both[d][:, None]  # a row for each class: several times faster than a column
        logits -= logits.max(0)  # exp does not overflow, and the softmax is the same
        loss = -logits[own]
        error = np.exp(logits, out=logits)
        total = error.sum(0)
        loss = (loss + np.log(total)).mean() + 0.5 * l2 * np.square(both[:d]).sum()
        error /= total
        error[own] -= 1
        error /= n
        return loss, np.concatenate([(error @ x).T + l2 * both[:d], error.sum(1)[None]]).ravel()

    first = np.zeros((d + 1) * n_classes) if start is None else start.ravel()
    options = {"maxiter": ITERATIONS, "maxcor": 20, "ftol": 1e-15, "gtol": TOLERANCE}
    # One thread: products this narrow are faster without others to wait for, and bits do not depend on the cores.
    with threadpool_limits(1, "blas"):
        found = optimize.minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(d + 1, n_classes), bool(np.abs(objective(found.x)[1]).max() <= 10 * TOLERANCE)


def fit_logistic(
    x: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    n_classes: int,
    l2: Sequence[float],
    validation: tuple[Float[np.ndarray, "v d"], Int[np.ndarray, " v"]],
) -> tuple[Logistic, dict[str, Any]]:
    """Logistic regression with the best of the penalties `l2`, and the choice. The strongest is fitted first."""
    mean, scale = x.mean(0, dtype=np.float64), 1 / np.sqrt(x.var(0, dtype=np.float64) + EPSILON)
    standard, both = (x - mean) * scale, None
    made = []
    for penalty in sorted(l2, reverse=True):
        both, reached = logistic_regression(standard, labels, n_classes, penalty, both)
        made.append((Logistic(mean, scale, both[:-1], both[-1]), {"l2": penalty, "converged": reached}))
    return choose(made, *validation)


def fit_neighbours(
    x: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    n_classes: int,
    neighbours: Sequence[int],
    temperatures: Sequence[float],
    validation: tuple[Float[np.ndarray, "v d"], Int[np.ndarray, " v"]],
) -> tuple[Neighbours, dict[str, Any]]:
    """Nearest neighbours with the best of the numbers and temperatures, and what was chosen.

    No number is larger than there are training images.
    """
    train = unit(x)
    made = []
    for k in dict.fromkeys(min(k, len(x)) for k in neighbours):
        for temperature in temperatures:
            found = Neighbours(train, labels, n_classes, k, temperature)
            made.append((found, {"neighbours": k, "temperature": temperature}))
    return choose(made, *validation)


def choose(
    made: Iterable[tuple[Logistic | Neighbours, dict[str, Any]]],
    x: Float[np.ndarray, "v d"],
    labels: Int[np.ndarray, " v"],
) -> tuple[Any, dict[str, Any]]:
    """The best on validation images, the first where there are none; with what tells it from the others."""
    best, score = None, (-math.inf, -math.inf)
    for classifier, about in made:
        if not len(labels):
            return classifier, about
        p = classifier.probabilities(x)
        loss = -np.log(np.maximum(p[np.arange(len(labels)), labels], SMALLEST)).mean()
        accuracy = float((p.argmax(1) == labels).mean())
        if best is None or (accuracy, -loss) > score:
            score = accuracy, -loss
            best = classifier, about | {"val_accuracy": accuracy, "val_loss": float(loss)}
    return best


# What NumPy raises for a damaged file, or one that lacks an array.
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile)


def save(path: Path, head: Logistic | Neighbours, encoder: str, features: Float[np.ndarray, "n d"]) -> None:
    """Writes `head` as an .npz file. `encoder`: digest of the encoder's parameters, see `models.params.digest`.

    `features` are those of the training images, of which nearest neighbors keep every row. Raises OSError.
    """
    if isinstance(head, Logistic):
        arrays = {f.name: getattr(head, f.name) for f in dataclasses.fields(head)}
    else:
        arrays = {"features": features, "labels": head.labels, "n_classes": head.n_classes}
        arrays |= {"k": head.k, "temperature": head.temperature}
    files.save_arrays(path, {name: np.asarray(value) for name, value in (arrays | {"encoder": encoder}).items()})


def load(path: Path, field: str, n_classes: int) -> tuple[Logistic | Neighbours, str]:
    """What `save` wrote: the classifier and the digest of its encoder. It predicts the same to the bit.

    Raises UserError that names `field` where the file is missing, damaged, or not of `n_classes` classes.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as saved:
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
            f"{field}: {path} is missing: the probe was fitted by a version that did not save its classifier, or the "
            f"file is lost; delete {path.parent / 'results.json'} and rerun the run's command to fit it again"
        ) from None
    except _UNREADABLE as error:
        raise UserError(f"{field}: {path} cannot be read ({error}); restore it from a backup") from None
    if not fits:
        raise UserError(f"{field}: {path} does not hold a classifier of {n_classes} classes; restore it from a backup")
    return head, encoder
