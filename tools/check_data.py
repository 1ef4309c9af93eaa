"""Finds images that are there twice, and groups in two splits: python tools/check_data.py DATASET [--data_dir DIR].

DATASET: a prepared data set, or a folder: DIR/<split>/<class>/*, DIR/<split>/data/<class>/*, or images without labels.
Byte-identical and near-identical images (perceptual hash; turned and mirrored ones, too) are found within and across
splits, with the label of each, and written to a CSV file.
"""

from mae_jax import signals

if __name__ == "__main__":
    signals.hold()  # until the imports are done

import argparse
import re
from pathlib import Path

from mae_jax.cli import call, out_file
from mae_jax.datasets.check import check


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a prepared data set, or a folder")
    parser.add_argument("--data_dir", default="", help="where it is; else $TFDS_DATA_DIR, else ~/tensorflow_datasets")
    parser.add_argument("--out", default="", help="the CSV file; else check_DATASET.csv")
    options = parser.parse_args()
    name = re.sub(r"[^\w.-]", "_", Path(options.dataset).name)
    out = out_file(Path(options.out or f"check_{name}.csv"), "--out")
    check(options.dataset, options.data_dir, out)


if __name__ == "__main__":
    call(main)
