import importlib
import inspect

import pytest

from mae_jax.config import tasks
from mae_jax.config.tasks import TRAITS, Traits
from mae_jax.rundir import contents
from mae_jax.step.spec import Objective


def test_every_task_has_an_objective_that_exists():
    for task, traits in TRAITS.items():
        module, colon, name = traits.objective.partition(":")
        assert colon and issubclass(getattr(importlib.import_module(module), name), Objective), task


def test_a_head_is_fitted_exactly_where_a_classifier_makes_no_updates():
    for task, traits in TRAITS.items():
        assert bool(traits.fit) == (traits.labeled and not traits.updates), task
        if traits.fit:
            module, _, name = traits.fit.partition(":")
            parameters = [*inspect.signature(getattr(importlib.import_module(module), name)).parameters]
            assert (len(parameters), parameters[-1]) == (4 + len(traits.chooses), "validation"), task


def test_groups_of_tasks_follow_from_their_traits():
    assert tasks.EVALUATIONS == ("finetune", "linear_probe", "lbfgs", "knn")
    assert tasks.UNLABELED == ("pretrain",)
    assert tasks.QUICK == ("lbfgs", "knn")
    assert tasks.TRAINED == ("pretrain", "finetune", "linear_probe")
    assert tasks.LINEAR == ("linear_probe", "lbfgs")
    assert (tasks.RANDOM_PROBE, tasks.USUAL) == ("lbfgs", "finetune")


@pytest.mark.parametrize(
    ("traits", "expected"),
    [
        (Traits("a task", "m:C", labeled=False, decoder=True), (True, False, "mae")),
        (Traits("a task", "m:C"), (True, True, "vit")),
        (Traits("a task", "m:C", updates=False, frozen=True), (False, False, "vit")),
    ],
)
def test_what_follows_from_traits(traits, expected):
    assert (traits.updates, traits.fine_tunes, traits.network) == expected


def test_run_json_tells_pretrainings_and_evaluations_that_choose():
    assert contents.is_pretraining({"task": "pretrain"})
    for info in ({"task": "finetune"}, {"task": None}, {}, {"task": ["pretrain"]}):
        assert not contents.is_pretraining(info)
    names = (*TRAITS, "unknown")
    assert [task for task in names if contents.chooses(task)] == ["lbfgs", "knn"]
    assert [task for task in names if contents.fine_tunes(task)] == ["finetune"]
    assert [task for task in names if contents.is_linear(task)] == ["linear_probe", "lbfgs"]
