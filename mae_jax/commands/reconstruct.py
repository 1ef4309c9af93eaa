"""Compare reconstructions of several autoencoders on the same images with the same masks.

For each NAME (tissue, cells, ...) the command writes NAME.png, NAME.csv and NAME.json. The picture shows the originals,
the masked images, and each network's reconstructions without and with the visible patches pasted in. The table holds
the errors of every image and network, and the JSON file their means. DIR may be `synthetic-tissue` or `synthetic-cells`
for generated images.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from mae_jax.runtime import signals
from mae_jax.runtime.command import out_file, say
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.parser import Existing, Number, user_path
from mae_jax.runtime.places import local

SUMMARY = "compare reconstructions of several pre-trained autoencoders"
DRAWN = 200  # number of generated images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `mae-jax reconstruct`."""
    parser.add_argument(
        "run_dirs",
        nargs="+",
        type=Existing("the directory of a pre-training run"),
        metavar="RUN_DIR",
        help="directory of a pre-training run",
    )
    parser.add_argument("--images", action="append", required=True, metavar="NAME=DIR", help="images to reconstruct")
    parser.add_argument("--out", required=True, type=user_path, metavar="DIR", help="output folder")
    parser.add_argument(
        "--show", type=Number(int, 1), default=4, help="number of images of each DIR to draw (default 4)"
    )
    parser.add_argument(
        "--measure", type=Number(int, 1), default=100, help="number of images of each DIR to measure (default 100)"
    )
    parser.add_argument(
        "--mask-ratio",
        type=Number(float, 0, 1, open="low high"),
        default=0.75,
        help="fraction of patches to remove (default 0.75)",
    )
    parser.add_argument(
        "--mask-seed", type=Number(int, 0, 2**31 - 1), default=0, help="random seed of the masks (default 0)"
    )
    parser.add_argument(
        "--statistics",
        choices=("neighbours", "borrowed"),
        default="neighbours",
        help="for networks with normalized targets, the source of the mean and contrast of removed patches in the "
        "picture (default %(default)s); borrowed takes them from the original, which leaks the answer, and the "
        "picture says so",
    )


def check_options(options: argparse.Namespace) -> None:
    """Raises UserError if more images are drawn than measured, and for images with an unusable or repeated name."""
    if options.measure < options.show:
        raise UserError(f"--measure={options.measure} is below --show={options.show}; use at least {options.show}")
    names = [named(item)[0] for item in options.images]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"--images: the name {repeated[0]} occurs twice; give each DIR a different name")


def named(item: str) -> tuple[str, str]:
    """Splits NAME=DIR into NAME and DIR. Raises UserError if it has another form."""
    name, _, directory = item.partition("=")
    if not name or not directory or Path(name).name != name:
        raise UserError(f"--images={item} is not allowed; use NAME=DIR, for example --images tissue=DIR")
    return name, str(local(directory, "--images"))


def networks(options: argparse.Namespace) -> dict[str, tuple]:
    """Loads the networks: {name: (config, spec, params)}, with the requested mask ratio in `spec`.

    Raises UserError for networks whose images or patches differ in size.
    """
    from mae_jax.config.fields import as_dict, changed
    from mae_jax.config.validation import validate
    from mae_jax.evaluation.reconstruction import at_ratio
    from mae_jax.step import sharding
    from mae_jax.weights import initial_weights

    mesh, loaded = sharding.make_mesh(1), {}
    for directory in options.run_dirs:
        config, spec, params, step = initial_weights.autoencoder(directory, "RUN_DIR", mesh)
        changes = {"eval.mask_seed": options.mask_seed, "eval.mask_ratios": (options.mask_ratio,)}
        config = validate(changed(config, changes))
        name = directory.resolve().name
        name = str(directory) if name in loaded else name
        first = next(iter(loaded.values()), (None, spec))[1].shape
        if (first.image_size, first.patch_size) != (spec.shape.image_size, spec.shape.patch_size):
            raise UserError(
                f"RUN_DIR={directory} has images of {spec.shape.image_size} px in patches of {spec.shape.patch_size}, "
                f"but the first network has {first.image_size} px in patches of {first.patch_size}, so their masks "
                "differ; compare them separately"
            )
        say(f"{name}: step {step}, trained with {as_dict(config.mae)}")
        loaded[name] = config, at_ratio(spec, options.mask_ratio), params
    return loaded


def images(item: str, measure: int) -> tuple[str, list]:
    """NAME and [(source, indices)] of up to `measure` evenly spaced images."""
    with signals.blocked():
        import numpy as np

        from mae_jax.data import sources

    name, directory = named(item)
    if directory == "synthetic-tissue":
        source = sources.synthetic_unlabeled(2 * DRAWN, 96, 1)  # the first half is tissue
    elif directory == "synthetic-cells":
        source = sources.synthetic("TestA", DRAWN, 96, 1)
    else:
        source = sources.unlabeled_folder(directory, field="--images")
    count = DRAWN if directory == "synthetic-tissue" else len(source)
    return name, [(source, np.linspace(0, count - 1, min(measure, count)).round().astype(int))]


def main(options: argparse.Namespace) -> None:
    """Writes a picture, a table of errors and their means for each NAME."""
    check_options(options)
    sources = [images(item, options.measure) for item in options.images]
    with signals.blocked():
        from mae_jax.rundir import saved_runs
    for directory in options.run_dirs:
        saved_runs.pretraining_config_of(directory, "RUN_DIR")
    with signals.blocked():
        from mae_jax.evaluation import pixel_space, reconstruction_sheets
        from mae_jax.rundir import contents
        from mae_jax.runtime import files
        from mae_jax.step.objectives.reconstruction import masked

    for name, _ in map(named, options.images):
        for kind in ("png", "csv", "json"):
            out_file(options.out / f"{name}.{kind}", "--out")
    loaded = networks(options)
    for name, held in sources:
        chosen = reconstruction_sheets.in_turn(
            [(source, part[:: max(1, len(part) // options.show)]) for source, part in held], options.show
        )
        rows = []
        for network, (config, spec, params) in loaded.items():
            errors = reconstruction_sheets.errors(spec, params, held, config, options.mask_ratio)
            rows += [{"network": network} | row for row in errors]
        normalized = any(masked(spec).norm_pix for _, spec, _ in loaded.values())
        how = pixel_space.WORDS[options.statistics if normalized else ""]
        shown = ((network, spec, params) for network, (_, spec, params) in loaded.items())
        sheet = reconstruction_sheets.side_by_side(shown, chosen, options.mask_seed, options.statistics, pasted=True)
        reconstruction_sheets.write_errors(options.out / f"{name}.csv", rows)
        files.save_picture(options.out / f"{name}.png", sheet)
        means: list[dict[str, Any]] = [
            {"network": network} | reconstruction_sheets.means([row for row in rows if row["network"] == network])[0]
            for network in loaded
        ]
        about = {
            "images": sum(len(part) for _, part in held),
            "mask_seed": options.mask_seed,
            "picture": how,
            "means": means,
        }
        contents.write_json(options.out / f"{name}.json", about)
        for row in means:
            levels = [f"{255 * row[e] ** 0.5:.1f}" for e in ("removed_pixel", "removed_pixel_no_network")]
            say(
                f"{name}, {row['network']}: normalized error {row['removed_normalised']:.3f} on removed and "
                f"{row['visible_normalised']:.3f} on visible patches; RMS error on removed patches {levels[0]} of 255 "
                f"gray levels (mean color of neighbors: {levels[1]}); patch repetition {row['spam']:.2f}"
            )
        say(f"{name}: {options.out / name}.png, .csv, .json")
