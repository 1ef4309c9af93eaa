"""A second self-supervised method is one file and one row of `config.tasks`: the one below is put in and trained."""

import dataclasses
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.config import tasks
from mae_jax.models.vit import ViTConfig
from mae_jax.step import eval_step, sharding, stain, state, train_step
from mae_jax.step import spec as spec_module
from mae_jax.step.objectives.classification import Classification
from mae_jax.step.optimizer import Optimizer
from mae_jax.step.spec import Objective, StepSpec

ROOT = Path(__file__).parents[2]
METHOD = '''
"""Regression of a teacher's tokens from masked images; the teacher is a moving average of the encoder."""

import dataclasses

import jax
import jax.numpy as jnp

from mae_jax import models
from mae_jax.step.batches import to_float
from mae_jax.step.spec import MASK, Objective, key_for


@dataclasses.dataclass(frozen=True)
class Teacher(Objective):
    momentum: float = 0.5

    trained = "^(encoder|predictor)/"
    measures = ("loss", "spread")

    @classmethod
    def of(cls, config):
        return cls()

    def init(self, shape, key):
        encoder = models.init("encoder", shape, key)
        predictor = {"kernel": jnp.eye(shape.width), "bias": jnp.zeros(shape.width)}
        return {"encoder": encoder, "predictor": predictor, "teacher": encoder}

    def prepare(self, spec, params, batch, seed, step, running):
        moved = jax.tree.map(lambda t, e: t + (1 - self.momentum) * (e - t), params["teacher"], params["encoder"])
        removed = jax.random.bernoulli(key_for(seed, MASK, step), 0.5, (spec.batch_size, *batch["image"].shape[1:3]))
        removed = jnp.pad(removed, ((0, len(batch["image"]) - spec.batch_size), (0, 0), (0, 0)))
        return {"teacher": moved}, batch | {"removed": removed}, None

    def loss(self, spec, params, batch, key, shared):
        error = self._error(spec, params, batch["image"], batch["removed"])[0]
        total = (error * batch["mask"]).sum()
        return total, {"loss": total}

    def evaluate(self, spec, params, batch, seed):
        error, teacher = self._error(spec, params, batch["image"], jnp.zeros(batch["image"].shape[:3], bool))
        return {"loss": error, "spread": teacher.std((1, 2))}

    def _error(self, spec, params, images, removed):
        images = to_float(images, spec.mean, spec.std)
        teacher = jax.lax.stop_gradient(models.apply("encoder", spec.shape, params["teacher"], images))
        tokens = models.apply("encoder", spec.shape, params["encoder"], jnp.where(removed[..., None], 0.0, images))
        predicted = tokens @ params["predictor"]["kernel"] + params["predictor"]["bias"]
        return jnp.square(predicted - teacher).mean((1, 2)), teacher
'''
ROW = '    "teacher": Traits("pre-training by a teacher", "mae_jax.step.objectives.teacher:Teacher", labeled=False),\n'
TABLE = "TRAITS = {\n"
RUNS = """
import json, sys
from pathlib import Path

import mae_jax
from mae_jax import config
from mae_jax.main import run
from tests.conftest import tiny_config

top = Path(sys.argv[1])
assert Path(mae_jax.__file__).is_relative_to(top), mae_jax.__file__
make = tiny_config.__wrapped__() if hasattr(tiny_config, "__wrapped__") else tiny_config._get_wrapped_function()()
pretraining = make("teacher", **{"train.steps": 2, "data.val_fraction": 0.2})
results = run(pretraining, top / "pretrain")
print(results)
print(run(pretraining, top / "pretrain"))  # finished: nothing is computed
tuned = make("finetune", init="mae", init_from=str(top / "pretrain"), **{"train.steps": 2})
run(tuned, top / "finetune")
"""


@pytest.fixture(scope="module")
def teacher():
    names: dict = {"__name__": "teacher"}
    sys.modules["teacher"] = type(sys)("teacher")  # dataclasses look their module up
    exec(METHOD, names)
    yield names["Teacher"]
    del sys.modules["teacher"]


@pytest.mark.parametrize("task", tasks.TASKS)
def test_each_task_names_its_objective(task):
    module, _, name = tasks.TRAITS[task].objective.partition(":")
    objective = getattr(importlib.import_module(module), name)
    assert issubclass(objective, Objective) and dataclasses.is_dataclass(objective)


def kernel(params, network):
    return np.asarray(params[network]["patch_embed"]["proj"]["kernel"])


def trained(method, devices=1, fsdp=1, accumulation=1, rows=8):
    """The state after two steps, and the losses."""
    grid = np.array(jax.devices()[:devices]).reshape(devices // fsdp, fsdp)
    spec = StepSpec(
        method(), ViTConfig(16, 4, 32, 1, 2, mlp_ratio=8.0), Optimizer(0.9, 0.95, 0.1, "bias$", 0.0, 1.0), (0.5,) * 3,
        (0.25,) * 3, 8, accumulation, jax.sharding.Mesh(grid, ("data", "fsdp")), method.trained,
    )  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    batch = {"image": images, "label": np.zeros(8, np.int32), "index": np.arange(8, dtype=np.int32)}
    batch["mask"] = np.ones(8, np.float32)
    batch = {k: np.pad(v, [(0, rows - 8)] + [(0, 0)] * (v.ndim - 1)) for k, v in batch.items()}
    batch = sharding.put_batch(batch, spec.mesh)
    current, losses = state.init_state(spec, 0), []
    for _ in range(2):
        current, metrics = train_step.train_step(spec, current, batch, np.int32(0), np.float32(1e-2))
        losses.append(float(metrics["loss"]))
    return spec, state.unpadded(spec, current), batch, losses


@pytest.mark.slow
def test_the_step_trains_an_objective_that_it_does_not_know(teacher):
    """A moving average, random numbers of rows, and metrics, whatever the devices and micro-batches."""
    spec, after, batch, losses = trained(teacher)
    assert losses[0] > 0 and losses[1] != losses[0]
    first = state.unpadded(spec, state.init_state(spec, 0)).params
    drawn = np.asarray(first["teacher"]["patch_embed"]["proj"]["kernel"])
    average, encoder = (
        np.asarray(after.params[name]["patch_embed"]["proj"]["kernel"]) for name in ("teacher", "encoder")
    )
    # Before the second update the teacher moved half of the way that the encoder had moved by the first.
    assert 0 < np.abs(average - drawn).max() < np.abs(encoder - drawn).max()
    moments = jax.tree.leaves(jax.tree.map(jnp.size, after.opt_state))
    sizes = [sum(jax.tree.leaves(jax.tree.map(jnp.size, after.params[name]))) for name in ("encoder", "predictor")]
    assert sum(moments) == pytest.approx(2 * sum(sizes), abs=8)  # none of the teacher
    values = eval_step.eval_step(spec, after.params, batch, np.int32(0))
    assert set(values) == {"loss", "spread"} and values["spread"].shape == (8,)
    for devices, fsdp, accumulation, rows in [(1, 1, 2, 8), (5, 5, 1, 10), (5, 1, 2, 10)]:
        _, other, _, result = trained(teacher, devices, fsdp, accumulation, rows)
        np.testing.assert_allclose(result, losses, rtol=1e-5, err_msg=f"{devices} {fsdp} {accumulation}")
        np.testing.assert_allclose(kernel(other.params, "teacher"), average, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_second_method_is_one_file_and_one_row(tmp_path, environment):
    """In a copy of the package: it trains, is known as finished, and a fine-tuning starts from its encoder."""
    shutil.copytree(ROOT / "mae_jax", tmp_path / "mae_jax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "mae_jax/step/objectives/teacher.py").write_text(METHOD)
    table = tmp_path / "mae_jax/config/tasks.py"
    text = table.read_text()
    assert text.count(TABLE) == 1
    table.write_text(text.replace(TABLE, TABLE + ROW))
    command = [sys.executable, "-c", RUNS, str(tmp_path)]
    done = subprocess.run(
        command, env=environment | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "pre-training by a teacher\n  held-out loss " in done.stdout
    assert "already finished" in done.stdout + done.stderr
    assert "initial weights from" in done.stdout + done.stderr
    predictions = (tmp_path / "finetune/predictions.csv").read_text().splitlines()
    assert len(predictions) == 1 + 23


def spec_with(**fields):
    values = dict(
        objective=Classification(), shape=ViTConfig(16, 8, 16, 1, 2), mean=(0.5,) * 3, std=(0.25,) * 3, batch_size=8,
        optimizer=Optimizer(0.9, 0.95, 0.1, "", 0.0, 1.0), accumulation=1, mesh=sharding.make_mesh(1),
    )  # fmt: skip
    return StepSpec(**values | fields)


def test_equal_specs_share_compiled_code_and_every_field_counts():
    traces = []

    def step(spec, x):
        traces.append(spec)
        return x

    compiled = jax.jit(step, static_argnums=0)
    compiled(spec_with(), 1.0)
    compiled(spec_with(), 2.0)
    assert len(traces) == 1 and spec_with() == spec_with() and hash(spec_with()) == hash(spec_with())
    others = {"batch_size": 4, "accumulation": 2, "trained": "^head/", "mean": (0.4,) * 3, "std": (0.2,) * 3}
    others |= {"shape": dataclasses.replace(spec_with().shape, depth=2), "stain": stain.Hed()}
    others |= {"objective": Classification(mixup=0.8), "mesh": sharding.make_mesh(5)}
    for name, value in others.items():
        assert spec_with(**{name: value}) != spec_with(), name
    compiled(spec_with(accumulation=2), 1.0)
    assert len(traces) == 2


def test_no_two_purposes_or_steps_share_random_numbers():
    purposes = [spec_module.INIT, spec_module.MASK, spec_module.DROP, spec_module.EVAL_MASK, spec_module.MIX]
    assert purposes == [0, 1, 2, 3, 4]  # part of the results of every saved run
    keys = [
        spec_module.key_for(jnp.int32(seed), purpose, jnp.int32(step))
        for seed in (0, 1) for purpose in (*purposes, spec_module.STAIN) for step in (0, 1)
    ]  # fmt: skip
    assert len({np.asarray(jax.random.key_data(key)).tobytes() for key in keys}) == len(keys) == 24
