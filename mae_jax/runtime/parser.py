"""The argument parser of all commands. It reports errors in one line and suggests similar options.

A path of the user has `type=user_path`: `~` is expanded, and remote addresses are refused. A number has
`type=Number(int, 1, 64)`, which states its range.
"""

import argparse
import difflib
from collections.abc import Iterable
from typing import Any, NoReturn

from mae_jax.runtime.errors import UserError
from mae_jax.runtime.places import local
from mae_jax.runtime.ranges import INF, Range


def user_path(text: str) -> str:
    """The `type` of a path of the user. `Parser` checks it as typed and makes it a Path, which would drop a slash."""
    return text


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
        for action in [each for parser in self._parsers() for each in parser._actions]:
            value: Any = getattr(options, action.dest, None)
            name = action.option_strings[-1] if action.option_strings else ""
            if action.type is user_path and value:
                several = (
                    [local(place, name) for place in value] if action.nargs not in (None, "?") else local(value, name)
                )
                setattr(options, action.dest, several)
            if isinstance(action.type, Number) and value is not None and not action.type.range.holds(value):
                shown = f"{value:g}" if isinstance(value, float) else value
                raise UserError(f"{name or action.metavar}={shown} is out of range; allowed: {action.type.range.words}")
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
