"""The tasks finetune and linear_probe: data, objective, evaluation and results of a classifier."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from mae_jax.config import naming
from mae_jax.config.fields import RunConfig
from mae_jax.config.schedule import Schedule, resolve
from mae_jax.data import duplicates, findings, labeled_sets, splits, subsets
from mae_jax.data.sources import Source
from mae_jax.evaluation import classification_scores, per_image, thumbnails
from mae_jax.models import Params
from mae_jax.rundir import contents, predictions
from mae_jax.runtime.errors import UserError
from mae_jax.step.from_config import spec_of
from mae_jax.step.objectives.classification import classifies
from mae_jax.step.state import TrainState, parts_of, with_running
from mae_jax.train import cross_validation, labeling, stains
from mae_jax.train.task import Task, predictor
from mae_jax.weights import initial_weights
from mae_jax.weights import seen as weights_seen


def resolve_finetune(config: RunConfig, data: splits.Labeled, devices: int) -> Schedule:
    """Derives the steps from the labels used, or from `train.match_fraction` or `match_count`. Raises UserError.

    The model without a fold of a cross-validation makes as many updates as the one that trains on all folds.
    """
    if config.train.select != "last" and not len(data.val_idx) and not data.folds:
        raise UserError(
            f"train.select={config.train.select} needs validation images, but no class has an image to spare: add "
            f"images, or set it to last"
        )
    share, n = config.train.match_fraction, config.train.match_count
    matched = splits.n_training(config.data, data, share, n) if share or n or data.folds else 0
    return resolve(config, len(data.train_idx), devices, matched)


def finetune(
    config: RunConfig,
    mesh: Mesh,
    on_progress: labeled_sets.OnProgress | None,
    cache: splits.DataCache | None,
    fold: int | None = None,
) -> Task:
    """Builds the task finetune or linear_probe, from random or pre-trained weights. Raises UserError.

    With `data.val_folds`, this is the model that all images train, whose epoch the models without one fold choose. With
    a `fold`, counted from 0, it is one of these.
    """
    first = initial_weights.first_weights(config, cache)
    data = splits.labeled(config.data, on_progress, cache, select=labeling.selector(config, mesh, cache), fold=fold)
    classes = data.train.classes
    resolved = resolve_finetune(config, data, mesh.size)
    changes = stains.augmentation(config, (data.train,), (data.train_idx,))
    spec = spec_of(config, resolved, mesh, len(classes), changes)
    if config.train.balance == "loss":
        weights = subsets.inverse_frequency(data.subset["actual"].values())
        spec = dataclasses.replace(spec, objective=dataclasses.replace(classifies(spec), class_weights=weights))
    predict = predictor(config, spec)

    validating = data.train_idx if data.folds and fold is None else data.val_idx
    read_folds = functools.cache(lambda workdir: cross_validation.pooled(workdir, data.train, validating, resolved))

    def evaluators(params: Params, step: int, workdir: Path) -> Iterator[tuple[str, float]]:
        if len(validating):
            held = len(data.val_idx) > 0
            values = predict(params, data.train, data.val_idx) if held else read_folds(workdir)[step]
            if fold is not None and jax.process_index() == 0:
                cross_validation.keep(workdir, step, values)
            labels = data.train.labels[validating]
            yield from ((f"val/{name}", value) for name, value in per_image.classifier(values, labels))

    def finish(params: Params, step: int, workdir: Path) -> dict[str, Any]:
        if fold is not None:
            if jax.process_index() == 0:
                cross_validation.finish(workdir, data.train, data.val_idx, resolved)
            return {"n_train": len(data.train_idx), "n_validation": len(data.val_idx)}
        pooled = read_folds(workdir)[step]["probabilities"] if data.folds else None
        return write_predictions_and_score(
            data, lambda source, i: predict(params, source, i)["probabilities"], workdir, pooled
        )

    def score(params: Params) -> dict[str, Any]:
        predicted = predict(params, data.test, np.arange(len(data.test)))["probabilities"].argmax(1)
        return classification_scores.classification(data.test.labels, predicted, classes)

    def initialize(state: TrainState) -> TrainState:
        optimizer, running = parts_of(spec, state.opt_state)
        running = spec.objective.timed(running, resolved.eval_every, resolved.warmup_steps)
        return dataclasses.replace(state, params=first(spec, state.params), opt_state=with_running(optimizer, running))

    more = describe_data(config, data, cache)
    more["folds"] = data.folds if fold is None else 0
    return Task(config, spec, resolved, evaluate=evaluators, finish=finish, score=score, initialize=initialize, **more)


def write_predictions_and_score(
    data: splits.Labeled,
    predict: Callable[[Source, Int[np.ndarray, " _"]], Float[np.ndarray, "n classes"]],
    workdir: Path,
    cross_validated: Float[np.ndarray, "t classes"] | None = None,
) -> dict[str, Any]:
    """Writes the predictions for all test and validation images, and returns the test scores.

    `predict` returns the class probabilities of the images with the given indices. `cross_validated` are those of the
    training images, each by a model that was trained without it, in place of validation images. Raises UserError if
    they are not finite.
    """
    classes, leader = data.train.classes, jax.process_index() == 0

    def write(
        path: Path, source: Source, indices: Int[np.ndarray, " _"], known: np.ndarray | None = None
    ) -> np.ndarray:
        probabilities = predict(source, indices) if known is None else known
        if not np.isfinite(probabilities).all():
            raise UserError(
                f"{path} is not written: predictions are not finite (nan or inf), so training diverged; try a lower "
                f"optim.base_lr or more optim.warmup_epochs with another --workdir"
            )
        if leader:
            path.parent.mkdir(parents=True, exist_ok=True)
            names, groups = ([column[int(i)] for i in indices] for column in (source.names, source.groups))
            predictions.write_predictions(path, names, groups, source.labels[indices], probabilities, classes)
        return probabilities

    def scores(path: Path, source: Source, name: str) -> tuple[np.ndarray, dict[str, Any]]:
        """Probabilities and scores; `without_leaked` has those without images that training may know, if any."""
        probabilities = write(path, source, np.arange(len(source)))
        predicted = probabilities.argmax(1)
        results = classification_scores.classification(source.labels, predicted, classes)
        leaked = set(data.leaks.get(name, {}).get("images", ()))
        if leaked:
            unseen = np.asarray([image not in leaked for image in source.names])
            rest = dict.fromkeys(("accuracy", "f1"))
            if unseen.any():
                rest = classification_scores.classification(source.labels[unseen], predicted[unseen], classes)
            counts = {"leaked": len(leaked), "n": int(unseen.sum())}
            results["without_leaked"] = counts | {key: rest[key] for key in ("accuracy", "f1")}
        return probabilities, results

    test, results = scores(workdir / contents.PREDICTIONS, data.test, data.sets.test_name)
    if leader:
        thumbnails.write_mistakes(workdir / contents.MISTAKES, data.test, test)
        thumbnails.write_examples(workdir / contents.EXAMPLES, data.test)
    validating = data.val_idx if cross_validated is None else data.train_idx
    if len(validating):
        write(workdir / contents.VALIDATION, data.train, validating, cross_validated)
    folder = workdir / contents.EXTERNAL
    external = {name: scores(folder / name / contents.PREDICTIONS, s, name)[1] for name, s in data.external.items()}
    counts = {"n_train": len(data.train_idx), "n_test": len(data.test), "n_validation": len(validating)}
    return counts | results | {"external": external}


def describe_data(config: RunConfig, data: splits.Labeled, cache: splits.DataCache | None) -> dict[str, Any]:
    """The arguments of a classifier's `Task` that describe its images, including what the run prints at its start."""
    counts = data.subset["actual"]
    validation = f"{len(data.val_idx)} for validation"
    if data.folds and not len(data.val_idx):
        validation = f"{data.folds}-fold cross-validation on these chooses the epoch"
    about: dict[str, Any] = {
        "classes": ", ".join(f"{name} {n}" for name, n in counts.items()),
        "images": f"{len(data.train_idx)} for training ({100 * data.subset['fraction']:.4g} % of the labels), "
        f"{validation}, {len(data.test)} for test",
    }
    if data.external:
        about["external test sets"] = ", ".join(f"{name} {len(source)}" for name, source in data.external.items())
    about |= data.sets.about | {"groups": data.groups["text"]}
    tests = {data.sets.test_name: data.test, **data.external}
    before = {}
    if config.init == "mae":
        before = splits.seen_before(config.data, tests, initial_weights.earlier_data(config), cache)
    for who, leaks in (("training", data.leaks), ("pre-training", before)):
        shared = {name: duplicates.in_words(leak, who) for name, leak in leaks.items()}
        if any(shared.values()):
            listed = "; ".join(f"{name} has {text}" for name, text in shared.items() if text)
            about[f"warning: test images that may be known from {who}"] = (
                f"{listed}; see {contents.RUN} and mae-jax check"
            )
        if line := duplicates.unsearched(leaks):
            about[f"shifted and cropped copies of {who} images"] = line
    seen = weights_seen.stated(config)
    own_names = naming.source_names(config.data)
    names = {name: own_names if source is data.test else [name] for name, source in tests.items()}
    seen_tests = weights_seen.among(seen, names)
    for name, datasets in seen_tests.items():
        about[f"warning: the encoder may have been trained on images of {name}"] = f"its data are {', '.join(datasets)}"
    sources = {data.sets.train_name: data.train, **tests}
    if data.warnings:
        about["warning"] = list(data.warnings)
    about |= findings.about_files(sources, config.model.image_size if config.has_network else 0, labeled=True)
    return {
        "sources": (data.train,),
        "indices": (data.train_idx,),
        "about": about,
        "classes": data.train.classes,
        "subset": data.subset,
        "leaks": data.leaks,
        "seen_before": before,
        "tests": tests,
        "facts": {
            "test_split": data.sets.test_name,
            "groups": data.groups,
            "repeated": data.repeated,
            "data_warnings": list(data.warnings),
            "fraction": data.subset["fraction"],
            "label_count": config.data.label_count,
            "seen": list(seen),
            "seen_tests": seen_tests,
        },
    }
