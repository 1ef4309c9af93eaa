"""Builds a data set from its published files: python tools/prepare_data.py DATASET --source DIR [--data_dir DIR].

DATASET: raabin_wbc, cam16, prcc (or prcc:tile250 for tiles of 250 pixels). Every image is decoded once; it ends with
counts per split and class, and what was left out and why.
"""

import argparse
import logging
import os
import sys

from mae_jax.data import prepared
from mae_jax.errors import EXIT_USER_ERROR, UserError


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help=f"one of {', '.join(prepared.WHERE)}; :CONFIG where it has some")
    parser.add_argument("--source", required=True, help="the folder with the published files, or their archives")
    parser.add_argument("--data_dir", default="", help="where to; else $TFDS_DATA_DIR, else ~/tensorflow_datasets")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        if not prepared.known(options.dataset):
            raise UserError(f"{options.dataset} cannot be prepared; use one of {', '.join(prepared.WHERE)}")
        from mae_jax.datasets.prepare import prepare

        prepare(options.dataset, options.source, options.data_dir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was prepared")


if __name__ == "__main__":
    main()
