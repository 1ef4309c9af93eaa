"""What TensorBoard's table of hyperparameters shows: a column for each field, and these metrics.

Without such an announcement TensorBoard takes every chart for a metric.
"""

from __future__ import annotations

from typing import Any, cast

from mae_jax.config.fields import RunConfig, rules

METRICS = {"test/accuracy": "test accuracy", "test/macro_f1": "test macro F1", "val/loss": "validation loss"}
# TensorBoard shows the columns that are marked as different first: those in which the runs of a study differ.
VARIED = (
    "task",
    "init_name",
    "data.fraction",
    "data.label_count",
    "train.match_fraction",
    "train.match_count",
    "seed",
    "data.subset_seed",
    "mae.mask_ratio",
    "mae.visible_weight",
)


def test_scores(results: dict[str, Any]) -> dict[str, float]:
    """The scores of results.json that are metrics of the table; none for a pre-training."""
    names = {"test/accuracy": "accuracy", "test/macro_f1": "f1"}
    return {tag: results[key] for tag, key in names.items() if isinstance(results.get(key), int | float)}


def announcement(values: dict[str, Any]):
    """The tag and the metadata (SummaryMetadata) of the summary that announces the fields `values` and METRICS.

    TensorBoard reads the first announcement that it finds, so all runs have the same. Imports tensorboard.
    """
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    # Their messages exist only once they are imported, so a type checker does not know them.
    api, plugin = cast(Any, api_pb2), cast(Any, plugin_data_pb2)
    known = rules(RunConfig)
    experiment = api.Experiment()
    for name, value in values.items():
        info = experiment.hparam_infos.add(name=name, differs=name in VARIED)
        choices = known[name][1].choices if name in known else ()
        if isinstance(value, bool):
            info.type = api.DATA_TYPE_BOOL
            info.domain_discrete.extend([False, True])
        elif isinstance(value, str):
            info.type = api.DATA_TYPE_STRING
            if choices:
                info.domain_discrete.extend(choices)
        else:
            info.type = api.DATA_TYPE_FLOAT64
    for tag, title in METRICS.items():
        experiment.metric_infos.add(name=api.MetricName(tag=tag), display_name=title)
    data = plugin.HParamsPluginData(experiment=experiment)
    return metadata.EXPERIMENT_TAG, metadata.create_summary_metadata(data)
