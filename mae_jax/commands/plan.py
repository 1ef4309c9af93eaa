"""Prints what `mae-jax run` would do with the same arguments, and about how long it would take. Trains nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mae_jax.runtime import signals

if TYPE_CHECKING:
    from ml_collections import ConfigDict

SUMMARY = "print what a run or study would do, and how long it would take, without running it"
UNTIMED = "--untimed"
MORE = f"{UNTIMED}                      do not measure training steps; gives no time"


def run_argv(argv: list[str]) -> None:
    """Reads the flags of `mae-jax run` and prints the plan; ends the process."""
    with signals.blocked():
        from mae_jax import main
    timed = UNTIMED not in argv

    def command(config: ConfigDict, workdir: str | None) -> None:
        for line in main.plan(config, workdir, timed):
            main.say(line)

    assert __doc__
    main.cli([argument for argument in argv if argument != UNTIMED], "plan", command, __doc__, MORE)
