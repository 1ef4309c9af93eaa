"""External test sets: each run's `external/<name>/predictions.csv`, reported next to the main test set."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mae_jax.report import analysis, cautions, tables
from mae_jax.report.analysis import Study
from mae_jax.report.runs import Run, check_same_images, distinct
from mae_jax.rundir.predictions import clean, read_predictions
from mae_jax.runtime.disk import entries, is_file
from mae_jax.runtime.places import shareable
from mae_jax.runtime.text import count


@dataclasses.dataclass(frozen=True)
class External:
    """One external test set: the runs that were tested on it, and the rows of its tables."""

    name: str
    study: Study
    rows: list[dict]
    paired: list[dict]
    classes: list[str]  # that occur in it
    slug: str  # the name, for file names


def read(runs: Sequence[Run], probes: Sequence[Run] = ()) -> tuple[list[External], list[str]]:
    """The external test sets of these runs, sorted by name, and lines about what is left out.

    `probes`: linear probes on random weights, the baseline of each table. Raises UserError for a predictions.csv that
    is not valid, or if two runs were tested on different images of one set.
    """
    files: dict[str, list[tuple[Run, Path]]] = {}
    for run in runs:
        for file in (folder / "predictions.csv" for folder in entries(run.path / "external")):
            if is_file(file):
                files.setdefault(file.parent.name, []).append((run, file))
    tests, notes = [], []
    slugs = distinct("".join(c if c.isalnum() or c in "+-_" else "_" for c in clean(name)) for name in sorted(files))
    for slug, (name, run_files) in zip(slugs, sorted(files.items()), strict=True):
        tested = []
        lacks = []
        for run, file in run_files:
            one, without = _tested(run, file)
            tested.append(one)
            lacks += [f"{clean(shareable(run.path))}: {clean(name)}: {line}" for line in without]
            check_same_images(tested[-1], tested[0], file)
        if len(tested) < len(runs):
            untested = len(runs) - len(tested)
            verb = "was" if untested == 1 else "were"
            notes.append(f"{clean(name)}: {untested} of {count(len(runs), 'run')} {verb} not tested on it")
        notes += cautions.merge(lacks)
        files_of_probes = [(probe, probe.path / "external" / name / "predictions.csv") for probe in probes]
        study = analysis.analyze(tested, [_tested(probe, file)[0] for probe, file in files_of_probes if is_file(file)])
        paired, unpaired = tables.paired(study)
        notes += [f"{clean(name)}: {line}" for line in unpaired]
        labels = np.unique(tested[0].test.labels).tolist()
        classes = [tested[0].classes[i] for i in labels]
        tests.append(External(clean(name), study, tables.rows(study), paired, classes, slug))
    return tests, notes


def _tested(run: Run, file: Path) -> tuple[Run, list[str]]:
    """The run with the predictions for an external test set, and lines about missing columns."""
    test, notes = read_predictions(file, run.raw_classes)
    return dataclasses.replace(run, test=test, log=()), notes
