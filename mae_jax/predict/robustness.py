"""Predictions of finished classifiers for changed test images, for `report.robustness`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mae_jax.data import loaders, splits
from mae_jax.data.sources import Source
from mae_jax.data.transforms import CenterResize, Decode
from mae_jax.evaluation.perturbations import Perturbation
from mae_jax.predict import loading
from mae_jax.rundir import contents, predictions, saved_runs
from mae_jax.runtime.disk import exists
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.progress import Progress
from mae_jax.runtime.text import count


def place_of(run: Path, kind: str, level: float) -> Path:
    """The predictions of a run for images changed by `kind` at this level."""
    return run / contents.ROBUSTNESS / f"{kind}_{level:g}" / contents.PREDICTIONS


def write(
    runs: Sequence[Path], chosen: Sequence[Perturbation], progress: Progress, cache: splits.DataCache | None = None
) -> None:
    """Writes the predictions of each run for its test images under every change. Finished files are kept.

    Raises UserError for a run whose model or test images cannot be read.
    """
    cache = cache or splits.DataCache()
    resized: dict[tuple[str, int], np.ndarray] = {}  # the test images at the input size
    all_changes = [(p, level) for p in chosen for level in p.levels]
    todo = {run: [(p, x) for p, x in all_changes if not exists(place_of(run, p.name, x))] for run in runs}
    todo = {run: changes for run, changes in todo.items() if changes}
    sources = {run: _test_images(run, cache) for run in todo}
    total, done = sum(len(sources[run]) * len(changes) for run, changes in todo.items()), 0
    report = progress.counting("changed images")
    for number, (run, changes) in enumerate(todo.items(), 1):
        source, model = sources[run], loading.load(run, "RUN_DIR")
        progress.say(f"[{number}/{len(todo)}] {run.name}: {count(len(source), 'test image')}, {len(changes)} changes")
        size = model.spec.shape.image_size
        key = (source.fingerprint, size)
        if key not in resized:
            resized.clear()
            resized[key] = loaders.eval_images(source, None, [Decode(), CenterResize(size)], model.threads)
        for perturbation, level in changes:
            images = perturbation.change(resized[key], level)
            result = model.predict(images)
            path = place_of(run, perturbation.name, level)
            path.parent.mkdir(parents=True, exist_ok=True)
            labels = np.array([model.classes.index(source.classes[label]) for label in source.labels])
            predictions.write_predictions(
                path, source.names, source.groups, labels, result.probabilities, model.classes
            )
            done += len(source)
            report(done, total)


def _test_images(run: Path, cache: splits.DataCache) -> Source:
    """The test images of a run, with labels in the order of its classes. Raises UserError if they are not the same."""
    config = saved_runs.config_of(run, "RUN_DIR")
    source = splits.labeled(config.data, cache=cache, search_leaks=False).test
    tested, _ = predictions.read_predictions(run / contents.PREDICTIONS, source.classes)
    if sorted(tested.images) != sorted(map(predictions.clean, source.names)):
        raise UserError(
            f"{run}: its {count(len(tested.images), 'test image')} are not the {count(len(source), 'image')} that "
            f"data.dir={config.data.dir or config.data.source} holds now; restore them"
        )
    return source
