"""Finds images that occur twice, and groups in two splits: python tools/check_data.py DATASET [--data_dir DIR].

DATASET: a prepared data set, a CSV or Parquet file of labels, or a folder: DIR/<split>/<class>/*, DIR/<class>/*,
DIR/<split>/data/<class>/*, or images without labels. An ambiguous layout is reported. Byte-identical and near-identical
images (perceptual hash; also turned and mirrored) are found within and across splits, with the label of each, and
written to a CSV file.
"""

from mae_jax.runtime import signals

if __name__ == "__main__":
    signals.hold()  # until the imports are done

import argparse
import re
from pathlib import Path

from mae_jax.datasets.check import check
from mae_jax.runtime.command import call, out_file


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a prepared data set, or a folder")
    parser.add_argument("--data_dir", default="", help="where it is; else $TFDS_DATA_DIR, else ~/tensorflow_datasets")
    parser.add_argument("--columns", default="", help="columns of a table, as data.columns: path=file,label=cell_type")
    parser.add_argument("--group_pattern", default="", help="regular expression with one group, as data.group_pattern")
    parser.add_argument("--out", default="", help="the CSV file; else check_DATASET.csv")
    options = parser.parse_args()
    name = re.sub(r"[^\w.-]", "_", Path(options.dataset).name)
    out = out_file(Path(options.out or f"check_{name}.csv"), "--out")
    check(options.dataset, options.data_dir, out, columns=options.columns, pattern=options.group_pattern)


if __name__ == "__main__":
    call(main)
