"""Classify new images with a finished run.

mae-jax predict RUN --images DIR --out FILE.csv

RUN is the directory of a finished run (fine-tuning, linear probe, logistic regression or nearest neighbors), a bundle,
or with --all a study. Images are preprocessed like the run's test images. FILE has a row for each image: image,
prediction, confidence, and the probability of each class as p_CLASS, computed as in the run's predictions.csv.

If the run has validation predictions, calibrated_confidence is the confidence after temperature scaling. --calibrated
adds the calibrated probability of each class. FILE appears once all rows are written.
"""

import argparse

from mae_jax.runtime import signals
from mae_jax.runtime.command import out_file
from mae_jax.runtime.parser import Existing, user_path

SUMMARY = "classify new images with a finished run: a CSV or Parquet file of predictions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `mae-jax predict`."""
    kinds = "a run directory, a bundle, or (with --all) a study's directory"
    parser.add_argument("run", metavar="RUN", type=Existing(kinds, hub=True), help=kinds)
    add_image_arguments(parser)
    parser.add_argument("--out", required=True, type=user_path, metavar="FILE", help="a .csv or .parquet file")
    parser.add_argument("--calibrated", action="store_true", help="add the calibrated probability of each class")
    parser.add_argument("--embeddings", action="store_true", help="add the features that the classifier receives")
    parser.add_argument("--all", action="store_true", help="use all runs of a study; adds a column run")


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that select images, for `mae-jax predict` and `mae-jax embed`."""
    parser.add_argument(
        "--images", required=True, metavar="PLACE",
        help="a folder (searched recursively), a CSV or Parquet file of paths, one image, or a prepared data set "
        "(NAME or NAME/SPLIT)",
    )  # fmt: skip
    parser.add_argument(
        "--dir", type=user_path, metavar="DIR", help="the folder that the paths of a table are below (default: its own)"
    )
    parser.add_argument("--columns", default="", metavar="path=NAME", help="the path column of a CSV or Parquet file")
    parser.add_argument(
        "--bad_images",
        default="stop",
        choices=("stop", "skip"),
        help="what to do if an image cannot be read (default stop)",
    )


def check_places(options: argparse.Namespace, *endings: str) -> None:
    """Raises UserError for an output file or images that cannot be used. JAX is not needed for that."""
    with signals.blocked():
        from mae_jax.predict import images, writers
    writers.kind_of(out_file(options.out, "--out"), endings)
    images.place_of(options.images)


def main(options: argparse.Namespace) -> None:
    """Classifies the images, and prints what was written and skipped."""
    check_places(options, ".csv", ".parquet")
    with signals.blocked():
        from mae_jax.predict import kinds
    kinds.runs_of(options.run, options.all)
    with signals.blocked():
        from mae_jax.predict import files
        from mae_jax.runtime import machine
    machine.keep_memory()
    machine.keep_compiled()
    chosen = files.Options(
        options.columns, options.bad_images, options.embeddings, options.calibrated, options.all, str(options.dir or "")
    )
    files.predict(str(options.run), options.images, options.out, chosen)
