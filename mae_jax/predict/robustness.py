"""Predictions of finished classifiers for changed images of their test sets, for `report.robustness`."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mae_jax.config.run_fields import RunConfig
from mae_jax.data import duplicates, loaders, splits
from mae_jax.data.sources import Source
from mae_jax.data.transforms import CenterResize, Decode
from mae_jax.evaluation.perturbations import Perturbation
from mae_jax.predict import loading
from mae_jax.predict.model import Model
from mae_jax.rundir import contents, predictions, saved_runs
from mae_jax.runtime.disk import exists
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.progress import Progress
from mae_jax.runtime.text import count

MAIN = ""  # the name of a run's own test set, among those of its external test sets


@dataclass(frozen=True)
class _Missing:
    """What is to be predicted: files of one run for one of its test sets, each with a change; None: unchanged."""

    run: Path
    test_set: str
    source: Source
    files: list[tuple[Path, Perturbation | None, float]]


def place_of(run: Path, kind: str, level: float, test_set: str = MAIN) -> Path:
    """The predictions of a run for images of a test set changed by `kind` at this level."""
    return _folder(run, test_set) / f"{kind}_{level:g}" / contents.PREDICTIONS


def unchanged_place(run: Path, test_set: str = MAIN) -> Path:
    """The predictions of a run for the unchanged images of a test set, which may be none of those that it was given."""
    if test_set == MAIN:
        return run / contents.PREDICTIONS
    tested = run / contents.EXTERNAL / test_set / contents.PREDICTIONS
    return tested if exists(tested) else _folder(run, test_set) / "unchanged" / contents.PREDICTIONS


def _folder(run: Path, test_set: str) -> Path:
    folder = run / contents.ROBUSTNESS
    return folder / contents.EXTERNAL / test_set if test_set else folder


def with_external(config: RunConfig, external: str) -> RunConfig:
    """The config of a run with the test sets of `external`, as in `data.external`, after its own."""
    joined = ",".join(part for part in (config.data.external, external) if part)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, external=joined))


def write(
    runs: Sequence[Path],
    chosen: Sequence[Perturbation],
    progress: Progress,
    cache: splits.DataCache | None = None,
    external: str = "",
) -> list[list[str]]:
    """Writes the predictions of each run for its test sets under every change. Finished files are kept.

    `external` names more test sets, as `data.external` does; each run also predicts their unchanged images. Returns the
    names of each run's external test sets. Raises UserError for a run whose model or test images cannot be read, and
    for a test set with other images than before.
    """
    cache = cache or splits.DataCache()
    all_changes = [(p, level) for p in chosen for level in p.levels]
    missing: list[_Missing] = []
    names: list[list[str]] = []
    warned: set[str] = set()
    for run in runs:
        config = with_external(saved_runs.config_of(run, "RUN_DIR"), external)
        data = splits.labeled(config.data, cache=cache, search_leaks=bool(external))
        tests = {MAIN: data.test, **data.external}
        names.append(list(data.external))
        leaks = {name: duplicates.in_words(leak, "training") for name, leak in data.leaks.items()}
        for line in (f"warning: {name} has {text}" for name, text in leaks.items() if text and name in tests):
            if line not in warned:
                progress.say(line)
            warned.add(line)
        for name, source in tests.items():
            _refuse_other_images(run, name, source, config)
            files = [(place_of(run, p.name, level, name), p, level) for p, level in all_changes]
            wanted = [(unchanged_place(run, name), None, 0.0), *files]
            wanted = [each for each in wanted if not exists(each[0])]
            if wanted:
                missing.append(_Missing(run, name, source, wanted))
    _predict(missing, progress)
    return names


def _predict(missing: Sequence[_Missing], progress: Progress) -> None:
    """Runs of one test set follow each other, so that its images are decoded once."""
    total, done = sum(len(each.source) * len(each.files) for each in missing), 0
    report = progress.counting("changed images")
    resized: dict[tuple[str, int], np.ndarray] = {}  # the images of one test set at the input size
    models: dict[Path, Model] = {}
    order = list(dict.fromkeys(each.test_set for each in missing))
    for number, each in enumerate(sorted(missing, key=lambda each: order.index(each.test_set)), 1):
        source, about = each.source, f" of {each.test_set}" if each.test_set else ""
        progress.say(
            f"[{number}/{len(missing)}] {each.run.name}: {count(len(source), 'test image')}{about}, "
            f"{count(len(each.files), 'change')}"
        )
        if each.run not in models:
            models = {each.run: loading.load(each.run, "RUN_DIR")}
        model = models[each.run]
        key = (source.fingerprint, model.spec.shape.image_size)
        if key not in resized:
            resized = {key: loaders.eval_images(source, None, [Decode(), CenterResize(key[1])], model.threads)}
        labels = np.array([model.classes.index(source.classes[label]) for label in source.labels])
        for path, perturbation, level in each.files:
            images = perturbation.change(resized[key], level) if perturbation else resized[key]
            result = model.predict(images)
            path.parent.mkdir(parents=True, exist_ok=True)
            predictions.write_predictions(
                path, source.names, source.groups, labels, result.probabilities, model.classes
            )
            done += len(source)
            report(done, total)


def _refuse_other_images(run: Path, test_set: str, source: Source, config: RunConfig) -> None:
    """Raises UserError if a test set does not hold the images that the run predicted before."""
    path = unchanged_place(run, test_set)
    if test_set and not exists(path):
        return
    tested, _ = predictions.read_predictions(path, source.classes)
    if sorted(tested.images) == sorted(map(predictions.clean, source.names)):
        return
    had, has = count(len(tested.images), "test image"), count(len(source), "image")
    if test_set:
        raise UserError(
            f"{run}: the {had} of the external test set {test_set} in {path} are not the {has} that it holds now; "
            f"restore them, or give the new images another name"
        )
    raise UserError(
        f"{run}: its {had} are not the {has} that data.dir={config.data.dir or config.data.source} holds now; "
        f"restore them"
    )
