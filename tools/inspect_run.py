"""What the encoder of a finished run looks at, as one picture.

python tools/inspect_run.py RUN_DIR [--images DIR] [--n 8] [--block -1] [--out PNG]

For each image: the first three principal components of its patches' features as colours, and what the class token
takes from each patch, as mean and for each attention head. The images are the run's test images, or those that a
pre-training held out, unless --images names others. The picture also goes into the run's TensorBoard files.
"""

from mae_jax.runtime import signals

if __name__ == "__main__":
    signals.hold()  # until the imports are done

import argparse
import os
from pathlib import Path

from mae_jax.runtime.command import call, out_file, say
from mae_jax.runtime.errors import UserError


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the directory of a finished run")
    parser.add_argument("--images", default="", metavar="DIR", help="other images, at any depth of a folder")
    parser.add_argument("--n", type=int, default=8, help="how many images, 1 to 64 (default 8)")
    parser.add_argument("--block", type=int, default=-1, help="which block, from 0; the last is -1 (default)")
    parser.add_argument("--out", type=Path, metavar="PNG", help="where the picture goes (RUN_DIR/inspection.png)")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    with signals.held():
        from mae_jax.evaluation import inspect_run  # JAX starts here, not for --help

    if not 1 <= options.n <= 64:
        raise UserError(f"--n={options.n} is out of range; allowed: [1, 64]")
    if options.out is not None:
        if options.out.suffix.lower() != ".png":
            raise UserError(f"--out={options.out} is not allowed; name a file that ends in .png")
        out_file(options.out, "--out")
    out = inspect_run.run(options.run_dir, options.out, directory=options.images, n=options.n, block=options.block)
    say(f"written: {out}")


if __name__ == "__main__":
    call(main)
