"""The command line: python -m mae_jax.main --config=configs/demo.py[:key=value,...] [--workdir=DIR].

Any field is overridden with --config.FIELD=VALUE, for example --config.train.epochs=5. In a notebook:

    from mae_jax import config, main
    main.run(config.load("configs/demo.py"), "runs/demo")
"""

from mae_jax.runtime import signals

if __name__ == "__main__":
    signals.block()  # until the imports are done

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from mae_jax.config.loading import check_arguments
from mae_jax.config.naming import run_directory
from mae_jax.runtime.command import call_computing
from mae_jax.runtime.errors import UserError
from mae_jax.study import validation

if __name__ == "__mp_main__":  # a process that loads images for the command
    logging.set_verbosity(logging.FATAL)

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE[:ARG]: a file of configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; by default a speaking name below runs/.")


def run(config: ConfigDict, workdir: str | os.PathLike | None = None) -> dict[str, Any]:
    """Runs what `config.task` says, and returns its results. Raises UserError for a user's mistake."""
    checked = validation.check(config)
    validation.check_images(checked)
    from mae_jax.runtime import machine, processes  # JAX starts here, not for --help
    from mae_jax.study import label_study, mask_sweep
    from mae_jax.train import loop

    machine.keep_memory()
    processes.start_processes()
    several = {"study": label_study, "sweep": mask_sweep}
    return several.get(checked.task, loop).run(checked, run_directory(checked, workdir))


def parse(argv: list[str]) -> list[str]:
    """Reads the flags. Raises UserError, where ml_collections would print its own stack trace."""
    check_arguments(argv[1:])
    try:
        return flags.FLAGS(argv)
    except (flags.Error, ValueError) as error:  # absl's own, for --noFLAG=VALUE
        raise UserError(" ".join(str(error).split())) from None


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise UserError(f"argument {argv[1]!r} is not known; see --help")
    if _CONFIG.value is None:
        raise UserError("--config is missing; use one of configs/, for example --config=configs/demo.py")
    run(_CONFIG.value, _WORKDIR.value)


def cli(argv: Sequence[str] | None = None) -> NoReturn:
    """The process: one line and a non-zero exit for a user's mistake, a stack trace for ours.

    `argv`: the arguments without the program's name; by default those of the process.
    """
    logging.set_verbosity(logging.FATAL)  # Orbax, Grain and CLU log every file; errors come as exceptions
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else it prints a note; nothing is computed in it
    line = sys.argv if argv is None else [sys.argv[0], *argv]
    with signals.collect_signals(alone=True):
        call_computing(lambda: app.run(main, argv=list(line), flags_parser=parse))


if __name__ == "__main__":
    cli()
