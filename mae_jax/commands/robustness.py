"""Test finished classifiers on changed images: stain, hue, brightness, blur and compression.

mae-jax robustness STUDY_OR_RUN... [--changes hematoxylin,eosin,hue,gamma,blur,jpeg] [--out DIR]

Each classifier predicts its own test images under every change. Predictions go into its run directory, under
robustness/; those that are there already are kept, so the same command continues after an interruption. robustness.csv,
.md, .svg and .png in DIR compare the classifiers: accuracy, macro F1, calibration error, and the share of images whose
predicted class flips. robustness_index.csv has the robustness index of the frozen encoders over test sets and groups.
"""

import argparse

from mae_jax.runtime import disk, signals
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.parser import Existing, user_path

SUMMARY = "test finished classifiers on images with changed stain, hue, brightness, blur and compression"
CHANGES = ("hematoxylin", "eosin", "hue", "gamma", "blur", "jpeg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `mae-jax robustness`."""
    kinds = "a study's directory, or runs"
    parser.add_argument("places", nargs="+", type=Existing(kinds), metavar="STUDY_OR_RUN", help=kinds)
    parser.add_argument("--changes", default=",".join(CHANGES), help=f"some of {', '.join(CHANGES)} (default: all)")
    parser.add_argument(
        "--out", type=user_path, metavar="DIR", help="default for one STUDY_OR_RUN: its directory report/"
    )


def main(options: argparse.Namespace) -> None:
    """Predicts, writes the tables, and prints where they are."""
    names = [name.strip() for name in options.changes.split(",")]
    for name in names:
        if name not in CHANGES:
            raise UserError(f"--changes={options.changes}: {name!r} is not known; use some of {', '.join(CHANGES)}")
    if options.out is None and len(options.places) > 1:
        raise UserError("--out is missing: with several directories, name one for the tables")
    with signals.blocked():
        from mae_jax.report import directories
        from mae_jax.report.runs import read_runs
        from mae_jax.rundir import contents
    places, notes = directories.expand(options.places)
    all_runs = read_runs(places)[0]
    runs = [run for run in all_runs if contents.fine_tunes(run.evaluation)]
    if not runs:
        raise UserError(f"{options.places[0]}: no fine-tuned classifier; name a study or runs of finetune")
    with signals.blocked():
        from mae_jax.data.splits import DataCache
        from mae_jax.evaluation import perturbations
        from mae_jax.predict import robustness as predicting
        from mae_jax.predict import robustness_index as indexing
        from mae_jax.report import robustness, robustness_index
        from mae_jax.runtime import machine
        from mae_jax.runtime.progress import Progress
    machine.keep_memory()
    machine.keep_compiled()
    progress = Progress(10.0)
    for line in notes:
        progress.say(line)
    chosen = [each for each in perturbations.ALL if each.name in names]
    cache = DataCache()
    predicting.write([run.path for run in runs], chosen, progress, cache)
    changes = [
        robustness.Change(
            each.name, each.axis, each.neutral, level, [predicting.place_of(run.path, each.name, level) for run in runs]
        )
        for each in chosen
        for level in each.levels
    ]
    out = options.out or options.places[0] / "report"
    parts = indexing.measure([(run.init, run.path) for run in all_runs], progress, cache)
    index_text, index_path = robustness_index.write(out, parts)
    _, paths = robustness.write(out, runs, changes, index_text)
    progress.say(disk.read_text(out / "robustness.md"))
    progress.say(f"written: {', '.join(map(str, [*paths, index_path]))}")
