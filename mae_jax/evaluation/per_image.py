"""Evaluation over a data set: values per image, independent of the batch size, and their means."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from mae_jax.data import loaders
from mae_jax.data.sources import Source
from mae_jax.data.transforms import CenterResize, Decode
from mae_jax.evaluation import classification_scores
from mae_jax.models import Params
from mae_jax.runtime import processes
from mae_jax.step import sharding
from mae_jax.step.eval_step import eval_step
from mae_jax.step.spec import StepSpec


def per_image(
    spec: StepSpec,
    params: Params,
    source: Source,
    indices: Int[np.ndarray, " n"] | None,
    *,
    batch_size: int,
    threads: int,
    seed: int,
    step: Callable = eval_step,
) -> dict[str, Float[np.ndarray, "n ..."]]:
    """The values `step` computes for each image, in the order of `indices` (None: all images). See `eval_step`."""
    devices = spec.mesh.size
    rows = -(-batch_size // devices) * devices
    transforms = [Decode(), CenterResize(spec.shape.image_size)]
    batches = loaders.eval_batches(
        source, indices, transforms, batch_size=rows, rows=processes.local_rows(rows), threads=threads
    )
    parts: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        values = step(spec, params, sharding.put_batch(batch, spec.mesh), np.int32(seed))
        for name, value in values.items():
            parts.setdefault(name, []).append(np.asarray(value))
    n = len(source) if indices is None else len(indices)
    # Only the end of the last batch is padding.
    return {name: np.concatenate(values)[:n] for name, values in parts.items()}


def classifier(values: dict[str, np.ndarray], labels: Int[np.ndarray, " n"]) -> Iterator[tuple[str, float]]:
    """Mean loss (nats) and accuracy of a classifier, and macro F1 over the classes in `labels`, as (name, value)."""
    predicted, classes = values["probabilities"].argmax(1), [str(i) for i in range(values["probabilities"].shape[1])]
    yield "loss", float(values["loss"].mean(dtype=np.float64))
    yield "accuracy", float((predicted == labels).mean())
    yield "f1", classification_scores.classification(labels, predicted, classes)["f1"]


def means(values: dict[str, np.ndarray], names: Sequence[str]) -> Iterator[tuple[str, float]]:
    """The mean over all images of each value in `names`, as (name, mean)."""
    for name in names:
        yield name, float(values[name].mean(dtype=np.float64))
