"""Every task has a module that builds it, and what a device cannot do is refused before an image is opened."""

from functools import partial

import pytest

from mae_jax.config.tasks import TASKS
from mae_jax.config.validation import validate
from mae_jax.runtime import machine
from mae_jax.runtime.errors import UserError
from mae_jax.step import sharding
from mae_jax.train import build
from mae_jax.train.task import Task


def test_every_task_is_built_by_its_own_module(tiny_config, monkeypatch):
    modules = {"pretrain": "pretrain", "finetune": "finetune", "linear_probe": "finetune", "lbfgs": "probe"}
    modules |= {"knn": "probe"}
    assert set(modules) == set(TASKS)
    built, seen = object.__new__(Task), []

    def called(name, *arguments):
        seen.append((name, *arguments))
        return built

    for name in set(modules.values()):
        monkeypatch.setattr(build, name, partial(called, name))
    for task in TASKS:
        config, mesh = validate(tiny_config(task)), sharding.make_mesh(1)
        assert build.build(config, mesh, print, None) is built
        assert seen[-1][:5] == (modules[task], config, mesh, print, None)


def test_what_a_device_cannot_do_is_refused_before_an_image_is_opened(tiny_config, monkeypatch):
    monkeypatch.setattr(build, "finetune", lambda *arguments: pytest.fail("opened"))
    with pytest.raises(UserError, match="model.dtype=bfloat16 is slower and less exact than float32 on a CPU"):
        build.build(validate(tiny_config(**{"model.dtype": "bfloat16"})), sharding.make_mesh(1))
    reason = machine.no_cudnn("float32", (8,))
    with pytest.raises(
        UserError, match=f"model.attention=cudnn is not possible here: {reason[:20]}.*; use auto, or xla"
    ):
        build.build(validate(tiny_config(**{"model.attention": "cudnn"})), sharding.make_mesh(1))
