"""All config fields, each stated once: default, meaning, allowed values, when it is used, whether a resume may differ.

They are stated in `data_fields`, `run_fields` and `study_fields`, and imported from here. The code uses `RunConfig`,
`StudyConfig` and `SweepConfig`, which are typed and frozen; `config.validation` checks and creates them. Config files
and flags use a `ConfigDict` with the same fields, from `defaults`, `study_defaults` or `sweep_defaults`.
"""

from typing import cast

from ml_collections import ConfigDict

from mae_jax.config.data_fields import STAINS, DataFields
from mae_jax.config.rule import SEED_RULE, SEEDS, Fields, Rule, as_dict, changed, field, rules
from mae_jax.config.run_fields import (
    COMPUTED,
    FAMILIES,
    FEATURE_FILES,
    FEATURES,
    SIZES,
    TRACKERS,
    WEIGHTS,
    WITHOUT_NETWORK,
    CheckpointFields,
    EvalFields,
    LogFields,
    MaeFields,
    ModelFields,
    OptimFields,
    ProbeFields,
    RunConfig,
    ShardingFields,
    TrainFields,
)
from mae_jax.config.study_fields import StudyConfig, SweepConfig
from mae_jax.config.tasks import QUICK, TRAITS

__all__ = [
    "COMPUTED",
    "FAMILIES",
    "FEATURES",
    "FEATURE_FILES",
    "SEEDS",
    "SEED_RULE",
    "SIZES",
    "STAINS",
    "TRACKERS",
    "WEIGHTS",
    "WITHOUT_NETWORK",
    "AnyConfig",
    "CheckpointFields",
    "DataFields",
    "EvalFields",
    "Fields",
    "LogFields",
    "MaeFields",
    "ModelFields",
    "OptimFields",
    "ProbeFields",
    "Rule",
    "RunConfig",
    "ShardingFields",
    "StudyConfig",
    "SweepConfig",
    "TrainFields",
    "as_dict",
    "changed",
    "defaults",
    "field",
    "may_differ",
    "probe_of",
    "rules",
    "study_defaults",
    "sweep_defaults",
]

AnyConfig = RunConfig | StudyConfig | SweepConfig

# How the defaults of a task differ from those above.
_CLASSIFIER = {
    "optim.base_lr": 5e-4,
    "optim.warmup_epochs": 2.0,
    "optim.b2": 0.999,
    "optim.weight_decay": 0.05,
    "optim.no_decay": r"(^|/)(bias|scale|gamma|cls_token|pos_embed|reg_token)$",
    "train.epochs": 20.0,
    "train.batch_size": 64,
    "train.batch_per_device": 0,
}
_LINEAR_PROBE = _CLASSIFIER | {  # He et al. 2022, appendix A.1; see configs/linear_probe.py
    "optim.name": "lars",
    "optim.base_lr": 6.4,
    "optim.warmup_epochs": 10.0,
    "optim.weight_decay": 0.0,
    "model.head_std": 0.01,
    "train.epochs": 90.0,
    "train.batch_size": 256,
}
_TASKS = {"linear_probe": _LINEAR_PROBE}


def may_differ(key: str) -> bool:
    """Whether a resumed run, study or sweep may change the field with this dotted name."""
    return key in _MAY_DIFFER or key.startswith("experiments.")


# A study may gain fractions, inits and seeds, and a sweep mask ratios, because each cell has its own config.
_MAY_DIFFER = {"resolved.devices", "resolved.rows"} | {
    key
    for fields in (RunConfig, StudyConfig, SweepConfig)
    for key, (_, rule) in rules(fields).items()
    if rule.may_differ
}


def defaults(task: str) -> ConfigDict:
    """All fields of one run with their defaults; `task` is one of TASKS."""
    changes = _TASKS.get(task, _CLASSIFIER if TRAITS[task].labeled else {})
    return ConfigDict(as_dict(changed(RunConfig(task=task), changes)))


def probe_of(finetune: RunConfig | ConfigDict, task: str) -> ConfigDict:
    """The config of a probe with the initial weights, network and data of a fine-tuning config."""
    c, given = defaults(task), finetune if isinstance(finetune, ConfigDict) else ConfigDict(as_dict(finetune))
    for name in ("name", "seed", "init", "init_from", "init_name", "init_seen"):
        c[name] = given[name]
    for section in ("data", "model", "probe", "eval", "checkpoint", "sharding", "log"):
        cast(ConfigDict, c[section]).update(given[section])
    c.data.update({name: default for name, (default, rule) in rules(DataFields).items() if rule.augments})
    c.model.update(drop_path=0.0, dropout=0.0, head_std=defaults(task).model.head_std)
    if task in QUICK:  # their images are cropped as in evaluation
        unread = ("crop_scale", "crop_ratio", "flips", "val_folds", "val_folds_up_to")
        c.data.update({name: getattr(DataFields(), name) for name in unread})
    else:
        for name in ("select", "patience", "balance", "match_fraction", "match_count"):
            c.train[name] = given.train[name]
    return c


def study_defaults(pretrain: ConfigDict, finetune: ConfigDict) -> ConfigDict:
    """All fields of a study: one pre-training, then fine-tuning over a grid, then the report."""
    return _of_several(StudyConfig(), pretrain, finetune)


def sweep_defaults(pretrain: ConfigDict, finetune: ConfigDict) -> ConfigDict:
    """All fields of a sweep: pre-training over mask ratios x visible weights, then fine-tuning from each."""
    return _of_several(SweepConfig(), pretrain, finetune)


def _of_several(config: StudyConfig | SweepConfig, pretrain: ConfigDict, finetune: ConfigDict) -> ConfigDict:
    fields = as_dict(config)
    del fields["pretrain"], fields["finetune"]
    c = ConfigDict(fields)
    c.pretrain, c.finetune = pretrain, finetune
    return c
