"""The ways to select images are those that are implemented, without importing them."""

import subprocess
import sys

from mae_jax.config.selection import METHODS
from mae_jax.evaluation import selection


def test_the_names_are_those_of_the_functions():
    assert len(set(METHODS)) == len(METHODS) and set(METHODS) == set(selection.METHODS)
    assert METHODS[0] == "typical"  # the default of the command


def test_the_names_are_known_before_numpy_is_imported():
    code = "import sys; from mae_jax.config.selection import METHODS; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
