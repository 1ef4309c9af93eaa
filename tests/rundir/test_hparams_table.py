"""TensorBoard's table of hyperparameters: its columns, its metrics, and which are shown first."""

import pytest

from mae_jax.config.fields import RunConfig
from mae_jax.config.loading import hparams
from mae_jax.rundir import hparams_table


def test_the_scores_of_a_classifier_are_metrics_and_a_pre_training_has_none():
    scores = hparams_table.test_scores({"accuracy": 0.75, "f1": 0.5, "n": 23})
    assert scores == {"test/accuracy": 0.75, "test/macro_f1": 0.5} and set(scores) < set(hparams_table.METRICS)
    assert hparams_table.test_scores({"val/loss": 0.5, "accuracy": None}) == {}


@pytest.mark.filterwarnings("ignore")
def test_each_field_is_a_column_of_its_type_and_those_that_vary_come_first():
    plugin_data_pb2 = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    from tensorboard.plugins.hparams import api_pb2

    values = hparams(RunConfig())
    tag, metadata = hparams_table.announcement(values)
    assert tag == "_hparams_/experiment"
    result = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content).experiment
    columns = {info.name: info for info in result.hparam_infos}
    assert list(columns) == list(values)
    kinds = {"task": "STRING", "seed": "FLOAT64", "data.flips": "BOOL", "data.crop_scale": "STRING"}
    for name, kind in kinds.items():
        assert columns[name].type == getattr(api_pb2, f"DATA_TYPE_{kind}"), name
    assert {name for name, info in columns.items() if info.differs} == set(hparams_table.VARIED)
    assert "pretrain" in list(columns["task"].domain_discrete)
    assert list(columns["data.flips"].domain_discrete) == [False, True]
    metrics = {info.name.tag: info.display_name for info in result.metric_infos}
    assert metrics == hparams_table.METRICS
