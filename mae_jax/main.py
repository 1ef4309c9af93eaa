"""Runs the task of a config.

On the command line: mae-jax run --config=FILE[:ARG], or python -m mae_jax.main --config=FILE[:ARG].

In a notebook:

    from mae_jax import config, main
    main.run(config.load("configs/demo.py", "smoke"), "runs/demo")
"""

from mae_jax.runtime.blocking import block

if __name__ == "__main__":
    block()  # until the imports are done

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from mae_jax.config import usage
from mae_jax.config.fields import AnyConfig
from mae_jax.config.loading import check_arguments, config_argument, config_file, loaded_values, remember
from mae_jax.config.naming import run_directory
from mae_jax.config.tasks import in_words
from mae_jax.rundir import contents, lock
from mae_jax.runtime import limits, signals
from mae_jax.runtime.command import call, call_computing, quiet_libraries, say
from mae_jax.runtime.disk import exists
from mae_jax.runtime.errors import EXIT_USER_ERROR, UserError, end_scripts_in_one_line
from mae_jax.runtime.parser import did_you_mean
from mae_jax.runtime.places import local
from mae_jax.study import unused, validation
from mae_jax.study.results import Results

if TYPE_CHECKING:
    from mae_jax.data.splits import DataCache

if __name__ == "__mp_main__":  # a worker process that loads images
    logging.set_verbosity(logging.FATAL)

HELP = ("-h", "--h", "-help", "--help", "--helpshort", "--helpfull")


def _define_config() -> flags.FlagHolder:
    """The flag --config. Raises UserError for a --flagfile that cannot be read, because this reads it."""
    try:
        return config_flags.DEFINE_config_file(
            "config", None, "FILE[:ARG]: a config and its arguments.", lock_config=True
        )
    except flags.Error as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, OSError):
            wrong = UserError(f"--flagfile={cause.filename} cannot be read: {cause.strerror}; name a file of arguments")
        else:
            wrong = UserError(f"--flagfile: {' '.join(str(cause or error).split())}")
    except UnicodeDecodeError as error:
        argument = next((a for a in sys.argv if a.lstrip("-").startswith("flagfile=")), "--flagfile")
        wrong = UserError(f"{argument} is not UTF-8 text ({error}); save it as UTF-8")
    if __name__ == "__main__":
        call(_refuse, wrong)
    raise wrong


def _refuse(error: UserError) -> None:
    raise error


_CONFIG = _define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; default: a descriptive name under runs/.")


def run(config: ConfigDict, workdir: str | os.PathLike | None = None, cache: "DataCache | None" = None) -> Results:
    """Runs the task of `config`: one run, a study or a sweep. Resumes what an earlier call left in `workdir`.

    `cache` keeps the images for further calls. Returns the content of results.json, or the rows of the report's table.
    Raises UserError for a mistake of the user, and `errors.Stopped` after a signal, when the state is saved.
    """
    limits.leave_imported_script()
    end_scripts_in_one_line()
    quiet_libraries()
    limits.refuse_little_memory()
    limits.refuse_few_threads()
    checked = validation.check(config)
    directory = run_directory(checked, local(workdir, "--workdir") if workdir else None)
    _refuse_unused(config, checked, directory)
    validation.check_images(checked)
    if not exists(directory / contents.RESULTS):
        validation.check_start(checked)
    lock.refuse_unusable(directory)
    from mae_jax.study import label_study, mask_sweep
    from mae_jax.train import loop

    _start_jax()
    runner = {"study": label_study, "sweep": mask_sweep}.get(checked.task, loop)
    return Results(runner.run(checked, directory, cache=cache), directory, checked.task, checked.name)


def plan(config: ConfigDict, workdir: str | os.PathLike | None = None, timed: bool = True) -> list[str]:
    """Describes in lines of text what `run` would do. Writes nothing to `workdir`.

    If `timed`, measures a few training steps and estimates the total time. Raises UserError as `run` does.
    """
    end_scripts_in_one_line()
    quiet_libraries()
    checked = validation.check(config)
    directory = run_directory(checked, local(workdir, "--workdir") if workdir else None)
    _refuse_unused(config, checked, directory)
    validation.check_images(checked)
    from mae_jax.study import preview

    _start_jax()
    from mae_jax.runtime import machine, processes

    for line in machine.devices():
        processes.note(line)
    return [f"{in_words(checked.task)} in {directory}", *preview.lines(checked, directory, timed)]


def _refuse_unused(config: ConfigDict, checked: AnyConfig, directory: Path) -> None:
    """Raises UserError for a field that was set and has no effect.

    Configs that do not come from a file, such as those of earlier runs, may have such fields. So may runs started from
    them.
    """
    loaded = loaded_values(config)
    if loaded is not None and not any(exists(directory / name) for name in (contents.CONFIG, contents.STUDY)):
        unused.refuse(checked, loaded)


def _start_jax() -> None:
    """Starts JAX, and joins the other processes if there are several."""
    from mae_jax.runtime import machine, processes

    machine.keep_memory()
    processes.start_processes()


def parse(argv: list[str]) -> list[str]:
    """Parses the flags. Raises UserError where ml_collections would print a stack trace."""
    of_file = check_arguments(argv[1:])
    try:
        rest = flags.FLAGS(_with_shipped_config(argv))
        if _CONFIG.value is not None:
            remember(_CONFIG.value, of_file)
        return rest
    except flags.UnrecognizedFlagError as error:
        argument = f"--{error.flagname}"
        hint = did_you_mean(argument, ("--config", "--workdir", "--help"))
        raise UserError(f"unknown argument {argument!r}{hint}; --help lists the arguments") from None
    except (flags.Error, ValueError) as error:  # absl raises ValueError for --noFLAG=VALUE
        raise UserError(" ".join(str(error).split())) from None


def _with_shipped_config(argv: list[str]) -> list[str]:
    """`argv` with the config file replaced by its full path, which may be a file that mae_jax ships."""
    resolved = list(argv)
    for i, argument in enumerate(argv[1:], 1):
        name, equals, value = argument.partition("=")
        at = i if equals else i + 1
        if name.lstrip("-") == "config" and name.startswith("-") and (equals or at < len(argv)):
            path, colon, arg = (value if equals else argv[at]).partition(":")
            resolved[at] = f"{name}=" * bool(equals) + f"{config_file(path)}{colon}{arg}"
    return resolved


def run_command(config: ConfigDict, workdir: str | None) -> None:
    """Runs a config and prints the results of a single run. A study prints the table of its report itself."""
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
    """Entry point of a command that takes a config.

    A user's mistake prints one line and exits non-zero; a bug in mae_jax prints a stack trace. `argv` are the arguments
    without the program name, by default those of the process. `command` is called with the config and --workdir.
    `verb`, `text` and `more` (an extra option) appear in the help.
    """
    logging.set_verbosity(logging.FATAL)  # Orbax, Grain and CLU log every file; errors come as exceptions
    quiet_libraries()
    arguments = list(sys.argv[1:] if argv is None else argv)

    def main(rest: list[str]) -> None:
        if rest[1:]:
            raise UserError(f"unknown argument {rest[1]!r}; see mae-jax {verb} --help")
        if _CONFIG.value is None:
            raise UserError("--config is missing; use one of configs/, for example --config=configs/demo.py")
        command(_CONFIG.value, _WORKDIR.value)

    def start() -> int:
        if not arguments:
            print(usage.overview(verb, text, more), file=sys.stderr)
            print(f"\nerror: mae-jax {verb} needs --config", file=sys.stderr)
            return EXIT_USER_ERROR
        if any(argument in HELP for argument in arguments):
            config = config_argument([argument for argument in arguments if argument not in HELP])
            print(usage.overview(verb, text, more) if config is None else usage.of_config(*config))
            return 0
        app.run(main, argv=[sys.argv[0], *arguments], flags_parser=parse)
        return 0

    with signals.collect_signals(alone=True):
        call_computing(start)


if __name__ == "__main__":
    cli()
