"""The tasks finetune and linear_probe: data, objective, evaluation and results of a classifier."""

import dataclasses
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
from mae_jax.data import duplicates, findings, labelled_sets, splits, subsets
from mae_jax.data.sources import Source
from mae_jax.evaluation import classification_scores, per_image, thumbnails
from mae_jax.models import Params
from mae_jax.rundir import contents, predictions
from mae_jax.runtime.errors import UserError
from mae_jax.step.from_config import spec_of
from mae_jax.step.objectives.classification import classifies
from mae_jax.step.state import TrainState, parts_of, with_running
from mae_jax.train import labeling, stains
from mae_jax.train.task import Task, predictor
from mae_jax.weights import initial_weights
from mae_jax.weights import seen as weights_seen


def resolve_finetune(config: RunConfig, data: splits.Labelled, devices: int) -> Schedule:
    """Derives the steps from the labels used, or from `train.match_fraction` or `match_count`. Raises UserError."""
    if config.train.select != "last" and not len(data.val_idx):
        raise UserError(
            f"train.select={config.train.select} needs validation images, but no class has an image to spare: add "
            f"images, or set it to last"
        )
    share, n = config.train.match_fraction, config.train.match_count
    matched = splits.n_training(config.data, data, share, n) if share or n else 0
    return resolve(config, len(data.train_idx), devices, matched)


def finetune(
    config: RunConfig, mesh: Mesh, on_progress: labelled_sets.OnProgress | None, cache: splits.DataCache | None
) -> Task:
    """Builds the task finetune or linear_probe, from random or pre-trained weights. Raises UserError."""
    first = initial_weights.first_weights(config)
    data = splits.labelled(config.data, on_progress, cache, select=labeling.selector(config, mesh, cache))
    classes = data.train.classes
    resolved = resolve_finetune(config, data, mesh.size)
    changes = stains.augmentation(config, (data.train,), (data.train_idx,))
    spec = spec_of(config, resolved, mesh, len(classes), changes)
    if config.train.balance == "loss":
        weights = subsets.inverse_frequency(data.subset["actual"].values())
        spec = dataclasses.replace(spec, objective=dataclasses.replace(classifies(spec), class_weights=weights))
    predict = predictor(config, spec)

    def evaluators(params: Params) -> Iterator[tuple[str, float]]:
        if len(data.val_idx):
            values = predict(params, data.train, data.val_idx)
            labels = data.train.labels[data.val_idx]
            yield from ((f"val/{name}", value) for name, value in per_image.classifier(values, labels))

    def finish(params: Params, workdir: Path) -> dict[str, Any]:
        return write_predictions_and_score(data, lambda source, i: predict(params, source, i)["probabilities"], workdir)

    def score(params: Params) -> dict[str, Any]:
        predicted = predict(params, data.test, np.arange(len(data.test)))["probabilities"].argmax(1)
        return classification_scores.classification(data.test.labels, predicted, classes)

    def initialise(state: TrainState) -> TrainState:
        optimizer, running = parts_of(spec, state.opt_state)
        running = spec.objective.timed(running, resolved.eval_every, resolved.warmup_steps)
        return dataclasses.replace(state, params=first(spec, state.params), opt_state=with_running(optimizer, running))

    more = describe_data(config, data, cache)
    return Task(config, spec, resolved, evaluate=evaluators, finish=finish, score=score, initialise=initialise, **more)


def write_predictions_and_score(
    data: splits.Labelled,
    predict: Callable[[Source, Int[np.ndarray, " _"]], Float[np.ndarray, "n classes"]],
    workdir: Path,
) -> dict[str, Any]:
    """Writes the predictions for all test and validation images, and returns the test scores.

    `predict` returns the class probabilities of the images with the given indices. Raises UserError if they are not
    finite.
    """
    classes, leader = data.train.classes, jax.process_index() == 0

    def write(path: Path, source: Source, indices: Int[np.ndarray, " _"]) -> np.ndarray:
        probabilities = predict(source, indices)
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
    if len(data.val_idx):
        write(workdir / contents.VALIDATION, data.train, data.val_idx)
    folder = workdir / contents.EXTERNAL
    external = {name: scores(folder / name / contents.PREDICTIONS, s, name)[1] for name, s in data.external.items()}
    counts = {"n_train": len(data.train_idx), "n_test": len(data.test), "n_validation": len(data.val_idx)}
    return counts | results | {"external": external}


def describe_data(config: RunConfig, data: splits.Labelled, cache: splits.DataCache | None) -> dict[str, Any]:
    """The arguments of a classifier's `Task` that describe its images, including what the run prints at its start."""
    counts = data.subset["actual"]
    about: dict[str, Any] = {
        "classes": ", ".join(f"{name} {n}" for name, n in counts.items()),
        "images": f"{len(data.train_idx)} for training ({100 * data.subset['fraction']:.4g} % of the labels), "
        f"{len(data.val_idx)} for validation, {len(data.test)} for test",
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
