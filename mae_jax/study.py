"""The study: one pre-training, then fine-tuning over fractions x initialisations x seeds, then the report.

Each cell of the grid is a run directory of its own. A cell that is finished is not run again, so the
same command goes on after any interruption.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mae_jax import rundir, train
from mae_jax.config import percent, validate_study
from mae_jax.progress import Progress, duration


def cells(config: ConfigDict, workdir: Path) -> Iterator[tuple[Path, ConfigDict]]:
    """The run directory and the config of every fine-tuning run.

    The cells of one seed and fraction differ in their first weights and in nothing else.
    """
    subset_seeds = tuple(config.subset_seeds) or (0,) * len(config.seeds)
    for seed, subset_seed in zip(config.seeds, subset_seeds, strict=True):
        for fraction in config.fractions:
            for init in config.inits:
                cell = config.finetune.copy_and_resolve_references()
                cell.seed, cell.data.subset_seed, cell.data.fraction = seed, subset_seed, fraction
                cell.init = init
                cell.init_from = str(pretrain_dir(workdir)) if init == "mae" else ""
                cell.name = f"finetune {fraction * 100:g} % {init}" + (f" seed {seed}" if len(config.seeds) > 1 else "")
                yield workdir / "cells" / f"{percent(fraction)}-{init}-seed{seed}", cell


def pretrain_dir(workdir: Path) -> Path:
    """Where the study's masked autoencoder lies."""
    return workdir / "pretrain"


def cost(config: ConfigDict) -> float:
    """The expected cost of a run: images times the work on one, in any unit.

    Work grows with tokens times features squared; only a rough share of the time left is made of it.
    """
    from mae_jax.tasks import shape_of  # not needed before the study runs

    shape = shape_of(config)
    d = config.data
    if config.task == "pretrain":
        visible = 1 - config.mae.mask_ratio
        work = visible * shape.depth * shape.width**2 + shape.decoder_depth * shape.decoder_width**2
        return work * config.train.epochs * d.synthetic_unlabelled
    return shape.depth * shape.width**2 * config.train.epochs * d.synthetic_train * max(d.fraction, 0.02)


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Runs what is not yet done of the study, then writes its report.

    Returns the rows of the table. Raises UserError for a mistake of the user.
    """
    validate_study(config)
    leader = jax.process_index() == 0
    with rundir.held(workdir, leader):
        keep_study(config, workdir, leader)
        pretrain = config.pretrain.copy_and_resolve_references()
        pretrain.name = pretrain.name or "pre-training"
        runs = [(pretrain_dir(workdir), pretrain)] if "mae" in config.inits else []
        runs += cells(config, workdir)
        costs = [cost(cell) for _, cell in runs]
        progress = Progress(config.finetune.log.progress_seconds, costs, quiet=not leader)
        opened: dict = {}
        for number, (directory, cell) in enumerate(runs, 1):
            if (directory / rundir.RESULTS).exists():
                rundir.refuse_difference(directory, directory / rundir.CONFIG, cell)
                progress.skip()
                progress.say(f"[{number}/{len(runs)}] {cell.name}: finished before")
                continue
            progress.say(f"[{number}/{len(runs)}] {cell.name}")
            results = train.run(cell, directory, progress, opened)
            progress.say(f"[{number}/{len(runs)}] {cell.name}: {summary(results)}")
        finished = [directory for directory, cell in runs if cell.task == "finetune"]
        return report(config, workdir, finished, progress) if leader else {}


def keep_study(config: ConfigDict, workdir: Path, leader: bool) -> None:
    """study.json: the study's config, the same at every start; the `leader` of several processes writes it."""
    path = workdir / "study.json"
    if path.exists():
        rundir.refuse_difference(workdir, path, config)
    if leader:
        rundir.write_json(path, {"config": json.loads(config.to_json())})


def summary(results: dict[str, Any]) -> str:
    """One line on a finished run."""
    if "accuracy" not in results:
        return f"held-out error on removed patches {results.get('val/loss', float('nan')):.4f}"
    note = ", one class predicted for all" if results["collapsed"] else ""
    return f"test accuracy {results['accuracy']:.3f}, macro F1 {results['f1']:.3f}{note}"


def report(config: ConfigDict, workdir: Path, directories: list[Path], progress: Progress) -> dict[str, Any]:
    """Writes the report from the files of the runs, and prints its table and where it lies."""
    from mae_jax.report import write_report
    from mae_jax.report.tables import table_text

    out = workdir / "report"
    written = write_report(directories, out, title=config.title)
    progress.say(f"\n{table_text(written.rows)}\n")
    total = sum(rundir.read_json(d / rundir.RUN)["wall_seconds"] for d in directories)
    progress.say(f"{len(directories)} fine-tuning runs, {duration(total)} of training; report: {out}")
    return {"rows": written.rows, "report": str(out)}
