"""Neighbors of test images by the features of frozen encoders, for `report.robustness_index`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mae_jax.data import sources, splits
from mae_jax.data.sources import Source
from mae_jax.evaluation.probes import unit
from mae_jax.predict import loading
from mae_jax.predict.images import Reader
from mae_jax.predict.model import Model
from mae_jax.predict.robustness import with_external
from mae_jax.report.robustness_index import KS, Neighborhood, NotKnown
from mae_jax.rundir import saved_runs
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.progress import Progress

SETS, GROUPS = "data sets", "groups"
CELL = 500  # maximum number of images of each class in each data set
MOST = 5000  # maximum number of images whose groups are compared
SEED = 0
ROWS = 512  # images whose similarities are in memory at a time


@dataclass(frozen=True)
class Images:
    """The images of one confounder. The fields are those of `Neighborhood`."""

    confounder: str
    values: tuple[str, ...]
    source: Source
    labels: Int[np.ndarray, " n"]
    center: Int[np.ndarray, " n"]
    apart: Int[np.ndarray, " n"]
    unit: Int[np.ndarray, " n"]


def measure(
    runs: Sequence[tuple[str, Path]], progress: Progress, cache: splits.DataCache | None = None, external: str = ""
) -> list[Neighborhood | NotKnown]:
    """Neighbors among images of several data sets, and among images of several groups, by each frozen encoder.

    `runs` has the name of each run's initial weights, and its directory. The data sets are the test set and the
    external test sets of the first run, with those that `external` names, as `data.external` does. The encoders are
    those that the runs started from, each once; names with the same encoders are joined. Raises UserError for images
    that cannot be read.
    """
    config = with_external(saved_runs.config_of(runs[0][1], "RUN_DIR"), external)
    data = splits.labeled(config.data, cache=cache, search_leaks=False)
    parts = [among_sets({data.sets.test_name: data.test, **data.external}), among_groups(data.test)]
    if all(isinstance(part, NotKnown) for part in parts):
        return [part for part in parts if isinstance(part, NotKnown)]
    encoders = _encoders(runs, progress)
    result: list[Neighborhood | NotKnown] = []
    for part in parts:
        if isinstance(part, NotKnown):
            result.append(part)
        elif not encoders:
            result.append(NotKnown(part.confounder, "no run has its encoder"))
        else:
            progress.say(f"robustness index: {len(part.source):,} images of several {part.confounder}")
            near = {
                name: [nearest(_embedded(model, part.source), part.apart) for model in models]
                for name, models in encoders.items()
            }
            result.append(
                Neighborhood(part.confounder, part.values, part.labels, part.center, part.apart, part.unit, near)
            )
    return result


def among_sets(tests: Mapping[str, Source]) -> Images | NotKnown:
    """Equally many images of each class of each data set, drawn with a fixed seed; classes that all data sets have.

    Images of one group, such as a slide, are not neighbors of each other.
    """
    if len(tests) < 2:
        return NotKnown(SETS, "there is one test set; name others with --external")
    classes = next(iter(tests.values())).classes
    names = [[source.classes[label] for label in source.labels] for source in tests.values()]
    shared = [c for c in classes if all(c in each for each in names)]
    if len(shared) < 2:
        return NotKnown(SETS, "fewer than two classes are in all test sets")
    n, rng = min(CELL, *(each.count(c) for each in names for c in shared)), np.random.default_rng(SEED)
    taken, labels, center, groups = [], [], [], []
    for number, (source, of_class) in enumerate(zip(tests.values(), names, strict=True)):
        indices = np.sort(
            np.concatenate([rng.permutation(np.flatnonzero([name == c for name in of_class]))[:n] for c in shared])
        )
        taken.append(sources.take(source, indices))
        labels += [shared.index(of_class[i]) for i in indices]
        center += [number] * len(indices)
        groups += [f"{number}/{source.groups[i]}" if source.groups[i] else "" for i in indices]
    apart = _numbers(groups)
    return Images(SETS, tuple(tests), sources.join(taken), np.array(labels), np.array(center), apart, apart)


def among_groups(source: Source) -> Images | NotKnown:
    """Images of groups with several classes and of classes in several groups, at most MOST, drawn with a seed."""
    groups = np.array(source.groups)
    if not any(source.groups):
        return NotKnown(GROUPS, "the test images have no groups; data.group_pattern or a column names them")
    kept = groups != ""
    for _ in range(len(source.classes) + 1):  # leaving out a class may leave a group with one class
        for first, second in ((groups, source.labels), (source.labels, groups)):
            for value in np.unique(first[kept]):
                mine = kept & (first == value)
                if len(np.unique(second[mine])) < 2:
                    kept &= ~mine
    if not kept.any():
        return NotKnown(GROUPS, "no two groups of test images have the same two classes")
    indices = np.sort(np.random.default_rng(SEED).permutation(np.flatnonzero(kept))[:MOST])
    values, center = np.unique(groups[indices], return_inverse=True)
    return Images(
        GROUPS, tuple(values.tolist()), sources.take(source, indices), source.labels[indices], center,
        np.arange(len(indices)), center,
    )  # fmt: skip


def nearest(features: Float[np.ndarray, "n d"], apart: Int[np.ndarray, " n"]) -> Int[np.ndarray, "n m"]:
    """For each image the others with the highest cosine similarity, at most max(KS), nearest first.

    Images with the same number in `apart` are not neighbors. -1 stands where there are no more. Equally near ones are
    in the order of the images.
    """
    x, m = unit(features), min(max(KS), len(features) - 1)
    result = np.full((len(x), m), -1)
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        similarity = x[rows] @ x.T
        similarity[apart[rows, None] == apart] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :m]
        there = np.isfinite(np.take_along_axis(similarity, order, axis=1))
        result[rows] = np.where(there, order, -1)
    return result


def _numbers(groups: Sequence[str]) -> Int[np.ndarray, " n"]:
    """The number of each image's group. An image without a known group is its own."""
    return np.unique([group or f"\0{i}" for i, group in enumerate(groups)], return_inverse=True)[1]


def _encoders(runs: Sequence[tuple[str, Path]], progress: Progress) -> dict[str, list[Model]]:
    """The different encoders that the runs started from, by name. Runs without their encoder are named and skipped."""
    models: dict[str, Model] = {}
    keys: dict[str, list[str]] = {}
    seen: dict[tuple, str] = {}  # the key of the encoder, by what decides about it; "": missing
    for name, run in runs:
        c = saved_runs.config_of(run, "RUN_DIR")
        start = (c.init, c.init_from, c.init_from or c.seed, repr(c.model), c.data.mean, c.data.std)
        if start not in seen:
            seen[start] = ""
            try:
                model, key = loading.frozen(run)
            except UserError as error:
                progress.say(f"robustness index without {name}: {error}")
                continue
            seen[start] = key
            models.setdefault(key, model)
        if seen[start] and seen[start] not in keys.setdefault(name, []):
            keys[name].append(seen[start])
    names: dict[tuple[str, ...], list[str]] = {}
    for name, several in keys.items():
        names.setdefault(tuple(sorted(several)), []).append(name)
    return {", ".join(joined): [models[key] for key in several] for several, joined in names.items() if several}


def _embedded(model: Model, source: Source) -> Float[np.ndarray, "n d"]:
    batches = model.batches(Reader(source), classify=False, embed=True)
    return np.concatenate([batch.embeddings for batch in batches if batch.embeddings is not None])
