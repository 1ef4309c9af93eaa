"""Classification scores from labels and predictions, in NumPy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int


def confusion(
    labels: Int[np.ndarray, " n"], predictions: Int[np.ndarray, " n"], n_classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Confusion matrix: counts with labels as rows and predictions as columns."""
    return np.bincount(labels * n_classes + predictions, minlength=n_classes**2).reshape(n_classes, n_classes)


def _ratio(over: np.ndarray, under: np.ndarray) -> Float[np.ndarray, " n"]:
    """over / under, or 0 where `under` is 0."""
    return np.divide(over, under, out=np.zeros(len(over)), where=under > 0)


def classification(
    labels: Int[np.ndarray, " n"], predictions: Int[np.ndarray, " n"], classes: Sequence[str]
) -> dict[str, Any]:
    """Accuracy, balanced accuracy, macro and per-class precision, recall and F1, and counts.

    Macro values are means over the classes that occur in `labels`. A class that is never predicted has precision 0.
    `majority_rate` is the accuracy of always predicting the most common class. `collapsed` is true if all predictions
    are the same class.
    """
    table = confusion(labels, predictions, len(classes))
    support, predicted, hits = table.sum(1), table.sum(0), np.diag(table)
    precision, recall = _ratio(hits, predicted), _ratio(hits, support)
    f1 = _ratio(2 * hits, support + predicted)
    present = support > 0
    return {
        "n": len(labels),
        "accuracy": float(hits.sum() / max(1, len(labels))),
        "balanced_accuracy": float(recall[present].mean()),
        "precision": float(precision[present].mean()),
        "recall": float(recall[present].mean()),
        "f1": float(f1[present].mean()),
        "majority_rate": float(support.max() / max(1, len(labels))),
        "collapsed": bool((predicted > 0).sum() == 1),
        "per_class": {
            name: {
                "n": int(support[i]),
                "predicted": int(predicted[i]),
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
            }
            for i, name in enumerate(classes)
        },
        "confusion": table.tolist(),
    }
