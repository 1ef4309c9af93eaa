"""Estimate in a few minutes how many labels are enough for your own images.

mae-jax quick PLACE [--unlabeled DIR] [--init ENCODER] [--arm ARM]

PLACE holds labeled images: DIR/<split>/<Class>/*, DIR/<Class>/*, or a CSV or Parquet file with the columns path and
label (see mae-jax check). The command searches the images for leaks and pre-trains a small network on the unlabeled
images, or on the training images if there are none. It then fits linear probes on the frozen encoder, on random
weights, on color histograms and on measurements of the nucleus, at several numbers of labels. It writes a report, and
prints what the full study would add and how long it would take. 2,000 cells take about five minutes on two cores. Rerun
the command to resume it.

ENCODER is the directory of a pre-training run, or weights of Hugging Face, timm or facebookresearch/mae. It replaces
the pre-training. Each ARM is compared with them: NAME=features:FILE for features that other software computed, or
NAME=PATH for another encoder.
"""

import argparse
from pathlib import Path

from mae_jax.commands.check import add_label_arguments, file_name, label_fields, option_names
from mae_jax.runtime import signals
from mae_jax.runtime.command import say
from mae_jax.runtime.disk import exists
from mae_jax.runtime.option_names import replaced
from mae_jax.runtime.parser import Existing, Number, user_path
from mae_jax.runtime.places import expanded

STEPS = "a search for leaks, a small pre-training, linear probes, a report"
SUMMARY = "get a first answer for your own images in minutes: leak check, small pre-training, probes, report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `mae-jax quick`."""
    kinds = "a folder of labeled images, or a CSV or Parquet file of labels"
    parser.add_argument("place", metavar="PLACE", type=Existing(kinds), help=kinds)
    parser.add_argument("--unlabeled", default="", metavar="DIR[,DIR...]", help="images to pre-train on")
    parser.add_argument("--unlabelled", dest="unlabeled", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--init", type=user_path, metavar="ENCODER", help="an encoder to probe instead of a pre-training"
    )
    parser.add_argument(
        "--arm", action="append", default=[], metavar="ARM",
        help="one more arm to compare, as in config.inits: [NAME=]features:FILE, or [NAME=]PATH of an encoder; may be "
        "repeated",
    )  # fmt: skip
    add_label_arguments(parser)
    parser.add_argument(
        "--bad_images", default="stop", choices=("stop", "skip"),
        help="what to do if an image cannot be read (default stop)",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=Number(int, 1, 100), default=3, help="random subsets per number of labels (default 3)"
    )
    parser.add_argument("--steps", type=Number(int, 1), default=400, help="updates of the pre-training (default 400)")
    parser.add_argument("--workdir", type=user_path, metavar="DIR", help="output folder (default: runs/quick-PLACE)")
    parser.add_argument("--no_plan", action="store_true", help="do not measure how long the full study would take")


def main(options: argparse.Namespace) -> None:
    """Checks the images, runs the small study and prints what the full one adds."""
    place, init = options.place, str(options.init or "")
    unlabeled = expanded(options.unlabeled, "--unlabeled", "several")
    workdir = options.workdir or Path("runs") / f"quick-{file_name(place)}"
    with signals.blocked():
        from mae_jax import main as study_command
        from mae_jax.data.splits import DataCache
        from mae_jax.datasets.check import check
        from mae_jax.study import quick
    cache = DataCache()  # each image is decoded once, for the check, the study and the plan
    fields = label_fields(options, place) | {"bad_images": options.bad_images}
    names = option_names(place, "PLACE") | {"bad_images": "--bad_images"}
    with replaced(names):
        if init and unlabeled:
            say(f"note: --unlabeled={unlabeled} is not used, because --init={init} takes the place of a pre-training")
        say(f"a quick look at {place}, in {workdir}: {STEPS}")
        config = quick.configured(fields, unlabeled, init, options.seeds, options.steps, cache, options.arm)
        with signals.blocked():
            from mae_jax.runtime import machine  # JAX starts here, not for a wrong PLACE
        machine.keep_memory()
        findings = workdir / "check.csv"
        if not exists(findings):
            check(str(place), "", findings, fields=fields, options=names, cache=cache)
        study_command.run(config, workdir, cache)
    if not options.no_plan:
        say("\nmeasuring how long the full study would take")
        for line in quick.what_more(config, cache):
            say(line)
