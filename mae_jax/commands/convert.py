"""Convert weights from and to other code.

mae-jax convert import SRC OUT [--heads N] [--leave REGEX]
mae-jax convert export RUN_DIR OUT --format hf|timm|onnx|mae_jax

import converts a file or folder of Hugging Face, timm or facebookresearch/mae weights to a folder that `init=OUT` reads
without PyTorch, and prints what it contains.

export writes the network of a finished run with a model card. The formats hf and timm are folders for transformers and
timm. The format onnx is one file for ONNX Runtime and other software, with classes, preprocessing and temperature in
its metadata. The format mae_jax is a bundle: one folder with weights, probe, classes, preprocessing and temperature.
`mae-jax predict` and `mae_jax.load` open it on any machine.
"""

import argparse

from mae_jax.runtime import signals
from mae_jax.runtime.command import refuse_filled, refuse_old_file, say
from mae_jax.runtime.parser import Existing, Number, user_path
from mae_jax.runtime.text import count

SUMMARY = "convert weights: from Hugging Face, timm and facebookresearch/mae, or to them and to ONNX; make a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `mae-jax convert`."""
    commands = parser.add_subparsers(dest="command", metavar="import|export", required=True)
    inward = commands.add_parser("import", help="convert weights of other code to a folder for init=OUT")
    kinds = "a file or folder of weights"
    inward.add_argument("source", metavar="SRC", type=Existing(kinds, hub=True), help=kinds)
    inward.add_argument("out", metavar="OUT", type=user_path, help="a new folder")
    inward.add_argument(
        "--heads", type=Number(int, 1), metavar="N", help="attention heads, if no config.json states them"
    )
    inward.add_argument("--leave", default="", metavar="REGEX", help="ignore the keys that match")
    outward = commands.add_parser("export", help="write a run's network for other code, or as a bundle")
    kinds = "the directory of a finished run"
    outward.add_argument("run_dir", metavar="RUN_DIR", type=Existing(kinds), help=kinds)
    outward.add_argument("out", metavar="OUT", type=user_path, help="a new folder; with --format onnx a new file")
    outward.add_argument("--format", choices=("hf", "timm", "onnx", "mae_jax"), required=True)


def main(options: argparse.Namespace) -> None:
    """Converts, and prints notes and the output folder."""
    check_places(options)
    with signals.blocked():
        from mae_jax.weights import reader  # noqa: F401 (JAX starts here, not for --help or a wrong path)
    notes = import_weights(options) if options.command == "import" else export_run(options)
    for line in notes:
        say(f"note: {line}")
    say(f"written: {options.out}")


def check_places(options: argparse.Namespace) -> None:
    """Raises UserError for a source or OUT that cannot be used. JAX is not needed for that."""
    with signals.blocked():
        from mae_jax.rundir import saved_runs
        from mae_jax.weights import arrays
    if options.command == "import":
        arrays.files_of(options.source, "SRC")
    else:
        saved_runs.config_of(options.run_dir, "RUN_DIR")
        saved_runs.refuse_unfinished(options.run_dir, "RUN_DIR")
    if options.command == "export" and options.format == "onnx":
        refuse_old_file(options.out, "OUT", ".onnx")
    else:
        refuse_filled(options.out, "OUT")


def import_weights(options: argparse.Namespace) -> list[str]:
    """Imports weights, prints a summary, and returns notes."""
    import jax

    from mae_jax.weights import export, reader
    from mae_jax.weights.writer import write

    weights = reader.read(options.source, "SRC", options.heads or 0, options.leave)
    partial = export.new_folder(options.out)
    write(weights, partial, "own")
    export.put_in_place(partial, options.out)
    s = weights.shape
    for part, params in weights.params.items():
        sizes = [leaf.size for leaf in jax.tree.leaves(params)]
        say(f"{part}: {sum(sizes):,} values in {count(len(sizes), 'array')}, all accounted for")
    details = (
        f", {s.heads} heads, {s.positions} positions, {s.registers} registers, "
        f"{'with' if s.layer_scale else 'no'} layer scale, epsilon {s.norm_eps:g}"
    )
    say(f"network: {s.words}{details if s.family == 'vit' else ''}")
    return list(weights.notes)


def export_run(options: argparse.Namespace) -> list[str]:
    """Exports a run, and returns notes."""
    from mae_jax.predict import exporting

    return exporting.export(options.run_dir, options.out, options.format)
