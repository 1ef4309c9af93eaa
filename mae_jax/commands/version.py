"""Print the version of mae_jax."""

import argparse

from mae_jax import __version__

SUMMARY = "print the version"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes none."""


def main(options: argparse.Namespace) -> None:
    """Prints it."""
    print(f"mae_jax {__version__}")
