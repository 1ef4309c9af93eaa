"""Runs what a config says. On the command line: mae-jax run --config=FILE[:ARG], or python -m mae_jax.main.

In a notebook:

    from mae_jax import config, main
    main.run(config.load("configs/demo.py", "smoke"), "runs/demo")
"""

from mae_jax.runtime import signals

if __name__ == "__main__":
    signals.block()  # until the imports are done

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from mae_jax.config import usage
from mae_jax.config.loading import check_arguments, config_argument, config_file
from mae_jax.config.naming import run_directory
from mae_jax.runtime.command import call_computing, say
from mae_jax.runtime.errors import EXIT_USER_ERROR, UserError
from mae_jax.study import validation
from mae_jax.study.results import TASKS, Results

if __name__ == "__mp_main__":  # a process that loads images for the command
    logging.set_verbosity(logging.FATAL)

HELP = ("-h", "--h", "-help", "--help", "--helpshort", "--helpfull")
_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE[:ARG]: a file of configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; default: a descriptive name under runs/.")


def run(config: ConfigDict, workdir: str | os.PathLike | None = None) -> Results:
    """Runs the task of `config`: one run, a study or a sweep. Resumes what an earlier call left in `workdir`.

    Returns what results.json says, or the rows of the report's table. Raises UserError for a mistake of the user, and
    `errors.Stopped` after a signal, with the state saved.
    """
    checked = validation.check(config)
    validation.check_images(checked)
    directory = run_directory(checked, Path(workdir).expanduser() if workdir else None)
    from mae_jax.study import label_study, mask_sweep
    from mae_jax.train import loop

    _start_jax()
    several = {"study": label_study, "sweep": mask_sweep}
    found = several.get(checked.task, loop).run(checked, directory)
    return Results(found, directory, checked.task, checked.name)


def plan(config: ConfigDict, workdir: str | os.PathLike | None = None, timed: bool = True) -> list[str]:
    """What `run` would do, in lines; writes nothing in `workdir`.

    `timed`: measure a few training steps and estimate how long everything takes. Raises UserError as `run` does.
    """
    checked = validation.check(config)
    validation.check_images(checked)
    directory = run_directory(checked, Path(workdir).expanduser() if workdir else None)
    from mae_jax.study import preview

    _start_jax()
    from mae_jax.runtime import machine, processes

    for line in machine.devices():
        processes.note(line)
    return [f"{TASKS.get(checked.task, checked.task)} in {directory}", *preview.lines(checked, directory, timed)]


def _start_jax() -> None:
    """Starts JAX, with the other processes if there are several."""
    from mae_jax.runtime import machine, processes

    machine.keep_memory()
    processes.start_processes()


def parse(argv: list[str]) -> list[str]:
    """Reads the flags. Raises UserError, where ml_collections would print its own stack trace."""
    check_arguments(argv[1:])
    try:
        return flags.FLAGS(_with_shipped_config(argv))
    except (flags.Error, ValueError) as error:  # absl's own, for --noFLAG=VALUE
        raise UserError(" ".join(str(error).split())) from None


def _with_shipped_config(argv: list[str]) -> list[str]:
    """`argv` with the path of the config file that is used, which may be one that mae_jax ships."""
    found = list(argv)
    for i, argument in enumerate(argv[1:], 1):
        name, equals, value = argument.partition("=")
        at = i if equals else i + 1
        if name.lstrip("-") == "config" and name.startswith("-") and (equals or at < len(argv)):
            path, colon, arg = (value if equals else argv[at]).partition(":")
            found[at] = f"{name}=" * bool(equals) + f"{config_file(path)}{colon}{arg}"
    return found


def run_command(config: ConfigDict, workdir: str | None) -> None:
    """Runs a config and prints the results of a single run; a study prints its report's table."""
    results = run(config, workdir)
    if results.is_single:
        import jax

        if jax.process_index() == 0:
            say(f"\n{results}")


def cli(
    argv: Sequence[str] | None = None,
    verb: str = "run",
    command: Callable[[ConfigDict, str | None], None] = run_command,
    text: str = "Runs the task of a config file. Rerun the same command to resume it.",
    more: str = "",
) -> NoReturn:
    """The process: one line and a non-zero exit code for a user's mistake, a stack trace for ours.

    `argv`: the arguments without the program's name; by default those of the process. `command` is called with the
    config and the --workdir that they give. `verb`, `text` and `more`, an option of its own, are for its help.
    """
    logging.set_verbosity(logging.FATAL)  # Orbax, Grain and CLU log every file; errors come as exceptions
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # otherwise it prints a note; nothing is computed with it
    line = list(sys.argv[1:] if argv is None else argv)

    def main(rest: list[str]) -> None:
        if rest[1:]:
            raise UserError(f"unknown argument {rest[1]!r}; see mae-jax {verb} --help")
        if _CONFIG.value is None:
            raise UserError("--config is missing; use one of configs/, for example --config=configs/demo.py")
        command(_CONFIG.value, _WORKDIR.value)

    def start() -> int:
        if not line:
            print(usage.overview(verb, text, more), file=sys.stderr)
            print(f"\nerror: mae-jax {verb} needs --config", file=sys.stderr)
            return EXIT_USER_ERROR
        if asked := [argument for argument in line if argument in HELP]:
            config = config_argument([argument for argument in line if argument not in asked])
            print(usage.overview(verb, text, more) if config is None else usage.of_config(*config))
            return 0
        app.run(main, argv=[sys.argv[0], *line], flags_parser=parse)
        return 0

    with signals.collect_signals(alone=True):
        call_computing(start)


if __name__ == "__main__":
    cli()
