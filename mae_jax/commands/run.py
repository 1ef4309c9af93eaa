"""Runs the task of a config file. Rerun the same command to resume it."""

from mae_jax.runtime import signals

SUMMARY = "train a network, or run a whole study, as a config file says; rerun it to resume"


def run_argv(argv: list[str]) -> None:
    """Starts `mae_jax.main` with these arguments; ends the process."""
    with signals.blocked():
        from mae_jax import main

    main.cli(argv)
