"""Classify new images with a finished run.

mae-jax predict RUN --images DIR --out FILE.csv

RUN is the directory of a finished run (fine-tuned, linear probe, lbfgs, knn), a bundle, or a study with --all. Images
are prepared as for the run's own test. FILE has a row for each image: image, prediction, confidence, and the
probability of each class as p_CLASS, computed as in the run's predictions.csv. Where the run has validation
predictions, calibrated_confidence is the confidence after temperature scaling; --calibrated adds the calibrated
probability of each class. Rows are written as they are computed; FILE appears when all are.
"""

import argparse
from pathlib import Path

from mae_jax.runtime import signals

SUMMARY = "classify new images with a finished run: a CSV or Parquet file of predictions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mae-jax predict`."""
    parser.add_argument("run", metavar="RUN", help="a run directory, a bundle, or with --all a study's directory")
    add_image_arguments(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="a .csv or .parquet file")
    parser.add_argument("--calibrated", action="store_true", help="add the calibrated probability of each class")
    parser.add_argument("--embeddings", action="store_true", help="add what the classifier reads of each image")
    parser.add_argument("--all", action="store_true", help="all runs of a study, with a column run")


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Which images; also for `mae-jax embed`."""
    parser.add_argument(
        "--images", required=True, metavar="PLACE",
        help="a folder (at any depth), a CSV or Parquet file with their paths, one image, or a prepared data set "
        "(NAME or NAME/SPLIT)",
    )  # fmt: skip
    parser.add_argument("--columns", default="", metavar="path=NAME", help="the column of the paths in such a file")
    parser.add_argument(
        "--bad_images", default="stop", choices=("stop", "skip"), help="what to do about a file that is not an image"
    )


def main(options: argparse.Namespace) -> None:
    """Predicts, and prints what was written and skipped."""
    with signals.blocked():
        from mae_jax.predict import files
        from mae_jax.runtime import machine
    machine.keep_memory()
    machine.keep_compiled()
    how = files.Options(options.columns, options.bad_images, options.embeddings, options.calibrated, options.all)
    files.predict(options.run, options.images, options.out, how)
