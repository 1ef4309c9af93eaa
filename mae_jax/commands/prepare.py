"""Build a data set from its published files, or from your own slides.

DATASET is raabin_wbc, cam16, prcc (or prcc:tile250 for tiles of 250 pixels), or tiles:NAME for your own folder of whole
slides or plain images, under a name that you choose. Every image is decoded once. The command prints counts per split
and class, and lists what it skipped and why. With --stain, all images get the stain of one target image.
"""

import argparse
import logging

from mae_jax.runtime import signals
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.parser import Number, user_path

SUMMARY = "build a data set from published files, or tiles from your own slides"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `mae-jax prepare`."""
    parser.add_argument("dataset", metavar="DATASET", help="raabin_wbc, cam16, prcc, prcc:tile250 or tiles:NAME")
    parser.add_argument(
        "--source",
        required=True,
        type=user_path,
        metavar="DIR",
        help="the folder with the published files, or their archives",
    )
    parser.add_argument(
        "--data_dir",
        default="",
        metavar="DIR",
        help="output folder (default: $TFDS_DATA_DIR, then ~/tensorflow_datasets)",
    )
    parser.add_argument(
        "--stain",
        choices=("macenko", "reinhard"),
        default="",
        help="normalize the stain of every image: macenko for hematoxylin and eosin, reinhard for any stain (needs "
        "torchstain; default: no normalization)",
    )
    parser.add_argument(
        "--stain_target",
        type=user_path,
        metavar="FILE",
        help="the image whose stain all others get (default: a typical one of 64 drawn from the training images)",
    )
    slides = parser.add_argument_group("for tiles:NAME")
    slides.add_argument("--tile", type=Number(int, 16, 10_000), help="side of a tile in pixels (default 500)")
    scale = slides.add_mutually_exclusive_group()
    scale.add_argument(
        "--mpp",
        type=Number(float, 0, 100, open="low"),
        help="micrometers per pixel (default: the scan's own resolution)",
    )
    scale.add_argument(
        "--magnification", type=Number(float, 0.1, 200), help="for example 20, which means 0.5 micrometers per pixel"
    )
    slides.add_argument(
        "--assume_mpp",
        type=Number(float, 0, 100, open="low"),
        help="micrometers per pixel of slides whose header has no plausible value, and of plain images (PNG, JPEG, "
        "TIFF in strips), which require it",
    )
    slides.add_argument(
        "--tissue", type=Number(float, 0, 1), help="minimum fraction of a tile that is tissue (default 0.25)"
    )
    slides.add_argument("--workers", type=Number(int, 0, 1024), help="number of processes (default 0: one per core)")


def main(options: argparse.Namespace) -> None:
    """Prepares the data set and prints its counts."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    with signals.blocked():
        from mae_jax.data import prepared
    if not prepared.known(options.dataset):
        raise UserError(f"{options.dataset} cannot be prepared; use one of {', '.join(prepared.names())}")
    if options.stain_target and not options.stain:
        raise UserError(f"--stain_target={options.stain_target} has no effect without --stain; add --stain=macenko")
    with signals.blocked():
        from mae_jax.datasets.prepare import prepare

    stain = {"stain": options.stain, "stain_target": str(options.stain_target or "")}
    prepare(options.dataset, str(options.source), options.data_dir, cutting=_cutting(options), **stain)


def _cutting(options: argparse.Namespace):
    """Options for cutting tiles. Raises UserError for an option that this data set does not support."""
    from mae_jax.datasets.tiles.opening import MAGNIFICATION_MPP
    from mae_jax.datasets.tiles.slides import Cutting

    names = ("tile", "mpp", "assume_mpp", "tissue", "workers", "magnification")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if given and not options.dataset.startswith("tiles:"):
        instead = f"; use prcc:tile{given['tile']}" if "tile" in given and options.dataset.startswith("prcc") else ""
        raise UserError(f"--{next(iter(given))} is for tiles:NAME; {options.dataset} has no such option{instead}")
    if (magnification := given.pop("magnification", None)) is not None:
        given["mpp"] = MAGNIFICATION_MPP / magnification
    return Cutting(**given)
