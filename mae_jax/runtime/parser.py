"""The argument parser of all commands. It reports errors in one line and suggests similar options.

A path of the user has `type=user_path`: `~` is expanded, and remote addresses are refused. One that must exist has
`type=Existing("a run directory")`. A number has `type=Number(int, 1, 64)`, which states its range.
"""

import argparse
import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from mae_jax.runtime.disk import exists
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.places import hub_advice, local
from mae_jax.runtime.ranges import INF, Range


def user_path(text: str) -> str:
    """The `type` of a path of the user. `Parser` checks it as typed and makes it a Path, which would drop a slash."""
    return text


class Existing:
    """The `type` of a path of the user that must exist, so that a wrong one is refused before anything is imported.

    The message asks for `what`. With `hub`, a name such as owner/name gets advice on how to download it.
    """

    def __init__(self, what: str, hub: bool = False):
        self.what, self.hub = what, hub

    def __call__(self, text: str) -> str:
        return text

    def check(self, value: Path | list[Path], action: argparse.Action) -> None:
        """Raises UserError that names the argument if nothing is at one of its paths."""
        for path in value if isinstance(value, list) else [value]:
            if not exists(path):
                metavar = action.metavar if isinstance(action.metavar, str) else action.dest
                name = action.option_strings[-1] if action.option_strings else metavar
                raise UserError(
                    f"{name}={path} does not exist; {(self.hub and hub_advice(path)) or f'name {self.what}'}"
                )


class Number:
    """The `type` of a number: `kind` is int or float, the others are the attributes of a `Range`."""

    def __init__(self, kind: type[int] | type[float], low: float = -INF, high: float = INF, open: str = ""):
        self.kind, self.range = kind, Range(low, high, open)

    def __call__(self, text: str) -> int | float:
        try:
            return self.kind(text)
        except ValueError:
            what = "a whole number" if self.kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError instead of printing its usage and exiting."""

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)  # an option added later would change what a short form means
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        print(message, end="", file=file or sys.stderr)  # argparse would ignore that nothing can be written

    # The stub of argparse has an overload for each kind of namespace; one signature with Any covers them.
    def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> Any:
        known = self.options()
        for argument in args or ():
            if argument == "--":
                break
            if argument.startswith("--") and argument.partition("=")[0] not in known:  # before missing arguments
                self.error(f"unknown argument {argument!r}{did_you_mean(argument, known)}")
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown argument {unknown[0]!r}")
        actions = [each for parser in self._parsers() for each in parser._actions]
        for action in actions:
            value: Any = getattr(options, action.dest, None)
            name = action.option_strings[-1] if action.option_strings else ""
            if (action.type is user_path or isinstance(action.type, Existing)) and value:
                several = action.nargs not in (None, "?")
                setattr(
                    options, action.dest, [local(place, name) for place in value] if several else local(value, name)
                )
            if isinstance(action.type, Number) and value is not None and not action.type.range.holds(value):
                shown = f"{value:g}" if isinstance(value, float) else value
                raise UserError(f"{name or action.metavar}={shown} is out of range; allowed: {action.type.range.words}")
        for action in actions:
            if isinstance(action.type, Existing) and (value := getattr(options, action.dest, None)):
                action.type.check(value, action)
        return options

    def options(self) -> set[str]:
        """The options of this parser and of its sub-commands, such as --out."""
        return {option for parser in self._parsers() for option in parser._option_string_actions}

    def _parsers(self) -> list[argparse.ArgumentParser]:
        """This parser and those of its sub-commands."""
        subparsers = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return [self, *(parser for action in subparsers for parser in action.choices.values())]

    def required(self) -> list[str]:
        """The names of the required arguments."""
        actions = [a for a in self._actions if a.required and a.nargs not in ("*", "?")]
        return [a.option_strings[-1] if a.option_strings else str(a.metavar or a.dest) for a in actions]


def did_you_mean(word: str, known: Any, form: str = "{}") -> str:
    """A hint such as " (did you mean --out?)", or "" if nothing in `known` is similar."""
    near = difflib.get_close_matches(word.partition("=")[0], list(known), 1, cutoff=0.7)
    return f" (did you mean {form.format(near[0])}?)" if near else ""
