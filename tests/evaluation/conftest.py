"""A finished pre-training, for tests of what is computed from a run directory."""

import pytest

from mae_jax.train import loop


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_config):
    """The directory of a pre-training of two steps."""
    directory = tmp_path_factory.mktemp("run")
    loop.run(tiny_config("pretrain", **{"train.steps": 2}), directory)
    return directory
