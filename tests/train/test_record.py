"""What a run records of itself: the lines at its start, parameters.txt, subset.json, and run.json."""

import json

import jax
import numpy as np
import pytest

from mae_jax.config.loading import as_json
from mae_jax.config.validation import validate
from mae_jax.rundir import contents
from mae_jax.step import sharding
from mae_jax.step.state import TrainState, abstract_state
from mae_jax.train import record
from mae_jax.train.build import build


@pytest.fixture
def task(tiny_config):
    config = validate(tiny_config(**{"train.accumulation": 3, "train.blocks": 0, "data.subset_seed": 7}))
    return build(config, sharding.make_mesh(1))


@pytest.mark.filterwarnings("ignore")
def test_the_start_names_steps_rows_rate_and_parameters(task, tmp_path):
    like = abstract_state(task.spec)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like.params)
    lines = record.announce(task, "a run", tmp_path, TrainState(0, params, None))
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    head = sum(leaf.size for leaf in jax.tree.leaves(params["head"]))
    assert lines[0] == f"a run in {tmp_path}" and lines[1] == f"  classes: {task.about['classes']}"
    r = task.resolved
    # 16 images on 5 devices in 3 parts are 30 rows, 14 of them padding: 2 rows for each device and part
    assert lines[-2] == (
        f"  {r.steps} steps of 16 images (5 devices x 2 rows x 3 accumulated, 14 of them padding), "
        f"{r.steps_per_epoch} per epoch; peak learning rate {1e-2 * 16 / 256:.3g} after {r.warmup_steps} steps, cosine"
    )
    assert lines[-1] == f"  {total / 1e6:.2f} M parameters, {head:,} parameters trained, float32, cpu"
    assert "head/kernel" in (tmp_path / "parameters.txt").read_text()
    assert contents.read_json(tmp_path / contents.SUBSET) == record.jsonable(task.subset)


def test_run_json_says_how_the_run_was_trained_and_how_it_ended(task, tmp_path):
    contents.write_json(tmp_path / contents.CONFIG, {"config": as_json(task.config)})
    info = record.run_info(
        *(task, tmp_path),
        ended=task.resolved.steps - 1,
        selected_step=3,
        seconds=12.345,
        parts={"training": 12.0041},
        rate_reductions=[{"step": 1}],
    )
    json.dumps(info)
    per_epoch = task.resolved.steps_per_epoch
    assert info["epochs"] == (task.resolved.steps - 1) / per_epoch and info["stopped_early"]
    assert (info["steps"], info["selected_step"], info["wall_seconds"]) == (task.resolved.steps - 1, 3, 12.3)
    assert info["seconds"] == {"training": 12.0}
    assert (info["task"], info["evaluation"], info["init"], info["arm"]) == (
        *("finetune", "finetune", "scratch", "the head trained"),
    )
    assert info["n_train"] == len(task.indices[0]) and info["subset_seed"] == 7 and info["folds"] == 0
    assert info["classes"] == list(task.classes) and info["devices"] == "5 x cpu"
    assert info["config"] == as_json(task.config) and info["rate_lowered"] == [{"step": 1}]
    info = {"ended": task.resolved.steps, "selected_step": 3, "seconds": 1.0, "parts": {}, "rate_reductions": []}
    assert not record.run_info(task, tmp_path, **info)["stopped_early"]


def test_values_are_as_json_reads_them_back():
    value = {1: (2, [3, (4,)]), "a": {"b": ()}, "c": None, "d": 0.5}
    assert (
        record.jsonable(value)
        == json.loads(json.dumps(value))
        == {"1": [2, [3, [4]]], "a": {"b": []}, "c": None, "d": 0.5}
    )
