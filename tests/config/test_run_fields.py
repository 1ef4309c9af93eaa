"""Fields of one run."""

from mae_jax.config import fields
from mae_jax.config.run_fields import RunConfig


def test_features_from_files_and_computed_ones_need_no_network():
    assert RunConfig().has_network and not fields.changed(RunConfig(), {"init": "features"}).has_network
    assert [fields.changed(RunConfig(), {"init": name}).has_network for name in fields.COMPUTED] == [False, False]
    assert fields.changed(RunConfig(), {"task": "knn"}).traits.chooses
