"""The command line: `mae-jax COMMAND` and `python -m mae_jax COMMAND`."""

import sys

from mae_jax.runtime.blocking import block

if __name__ == "__main__" or sys.argv[0].endswith("mae-jax"):
    block()  # until the command has imported what it needs

from collections.abc import Sequence
from typing import NoReturn

from mae_jax import commands
from mae_jax.runtime.command import call, quiet_libraries
from mae_jax.runtime.errors import EXIT_USER_ERROR, UserError
from mae_jax.runtime.parser import Parser, did_you_mean


def dispatch(argv: Sequence[str]) -> int:
    """Runs one command and returns its exit code. Raises UserError for unknown arguments."""
    verb, *rest = argv or [""]
    if not verb:
        print(commands.overview(), file=sys.stderr)
        return EXIT_USER_ERROR
    if verb in ("-h", "--help", "help"):
        print(commands.overview())
        return 0
    if verb == "--version":
        verb = "version"
    if verb not in commands.VERBS:
        hint = did_you_mean(verb, commands.VERBS)
        raise UserError(f"{verb!r} is not a command of mae-jax{hint}; mae-jax --help lists them")
    command = commands.load(verb)
    if hasattr(command, "run_argv"):
        return command.run_argv(rest) or 0
    parser = Parser(prog=f"mae-jax {verb}", description=command.__doc__)
    command.add_arguments(parser)
    if not rest and (missing := parser.required()):
        print(parser.format_help(), file=sys.stderr)
        raise UserError(f"{parser.prog} needs {', '.join(missing)}")
    return command.main(parser.parse_args(rest)) or 0


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point. A user's mistake prints one line and exits non-zero; a bug in mae_jax prints a stack trace."""
    block()
    quiet_libraries()
    call(dispatch, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    main()
