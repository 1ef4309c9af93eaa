"""Fields and their rules: ranges, defaults of each task, and which fields a resumed run may change."""

import dataclasses

import pytest
from ml_collections import ConfigDict

from mae_jax.config import fields
from mae_jax.config.tasks import TASKS


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


def test_a_study_and_a_sweep_have_their_parts_as_given():
    pretrain, finetune = fields.defaults("pretrain"), fields.defaults("finetune")
    study, sweep = (make(pretrain, finetune) for make in (fields.study_defaults, fields.sweep_defaults))
    assert study.task == "study" and sweep.task == "sweep" and study.pretrain is pretrain and sweep.finetune is finetune
    assert tuple(study.fractions) == (0.01, 0.1, 0.5, 1.0) and tuple(sweep.visible_weights) == (0.0, 1.0)
