"""The sub-commands of `mae-jax`, one module each.

A command module has a docstring, which `--help` prints, and three names:

    SUMMARY = "one line for the list of commands"
    def add_arguments(parser: argparse.ArgumentParser) -> None: ...
    def main(options: argparse.Namespace) -> int | None: ...

`main` returns the exit code, or None for 0. A command that parses its own arguments defines
`run_argv(argv: list[str]) -> int | None` instead of the last two.

At the top of its module, a command imports only the standard library and `mae_jax.runtime`, so that arguments are
checked before NumPy or JAX is imported. These imports run inside `with signals.blocked():`, so that Ctrl-C during an
import prints one line instead of a traceback.
"""

import importlib
from types import ModuleType

VERBS = (  # in the order in which `mae-jax` lists them
    "quick",
    "run",
    "plan",
    "report",
    "predict",
    "embed",
    "select",
    "robustness",
    "runs",
    "check",
    "prepare",
    "convert",
    "inspect",
    "reconstruct",
    "doctor",
    "version",
)


def load(verb: str) -> ModuleType:
    """Imports the module of a command in VERBS."""
    return importlib.import_module(f"mae_jax.commands.{verb}")


def overview() -> str:
    """The list of commands that a bare `mae-jax` prints."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {load(verb).SUMMARY}" for verb in VERBS]
    return "\n".join(
        [
            "usage: mae-jax COMMAND [ARGUMENTS]     the same as: python -m mae_jax COMMAND [ARGUMENTS]",
            "",
            "Masked autoencoders for histopathology: how few labels are enough?",
            "",
            *lines,
            "",
            "mae-jax COMMAND --help explains a command. To try it: mae-jax run --config=configs/demo.py:smoke",
        ]
    )
