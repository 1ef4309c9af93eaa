"""Run the task of a config file. Rerun the same command to resume it."""

from mae_jax.runtime import signals

SUMMARY = "train a network or run a whole study from a config file; rerun to resume"


def run_argv(argv: list[str]) -> None:
    """Calls `mae_jax.main` with these arguments and exits the process."""
    with signals.blocked():
        from mae_jax import main

    main.cli(argv)
