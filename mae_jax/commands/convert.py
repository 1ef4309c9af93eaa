"""Convert weights from and to other code.

mae-jax convert import SRC OUT [--heads N] [--leave REGEX]
mae-jax convert export RUN_DIR OUT --format hf|timm|mae_jax

import: turns a file or folder of Hugging Face, timm or facebookresearch/mae weights into a folder that `init=OUT` reads
without PyTorch, and prints what was found. export: writes the network of a finished run, with a model card, for
transformers (ViTMAEForPreTraining, ViTForImageClassification) or timm, or as a bundle (mae_jax): one folder with the
weights, the classifier of a probe, classes, preprocessing and temperature, which `mae-jax predict` and `mae_jax.load`
open on another machine.
"""

import argparse
from pathlib import Path

from mae_jax.runtime import signals
from mae_jax.runtime.command import say

SUMMARY = "convert weights: from Hugging Face, timm and facebookresearch/mae, or to them; make a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mae-jax convert`."""
    commands = parser.add_subparsers(dest="command", metavar="import|export", required=True)
    inward = commands.add_parser("import", help="other code's weights to a folder for init=OUT")
    inward.add_argument("source", metavar="SRC", type=Path, help="a file or folder of weights")
    inward.add_argument("out", metavar="OUT", type=Path, help="a new folder")
    inward.add_argument("--heads", type=int, default=0, help="attention heads, where no config.json states them")
    inward.add_argument("--leave", default="", metavar="REGEX", help="leave out the keys in which it is found")
    outward = commands.add_parser("export", help="a run's network to a folder for other code")
    outward.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the directory of a finished run")
    outward.add_argument("out", metavar="OUT", type=Path, help="a new folder")
    outward.add_argument("--format", choices=("hf", "timm", "mae_jax"), required=True)


def main(options: argparse.Namespace) -> None:
    """Converts, and prints notes and where the weights are."""
    with signals.blocked():
        from mae_jax.weights import reader  # noqa: F401 (JAX starts here, not for --help)
    notes = import_weights(options) if options.command == "import" else export_run(options)
    for line in notes:
        say(f"note: {line}")
    say(f"written: {options.out}")


def import_weights(options: argparse.Namespace) -> list[str]:
    """Imports, and prints what was found."""
    import jax

    from mae_jax.weights import export, reader
    from mae_jax.weights.writer import write

    weights = reader.read(options.source, "SRC", options.heads, options.leave)
    partial = export.new_folder(options.out)
    write(weights, partial, "own")
    export.put_in_place(partial, options.out)
    s = weights.shape
    for part, params in weights.params.items():
        sizes = [leaf.size for leaf in jax.tree.leaves(params)]
        say(f"{part}: {sum(sizes):,} values in {len(sizes)} arrays, all accounted for")
    say(
        f"network: {s.width} features, {s.depth} blocks, {s.heads} heads, {s.image_size} px in patches of "
        f"{s.patch_size}, {s.positions} positions, {s.registers} registers, "
        f"{'with' if s.layer_scale else 'no'} layer scale, epsilon {s.norm_eps:g}"
    )
    return list(weights.notes)


def export_run(options: argparse.Namespace) -> list[str]:
    """Exports."""
    if options.format == "mae_jax":
        from mae_jax.predict import exporting

        return exporting.export_bundle(options.run_dir, options.out)
    from mae_jax.weights import export

    return export.export(options.run_dir, options.out, options.format)
