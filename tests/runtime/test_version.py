"""The version is stated once."""

import configparser
import re
from pathlib import Path

import mae_jax
from mae_jax.runtime.version import __version__

ROOT = Path(__file__).parents[2]


def test_the_version_is_that_of_the_package_and_of_the_change_log():
    assert mae_jax.__version__ == __version__ and re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: mae_jax.runtime.version.__version__"
    assert re.search(rf"^version: \"?{re.escape(__version__)}\"?$", (ROOT / "CITATION.cff").read_text(), re.M)
