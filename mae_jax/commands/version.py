"""Print the version of mae_jax."""

import argparse

from mae_jax import __version__

SUMMARY = "print the version"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds no arguments."""


def main(options: argparse.Namespace) -> None:
    """Prints the version."""
    print(f"mae_jax {__version__}")
