"""Train, probe or run a whole study: the task of a config file."""

SUMMARY = "train a network, or run a whole study, as a config file says; rerun it to resume"


def run_argv(argv: list[str]) -> None:
    """Starts `mae_jax.main` with these arguments; ends the process."""
    from mae_jax import main

    main.cli(argv)
