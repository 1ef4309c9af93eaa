"""Select the images to label first, by what an encoder without labels knows about them.

mae-jax select RUN_OR_WEIGHTS --images DIR --budget 50 --out chosen.csv

FILE has the columns path, label and rank. Fill in the labels, and train on it with --config.data.labels=FILE. A contact
sheet of the images is written next to it as a PNG file.

typical (Hacohen et al. 2022) takes the densest image of each cluster, which works best with few labels. coreset (Sener
and Savarese 2018) covers the images, including unusual ones. random is the baseline that both must beat.
"""

import argparse

from mae_jax.commands.predict import add_image_arguments, check_places
from mae_jax.config.selection import METHODS
from mae_jax.runtime import signals
from mae_jax.runtime.parser import Existing, Number, user_path

SUMMARY = "select the images to label first: a CSV file to fill in, and a contact sheet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `mae-jax select`."""
    kinds = "a pre-training or another run, a bundle, or weights"
    parser.add_argument("run", metavar="RUN_OR_WEIGHTS", type=Existing(kinds, hub=True), help=kinds)
    add_image_arguments(parser)
    parser.add_argument("--budget", required=True, type=Number(int, 1), help="number of images to select")
    parser.add_argument("--out", required=True, type=user_path, metavar="FILE", help="a .csv file")
    parser.add_argument("--method", default="typical", choices=METHODS, help="how to select (default typical)")
    parser.add_argument(
        "--labeled",
        default="",
        type=Existing("a CSV or Parquet file"),
        metavar="FILE",
        help="a CSV or Parquet file of images that already have labels",
    )
    parser.add_argument("--seed", type=Number(int, 0, 2**31 - 1), default=0, help="random seed (default 0)")


def main(options: argparse.Namespace) -> None:
    """Selects the images, and prints what was written."""
    check_places(options, ".csv")
    with signals.blocked():
        from mae_jax.predict import kinds
    kinds.kind_of_model(options.run, "RUN_OR_WEIGHTS")
    with signals.blocked():
        from mae_jax.predict import selecting
        from mae_jax.runtime import machine
    machine.keep_memory()
    machine.keep_compiled()
    selecting.select(
        str(options.run),
        options.images,
        options.budget,
        options.out,
        method=options.method,
        labeled=str(options.labeled),
        seed=options.seed,
        columns=options.columns,
        bad_images=options.bad_images,
        directory=str(options.dir or ""),
    )
