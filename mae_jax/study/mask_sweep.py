"""What the autoencoder learned: mask ratios x weights on visible patches, then classifiers on few labels.

One pre-training for each pair, measured on the same images under the same masks; from each of them, and from
scratch, a classifier for each seed. Each is a run directory of its own, and the same command goes on after any
interruption.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mae_jax.config.fields import SweepConfig, changed
from mae_jax.config.naming import percent
from mae_jax.data import splits
from mae_jax.evaluation import reconstruction_sheets
from mae_jax.evaluation.reconstruction import at_ratio
from mae_jax.rundir import contents, lock
from mae_jax.runtime import files, signals
from mae_jax.runtime.progress import Progress, duration
from mae_jax.step import sharding
from mae_jax.study import label_study
from mae_jax.study.cells import Run
from mae_jax.study.validation import validate_sweep
from mae_jax.weights import initial_weights

RECONSTRUCTIONS = "reconstructions.png"


def pretrainings(config: SweepConfig, workdir: Path) -> list[Run]:
    """The run directory and config of each autoencoder. They differ in mask ratio and weight alone."""
    found = []
    for weight, ratio in itertools.product(config.visible_weights, config.mask_ratios):
        name = f"pre-training, {100 * ratio:g} % removed, visible weight {weight:g}"
        changes = {"name": name, "mae.mask_ratio": ratio, "mae.visible_weight": weight}
        run = changed(config.pretrain, changes)
        found.append((workdir / "pretrain" / f"mask{100 * ratio:g}-visible{weight:g}", run))
    return found


def classifiers(config: SweepConfig, workdir: Path, networks: Sequence[Run]) -> list[Run]:
    """Those of one seed differ in their first weights alone: from scratch, and from each autoencoder."""
    subset_seeds = config.subset_seeds or (0,) * len(config.seeds)
    found = []
    for seed, subset_seed in zip(config.seeds, subset_seeds, strict=True):
        for directory in (None, *(directory for directory, _ in networks)):
            origin, fraction = directory.name if directory else "scratch", config.finetune.data.fraction
            changes: dict[str, Any] = {"seed": seed, "data.subset_seed": subset_seed}
            changes |= {"init": "mae", "init_from": str(directory.resolve())} if directory else {"init": "scratch"}
            changes |= {"init_from": ""} if directory is None else {}
            changes["name"] = f"finetune {100 * fraction:g} % from {origin}, seed {seed}"
            run = changed(config.finetune, changes)
            found.append((workdir / "cells" / f"{percent(fraction)}-{origin}-seed{seed}", run))
    return found


def run(config: ConfigDict | SweepConfig, workdir: Path) -> dict[str, Any]:
    """Runs what is not yet done of the sweep, then writes its report.

    Returns the rows of the report's table. Raises UserError for a mistake of the user, and, after all else is done
    and reported, where runs are missing; `errors.Stopped` after a signal, with the state saved.
    """
    config = validate_sweep(config)
    leader = jax.process_index() == 0
    with signals.collect_signals() as got, lock.held(workdir, leader):
        label_study.keep_study(config, workdir, leader)
        networks = pretrainings(config, workdir)
        cells = classifiers(config, workdir, networks)
        progress, cache = Progress(config.finetune.log.progress_seconds, quiet=not leader), splits.DataCache()
        runs = [*networks, *cells]
        missing = label_study.run_all(runs, progress, got, cache)
        networks, finished = ([place for place in part if place[0] not in missing] for part in (networks, runs))
        written = {}
        if leader and networks:
            if jax.process_count() == 1:  # each network is loaded whole, which processes would have to do together
                picture(config, networks, workdir / RECONSTRUCTIONS, cache)
            with signals.interruptible("all runs are finished"):
                directories = [directory for directory, _ in finished]
                written = report(config, workdir, directories, progress, label_study.without(missing))
        label_study.refuse_missing(runs, missing)
        return written


def picture(config: SweepConfig, networks: Sequence[Run], path: Path, cache: splits.DataCache) -> None:
    """The held-out images that every pre-training shows, reconstructed by all networks."""
    data = splits.unlabelled(config.pretrain.data, cache=cache)
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
    first = "each network by the share removed in its training and its visible weight"
    files.save_picture(
        path, reconstruction_sheets.side_by_side(loaded(), chosen, config.pretrain.eval.mask_seed, lines=[first])
    )


def report(
    config: SweepConfig, workdir: Path, directories: Sequence[Path], progress: Progress, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Writes the report from the files of the runs, with `notes`, and prints its table and where it lies."""
    from mae_jax.report.sweep.page import write_sweep

    written = write_sweep(
        directories, workdir / "report", title=config.title, pictures=workdir / RECONSTRUCTIONS, notes=notes
    )
    progress.say(f"\n{written.text}\n")
    total = label_study.trained_seconds(directories)
    progress.say(f"{len(directories)} runs, {duration(total)} of training; report: {written.page}")
    return {"rows": written.rows, "report": str(workdir / "report")}
