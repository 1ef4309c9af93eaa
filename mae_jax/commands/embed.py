"""Embed images with the encoder of a run or of any weights.

mae-jax embed RUN_OR_WEIGHTS --images DIR --out FILE.h5

RUN_OR_WEIGHTS is a run directory, a bundle, or a file or folder of weights that `init=` reads (Hugging Face, timm,
facebookresearch/mae). FILE ends in .npz, .h5 (needs h5py) or .parquet. .npz and .h5 files hold features (n d) and
names. For tiles of slides (names such as SLIDE/x000512_y001024.jpg) they also hold coords (n 2), as TRIDENT's files do.
"""

import argparse

from mae_jax.commands.predict import add_image_arguments, check_places
from mae_jax.runtime import signals
from mae_jax.runtime.parser import Existing, user_path

SUMMARY = "embed images with the encoder of a run or of any weights: an .npz, .h5 or .parquet file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `mae-jax embed`."""
    kinds = "a run directory, a bundle, or weights"
    parser.add_argument("run", metavar="RUN_OR_WEIGHTS", type=Existing(kinds, hub=True), help=kinds)
    add_image_arguments(parser)
    parser.add_argument("--out", required=True, type=user_path, metavar="FILE", help="an .npz, .h5 or .parquet file")
    parser.add_argument(
        "--pool", default="", choices=("cls", "mean", "both"),
        help="class token, mean of the patch tokens, or both (default: the input of the network's own classifier)",
    )  # fmt: skip


def main(options: argparse.Namespace) -> None:
    """Embeds the images, and prints what was written and skipped."""
    check_places(options, ".npz", ".h5", ".parquet")
    with signals.blocked():
        from mae_jax.predict import kinds
    kinds.kind_of_model(options.run, "RUN_OR_WEIGHTS")
    with signals.blocked():
        from mae_jax.predict import files
        from mae_jax.runtime import machine
    machine.keep_memory()
    machine.keep_compiled()
    files.embed(
        str(options.run), options.images, options.out,
        pool=options.pool, columns=options.columns, bad_images=options.bad_images, directory=str(options.dir or ""),
    )  # fmt: skip
