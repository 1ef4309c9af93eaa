"""Test finished classifiers on changed images (stain, hue, brightness, blur, compression) and external test sets.

mae-jax robustness STUDY_OR_RUN... [--changes hematoxylin,eosin,hue,gamma,blur,jpeg] [--external NAME=DIR,...]
  [--out DIR]

Each classifier predicts its own test images and its external test sets (data.external, and those of --external), as
they are and under every change. Predictions go into its run directory, under
robustness/; those that are there already are kept, so the same command continues after an interruption. robustness.csv,
.md, .svg and .png in DIR compare the classifiers: accuracy, macro F1, calibration error, and the share of images whose
predicted class flips. robustness_index.csv has the robustness index of the frozen encoders over test sets and groups.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mae_jax.runtime import disk, signals
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.parser import Existing, user_path

if TYPE_CHECKING:
    from mae_jax.report.runs import Run

SUMMARY = "test finished classifiers on changed images (stain, hue, blur, compression ...) and external test sets"
CHANGES = ("hematoxylin", "eosin", "hue", "gamma", "blur", "jpeg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `mae-jax robustness`."""
    kinds = "a study's directory, or runs"
    parser.add_argument("places", nargs="+", type=Existing(kinds), metavar="STUDY_OR_RUN", help=kinds)
    parser.add_argument("--changes", default=",".join(CHANGES), help=f"some of {', '.join(CHANGES)} (default: all)")
    parser.add_argument(
        "--external",
        default="",
        metavar="NAME=DIR,...",
        help="more external test sets, as in data.external: folders with a folder of images for each class",
    )
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
    tests = predicting.write([run.path for run in runs], chosen, progress, cache, options.external)

    def changes(tested: Sequence[Run], test_set: str) -> list[robustness.Change]:
        return [
            robustness.Change(
                each.name, each.axis, each.neutral, level,
                [predicting.place_of(run.path, each.name, level, test_set) for run in tested],
            )
            for each in chosen
            for level in each.levels
        ]  # fmt: skip

    external = []
    for name in sorted({name for names in tests for name in names}):
        tested = [run for run, names in zip(runs, tests, strict=True) if name in names]
        unchanged = [predicting.unchanged_place(run.path, name) for run in tested]
        external.append(robustness.ExternalTest(name, tested, unchanged, changes(tested, name)))
    out = options.out or options.places[0] / "report"
    parts = indexing.measure([(run.init, run.path) for run in all_runs], progress, cache, options.external)
    index_text, index_path = robustness_index.write(out, parts)
    _, paths = robustness.write(out, runs, changes(runs, predicting.MAIN), index_text, external)
    progress.say(disk.read_text(out / "robustness.md"))
    progress.say(f"written: {', '.join(map(str, [*paths, index_path]))}")
