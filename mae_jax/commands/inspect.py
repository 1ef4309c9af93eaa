"""Draw what the encoder of a finished run attends to, as one picture.

For each image, the picture shows the first three principal components of its patch features as colors, and the class
token's attention to each patch, averaged and for each head. The images are the run's test images or a pre-training's
held-out images, unless --images names others. The picture is also written to the run's TensorBoard files.
"""

import argparse

from mae_jax.runtime import signals
from mae_jax.runtime.command import out_file, say
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.parser import Existing, Number, user_path

SUMMARY = "draw attention maps and feature components of a run's encoder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `mae-jax inspect`."""
    kinds = "the directory of a finished run"
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Existing(kinds), help=kinds)
    parser.add_argument(
        "--images",
        type=Existing("a folder of images"),
        metavar="DIR",
        help="a folder of other images, searched recursively",
    )
    parser.add_argument("--n", type=Number(int, 1, 64), default=8, help="number of images, 1 to 64 (default 8)")
    parser.add_argument(
        "--block", type=Number(int, -1), default=-1, help="transformer block, counted from 0 (default -1, the last)"
    )
    parser.add_argument(
        "--out", type=user_path, metavar="PNG", help="picture to write (default: RUN_DIR/inspection.png)"
    )


def main(options: argparse.Namespace) -> None:
    """Draws the picture."""
    if options.out is not None:
        if options.out.suffix.lower() != ".png":
            raise UserError(f"--out={options.out} is not allowed; name a file ending in .png")
        out_file(options.out, "--out")
    with signals.blocked():
        from mae_jax.rundir import saved_runs
    saved_runs.trained_config_of(options.run_dir, "RUN_DIR")
    saved_runs.refuse_unfinished(options.run_dir, "RUN_DIR")
    with signals.blocked():
        from mae_jax.evaluation import inspect_run  # JAX starts here, not for --help or a wrong RUN_DIR

    images = str(options.images or "")
    out = inspect_run.run(options.run_dir, options.out, directory=images, n=options.n, block=options.block)
    say(f"written: {out}")
