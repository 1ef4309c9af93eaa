"""The mask sweep: pre-training over mask ratios x visible weights, then classifiers on few labels, and the report.

Each pair has one pre-training, measured on the same held-out images with the same masks. From each autoencoder, and
from scratch, a classifier is trained for each seed. Each run has its own directory, so the same command resumes the
sweep after any interruption.
"""

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mae_jax.config.fields import SweepConfig, changed
from mae_jax.config.naming import percent_slug
from mae_jax.data import splits
from mae_jax.evaluation import reconstruction_sheets
from mae_jax.evaluation.reconstruction import at_ratio
from mae_jax.rundir import contents, lock
from mae_jax.runtime import files, signals
from mae_jax.runtime.progress import Progress, duration
from mae_jax.runtime.text import count
from mae_jax.step import sharding
from mae_jax.study import label_study, side_by_side
from mae_jax.study.cells import Run
from mae_jax.study.execution import run_all
from mae_jax.study.validation import validate_sweep
from mae_jax.weights import initial_weights

RECONSTRUCTIONS = "reconstructions.png"


def pretrainings(config: SweepConfig, workdir: Path) -> list[Run]:
    """The run directory and config of each autoencoder.

    They differ only in mask ratio, visible weight and the number of unlabeled images.
    """
    runs = []
    counts = config.unlabeled_counts or (config.pretrain.data.unlabeled_count,)
    for images, weight, ratio in itertools.product(counts, config.visible_weights, config.mask_ratios):
        name = f"pre-training, {100 * ratio:g} % removed, visible weight {weight:g}"
        name += f", {count(images, 'image')}" if images else ""
        changes = {"name": name, "mae.mask_ratio": ratio, "mae.visible_weight": weight, "data.unlabeled_count": images}
        place = f"mask{100 * ratio:g}-visible{weight:g}"
        place += f"-{images}images" if images and config.unlabeled_counts else ""
        runs.append((workdir / "pretrain" / place, changed(config.pretrain, changes)))
    return runs


def classifiers(config: SweepConfig, workdir: Path, networks: Sequence[Run]) -> list[Run]:
    """The classifiers from scratch and from each autoencoder, for each seed.

    Those of one seed differ only in their initial weights.
    """
    subset_seeds = config.subset_seeds or (0,) * len(config.seeds)
    runs = []
    for seed, subset_seed in zip(config.seeds, subset_seeds, strict=True):
        for directory in (None, *(directory for directory, _ in networks)):
            origin, fraction = directory.name if directory else "scratch", config.finetune.data.fraction
            changes: dict[str, Any] = {"seed": seed, "data.subset_seed": subset_seed}
            changes |= {"init": "mae", "init_from": str(directory.resolve())} if directory else {"init": "scratch"}
            changes |= {"init_from": ""} if directory is None else {}
            changes["name"] = f"finetune {100 * fraction:g} % from {origin}, seed {seed}"
            run = changed(config.finetune, changes)
            runs.append((workdir / "cells" / f"{percent_slug(fraction)}-{origin}-seed{seed}", run))
    return runs


def run(config: ConfigDict | SweepConfig, workdir: Path, *, cache: splits.DataCache | None = None) -> dict[str, Any]:
    """Runs all unfinished runs of the sweep, then writes its report. Returns {"rows": table, "report": directory}.

    `cache` keeps the images for further calls. Raises UserError for a mistake of the user, and, after everything else
    is finished and reported, if runs are missing. Raises `errors.Stopped` after a signal, once the state is saved.
    """
    config = validate_sweep(config)
    gpus = side_by_side.gpus(config)
    leader = jax.process_index() == 0
    with signals.collect_signals() as signals_received, lock.held(workdir, leader):
        label_study.keep_study(config, workdir, leader)
        networks = pretrainings(config, workdir)
        cells = classifiers(config, workdir, networks)
        progress = Progress(config.finetune.log.progress_seconds, quiet=not leader)
        cache = cache or splits.DataCache()
        runs = [*networks, *cells]
        missing = run_all(config, runs, progress, signals_received, cache, gpus)
        networks, finished = ([place for place in part if place[0] not in missing] for part in (networks, runs))
        written = {}
        if leader and networks:
            if jax.process_count() == 1:  # because this process loads each network alone
                picture(config, networks, workdir / RECONSTRUCTIONS, cache)
            directories = [directory for directory, _ in finished]
            began = time.monotonic()
            with signals.interruptible("all runs are finished"):
                written = report(config, workdir, directories, progress, label_study.without(missing))
            progress.say(label_study.time_line(directories, time.monotonic() - began))
        label_study.refuse_missing(runs, missing)
        return written


def picture(config: SweepConfig, networks: Sequence[Run], path: Path, cache: splits.DataCache) -> None:
    """Saves a sheet of the same held-out images reconstructed by all networks."""
    data = splits.unlabeled(config.pretrain.data, cache=cache)
    held = [(source, part) for source, part in zip(data.sources, data.val_idx, strict=True) if len(part)]
    if not held:
        return
    mesh = sharding.make_mesh(config.pretrain.sharding.fsdp)
    ratio = contents.reference_ratio(config.pretrain.eval.mask_ratios)

    def loaded():
        for directory, run in networks:
            _, spec, params, _ = initial_weights.autoencoder(directory, "pretrain", mesh)
            heading = f"{100 * run.mae.mask_ratio:g} %, weight {run.mae.visible_weight:g}"
            yield heading, at_ratio(spec, ratio), params

    chosen = reconstruction_sheets.in_turn(held, config.pretrain.eval.images)
    note = "each heading gives the share of patches removed in training and the weight of visible patches"
    files.save_picture(
        path, reconstruction_sheets.side_by_side(loaded(), chosen, config.pretrain.eval.mask_seed, lines=[note])
    )


def report(
    config: SweepConfig, workdir: Path, directories: Sequence[Path], progress: Progress, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Writes the report from the files of the runs, with `notes`, and prints its table and its path.

    Returns {"rows": table, "report": directory}.
    """
    from mae_jax.report.sweep.page import write_sweep

    written = write_sweep(
        directories, workdir / "report", title=config.title, pictures=workdir / RECONSTRUCTIONS, notes=notes
    )
    progress.say(f"\n{written.text}\n")
    total = label_study.trained_seconds(directories)
    progress.say(f"{count(len(directories), 'run')}, {duration(total)} of training; report: {written.page}")
    return {"rows": written.rows, "report": str(workdir / "report")}
