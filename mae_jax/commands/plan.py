"""Print what `mae-jax run` would do with the same arguments, and about how long it would take. Nothing is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mae_jax.runtime import signals

if TYPE_CHECKING:
    from ml_collections import ConfigDict

SUMMARY = "print what a run or study would do, and how long it would take, without running it"
UNTIMED = "--untimed"
MORE = f"{UNTIMED}                      do not measure training steps, and print no times"


def run_argv(argv: list[str]) -> None:
    """Parses the flags of `mae-jax run`, prints the plan and exits the process."""
    with signals.blocked():
        from mae_jax import main
    timed = UNTIMED not in argv

    def command(config: ConfigDict, workdir: str | None) -> None:
        for line in main.plan(config, workdir, timed):
            main.say(line)

    assert __doc__
    main.cli([argument for argument in argv if argument != UNTIMED], "plan", command, __doc__, MORE)
