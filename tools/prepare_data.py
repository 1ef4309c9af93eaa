"""Builds a data set from its files: python tools/prepare_data.py DATASET --source DIR [--data_dir DIR].

DATASET: raabin_wbc, cam16, prcc (or prcc:tile250 for tiles of 250 pixels), or tiles:NAME for a folder of whole slides
of your own, under a name that you give. Every image is decoded once; it ends with counts per split and class, and what
was left out and why.
"""

from mae_jax.runtime import signals

if __name__ == "__main__":
    signals.hold()  # until the imports are done

import argparse
import logging
import os

from mae_jax.data import prepared
from mae_jax.runtime.command import call
from mae_jax.runtime.errors import UserError


def _cutting(options: argparse.Namespace):
    from mae_jax.datasets.tiles.opening import MAGNIFICATION_MPP
    from mae_jax.datasets.tiles.slides import Cutting

    names = ("tile", "mpp", "assume_mpp", "tissue", "workers", "magnification")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if given and not options.dataset.startswith("tiles:"):
        instead = f"; use prcc:tile{given['tile']}" if "tile" in given and options.dataset.startswith("prcc") else ""
        raise UserError(f"--{next(iter(given))} is for tiles:NAME; {options.dataset} has no such option{instead}")
    if (magnification := given.pop("magnification", None)) is not None:
        if not 0.1 <= magnification <= 200:
            raise UserError(f"--magnification {magnification} is out of range; allowed: 0.1 to 200")
        given["mpp"] = MAGNIFICATION_MPP / magnification
    return Cutting(**given)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help=f"one of {', '.join(prepared.WHERE)}; :CONFIG where it has some")
    parser.add_argument("--source", required=True, help="the folder with the published files, or their archives")
    parser.add_argument("--data_dir", default="", help="where to; else $TFDS_DATA_DIR, else ~/tensorflow_datasets")
    slides = parser.add_argument_group("for tiles:NAME")
    slides.add_argument("--tile", type=int, help="side of a tile in pixels; 500")
    scale = slides.add_mutually_exclusive_group()
    scale.add_argument("--mpp", type=float, help="micrometres per pixel; else the pixels as they were scanned")
    scale.add_argument("--magnification", type=float, help="such as 20 (taken for 0.5 micrometres per pixel)")
    slides.add_argument("--assume_mpp", type=float, help="of slides whose header does not say theirs")
    slides.add_argument("--tissue", type=float, help="least share of a tile that is tissue; 0.25")
    slides.add_argument("--workers", type=int, help="processes; one for each core")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    logging.getLogger("absl").setLevel(logging.ERROR)
    if not prepared.known(options.dataset):
        raise UserError(f"{options.dataset} cannot be prepared; use one of {', '.join(prepared.WHERE)}")
    with signals.held():
        from mae_jax.datasets.prepare import prepare

    prepare(options.dataset, options.source, options.data_dir, cutting=_cutting(options))


if __name__ == "__main__":
    call(main)
