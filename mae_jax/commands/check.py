"""Find duplicate images, and groups (patients, slides) that occur in several splits.

DATASET is a prepared data set, a CSV or Parquet file of labels, or a folder: DIR/<split>/<class>/*, DIR/<class>/*,
DIR/<split>/data/<class>/*, or images without labels. Folders of patients may be inside the class folders or around
them. An ambiguous layout is reported. The command finds byte-identical images, and near-identical ones that look like
copies, within and across splits. It writes them with their labels to a CSV file. It also prints the warnings of a run:
classes with few images, classes that alone have certain groups, days or image sizes, and large images.
"""

import argparse
import re
from pathlib import Path

from mae_jax.runtime import signals
from mae_jax.runtime.command import out_file
from mae_jax.runtime.disk import is_file
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.option_names import replaced
from mae_jax.runtime.parser import Number, user_path

SPLITS = ("train_split", "val_split", "test_split")
SUMMARY = "find duplicate images, leaks between splits and doubtful labels in a data set"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `mae-jax check`."""
    parser.add_argument(
        "dataset", metavar="DATASET", type=user_path, help="a prepared data set, a folder, or a file of labels"
    )
    parser.add_argument(
        "--data_dir",
        default="",
        metavar="DIR",
        help="where prepared data sets are (default: $TFDS_DATA_DIR, then ~/tensorflow_datasets)",
    )
    add_label_arguments(parser)
    parser.add_argument(
        "--image_size", type=Number(int, 8, 4096), default=64, metavar="PIXELS",
        help="report images that are large for a network with inputs of this size (default 64, as scale=laptop)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=user_path, metavar="CSV", help="the CSV file to write (default: check_DATASET.csv)"
    )


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say where labels, splits and groups come from, also for `mae-jax quick`."""
    parser.add_argument(
        "--dir", type=user_path, metavar="DIR", help="the folder that the paths of a table are below (default: its own)"
    )
    parser.add_argument(
        "--columns", default="", help="columns of a table, like data.columns: path=file,label=cell_type"
    )
    parser.add_argument(
        "--group_pattern", default="", metavar="REGEX",
        help="regular expression whose group is the patient or slide in a file name, like data.group_pattern",
    )  # fmt: skip
    for role in ("train", "val", "test"):
        parser.add_argument(
            f"--{role}_split", default="auto", metavar="NAME", help=f"like data.{role}_split (default: the usual names)"
        )
    parser.add_argument(
        "--levels", default="", choices=("", "class", "class/group", "group/class"), metavar="LEVELS",
        help="what the folders below a split are, like data.levels: class, class/group, or group/class (default: seen "
        "from their names)",
    )  # fmt: skip


def label_fields(options: argparse.Namespace, place: Path) -> dict[str, str]:
    """The `data` fields of the arguments of `add_label_arguments`.

    Raises UserError for an option of tables that is given for a folder, or the reverse.
    """
    fields = {name: getattr(options, name) for name in ("columns", "group_pattern", "levels", *SPLITS)}
    if is_file(place):
        if options.levels:
            raise UserError(f"--levels={options.levels} is for folders, but {place} is a table of labels; omit it")
        return fields | {"labels": str(place), "dir": str(options.dir or "")}
    for name in ("dir", "columns"):
        if value := getattr(options, name):
            raise UserError(f"--{name}={value} is for a table of labels, but {place} is not a file; omit it")
    return fields | {"dir": str(place)}


def option_names(place: Path, metavar: str) -> dict[str, str]:
    """The option of each `data` field for `option_names.replaced`. `metavar` is the name of the argument `place`."""
    names = {name: f"--{name}" for name in ("columns", "group_pattern", "levels", *SPLITS)}
    return names | {"labels": metavar, "dir": "--dir" if is_file(place) else metavar}


def file_name(place: Path) -> str:
    """A name for output files: that of a folder, or of a file without its suffix."""
    name = place.stem if is_file(place) else place.name or place.resolve().name
    return re.sub(r"[^\w.-]", "_", name)


def main(options: argparse.Namespace) -> None:
    """Checks the data set, prints the findings and writes the CSV file."""
    place = options.dataset
    out = out_file(options.out or Path(f"check_{file_name(place)}.csv"), "--out")
    with signals.blocked():
        from mae_jax.datasets.check import check

    names = option_names(place, "DATASET")
    with replaced(names):
        check(
            str(place), options.data_dir, out,
            fields=label_fields(options, place), options=names, image_size=options.image_size,
        )  # fmt: skip
