"""Fields and their rules: ranges, defaults of each task, and which fields a resumed run may change."""

import dataclasses

import pytest
from ml_collections import ConfigDict

from mae_jax.config import fields, unused
from mae_jax.config.fields import Rule, RunConfig, StudyConfig
from mae_jax.config.tasks import TASKS


@pytest.mark.parametrize(
    ("rule", "inside", "outside", "words"),
    [
        (Rule("", low=0, high=1), (0, 0.5, 1), (-0.1, 1.1), "[0, 1]"),
        (Rule("", low=0, high=1, open="low"), (1e-9, 1), (0, 2), "(0, 1]"),
        (Rule("", low=0, high=1, open="low high"), (0.5,), (0, 1), "(0, 1)"),
        (Rule("", low=3, open="high"), (3, 1e300), (2, float("inf")), "[3, inf)"),
    ],
)
def test_a_range_has_open_or_closed_ends(rule, inside, outside, words):
    assert all(map(rule.holds, inside)) and not any(map(rule.holds, outside))
    assert rule.range == words and rule.has_range and not Rule("").has_range


def test_every_default_is_within_its_rule():
    for kind in (RunConfig, StudyConfig, fields.SweepConfig):
        for name, (default, rule) in fields.rules(kind).items():
            assert rule.meaning and not rule.meaning.endswith("."), name
            if rule.choices and not isinstance(default, tuple):
                assert default in rule.choices, name
            if rule.has_range:
                assert all(map(rule.holds, default if isinstance(default, tuple) else [default])), name


def test_rules_are_named_by_their_place():
    result = fields.rules(StudyConfig)
    assert result["pretrain.mae.mask_ratio"][0] == 0.75 and "fractions" in result and "pretrain" not in result
    assert list(fields.rules(fields.MaeFields, "mae.")) == [
        f"mae.{field.name}" for field in dataclasses.fields(fields.MaeFields)
    ]


@pytest.mark.parametrize(
    ("name", "may"),
    [
        ("seed", False), ("optim.base_lr", False), ("log.every_steps", True), ("checkpoint.keep", True),
        ("pretrain.log.every_steps", True), ("pretrain.seed", False), ("fractions", True), ("experiments.exp1.x", True),
        ("resolved.devices", True), ("nothing", False),
    ],
)  # fmt: skip
def test_only_what_does_not_affect_results_may_differ(name, may):
    assert fields.may_differ(name) == may


def test_changes_reach_their_places_and_leave_the_original():
    config = RunConfig()
    other = fields.changed(config, {"seed": 3, "data.fraction": 0.1, "data.flips": False, "model.size": "large"})
    assert (other.seed, other.data.fraction, other.data.flips, other.model.size) == (3, 0.1, False, "large")
    assert config == RunConfig() and fields.changed(config, {}) == config
    assert fields.as_dict(other)["data"]["fraction"] == 0.1
    with pytest.raises(TypeError):
        fields.changed(config, {"nothing": 1})


@pytest.mark.parametrize("task", TASKS)
def test_defaults_of_a_task_have_all_fields_and_its_own_values(task):
    result = fields.defaults(task)
    assert isinstance(result, ConfigDict) and result.task == task
    names = {key: set(value) for key, value in result.items() if isinstance(value, ConfigDict)}
    assert names["train"] == {field.name for field in dataclasses.fields(fields.TrainFields)}
    assert result.optim.name == ("lars" if task == "linear_probe" else "adamw")
    assert result.train.batch_size == {"pretrain": 0, "linear_probe": 256}.get(task, 64)


def test_a_probe_has_the_network_and_data_of_its_fine_tuning_but_no_augmentation_of_training():
    given = fields.defaults("finetune")
    given.update(seed=4, init="mae", init_from="x", init_name="mine")
    given.data.update(fraction=0.1, randaugment=9.0, random_erasing=0.25)
    given.model.update(size="small", drop_path=0.1)
    given.train.update(select="best", steps=7)
    linear, knn = (fields.probe_of(given, task) for task in ("linear_probe", "knn"))
    for expected in (linear, knn):
        assert (expected.seed, expected.init, expected.init_from, expected.init_name) == (4, "mae", "x", "mine")
        assert (expected.data.fraction, expected.data.randaugment, expected.data.random_erasing) == (0.1, 0, 0)
        assert (expected.model.size, expected.model.drop_path, expected.train.steps) == ("small", 0, 0)
    assert (linear.train.select, knn.train.select) == ("best", "last")  # knn has no epochs
    assert linear.model.head_std == fields.defaults("linear_probe").model.head_std


def test_every_augmentation_of_training_is_off_in_probes():
    """A field of `data` that only training steps read is an augmentation, unless it is listed here."""
    (steps,) = (c for c in unused.CONDITIONS if "data.randaugment" in c.fields)
    read = {name.removeprefix("data.") for name in steps.fields if name.startswith("data.")}
    others = {"crop_scale", "crop_ratio", "flips", "workers", "prefetch"}
    others |= {"randaugment_colour"}  # only says which operations `randaugment` may use
    rules = fields.rules(fields.DataFields)
    assert read - others == {name for name, (_, rule) in rules.items() if rule.augments}
    given = fields.defaults("finetune")
    given.data.update(randaugment=9.0, random_erasing=0.25, stain="hed", stain_strength=2.0)
    changed = {name for name in read - others if given.data[name] != rules[name][0]}
    assert changed == read - others, "set the new field to a value that is not its default"
    for task in ("linear_probe", "lbfgs", "knn"):
        result = fields.probe_of(given, task).data
        assert {name: result[name] for name in changed} == {name: rules[name][0] for name in changed}, task


def test_a_study_and_a_sweep_have_their_parts_as_given():
    pretrain, finetune = fields.defaults("pretrain"), fields.defaults("finetune")
    study, sweep = (make(pretrain, finetune) for make in (fields.study_defaults, fields.sweep_defaults))
    assert study.task == "study" and sweep.task == "sweep" and study.pretrain is pretrain and sweep.finetune is finetune
    assert tuple(study.fractions) == (0.01, 0.1, 0.5, 1.0) and tuple(sweep.visible_weights) == (0.0, 1.0)
