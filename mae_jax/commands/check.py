"""Find duplicate images, and groups (patients, slides) that occur in several splits.

DATASET is a prepared data set, a CSV or Parquet file of labels, or a folder: DIR/<split>/<class>/*, DIR/<class>/*,
DIR/<split>/data/<class>/*, or images without labels. An ambiguous layout is reported. The command finds byte-identical
and near-identical images within and across splits and writes them with their labels to a CSV file. Near-identical
images have similar perceptual hashes, also when rotated or mirrored.
"""

import argparse
import re
from pathlib import Path

from mae_jax.runtime import signals
from mae_jax.runtime.command import out_file

SUMMARY = "find duplicate images, leaks between splits and doubtful labels in a data set"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `mae-jax check`."""
    parser.add_argument(
        "dataset", metavar="DATASET", type=Path, help="a prepared data set, a folder, or a file of labels"
    )
    parser.add_argument(
        "--data_dir",
        default="",
        metavar="DIR",
        help="where prepared data sets are (default: $TFDS_DATA_DIR, then ~/tensorflow_datasets)",
    )
    add_label_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="CSV", help="the CSV file to write (default: check_DATASET.csv)")


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say where labels and groups come from, also for `mae-jax quick`."""
    parser.add_argument(
        "--columns", default="", help="columns of a table, like data.columns: path=file,label=cell_type"
    )
    parser.add_argument(
        "--group_pattern", default="", metavar="REGEX",
        help="regular expression whose group is the patient or slide in a file name, like data.group_pattern",
    )  # fmt: skip


def main(options: argparse.Namespace) -> None:
    """Checks the data set, prints the findings and writes the CSV file."""
    name = re.sub(r"[^\w.-]", "_", options.dataset.name)
    out = out_file(options.out or Path(f"check_{name}.csv"), "--out")
    with signals.blocked():
        from mae_jax.datasets.check import check

    check(str(options.dataset), options.data_dir, out, columns=options.columns, pattern=options.group_pattern)
