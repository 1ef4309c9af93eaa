"""Real divergence from a learning rate that is far too high: the run stops, or rolls back and lowers the rate."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from mae_jax.checkpoints.steps import committed_steps
from mae_jax.config import validation
from mae_jax.data import splits
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.train import divergence, finetune, loop

ROOT = Path(__file__).parents[2]
# At such a rate, weight decay multiplies the parameters at each update until the loss or its gradient overflows. A
# thousandth of the rate is still too high, but a millionth is not.
EXPLODES = {
    "optim.base_lr": 1e3,
    "optim.weight_decay": 1e3,
    "checkpoint.every_epochs": 0.01,  # every step
    "checkpoint.keep": 1,
    "log.every_steps": 1,
    "train.lower_rate_factor": 1e-3,
}


def rows_of(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / contents.METRICS).read_text().splitlines()]


def arrays(workdir: Path, step: int) -> list[np.ndarray]:
    import orbax.checkpoint as ocp

    folder = (workdir / "checkpoints" / str(step)).absolute()
    trees = [ocp.StandardCheckpointer().restore(folder / name) for name in ("params", "optimizer")]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(trees)]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["finetune", "pretrain"])
def test_it_stops_with_advice_and_the_last_good_checkpoint_stays(tmp_path, tiny_config, task):
    config = tiny_config(task, **EXPLODES)
    for _ in range(2):  # the same command prints the same again
        with pytest.raises(UserError, match=r"_norm is (nan|inf) at step \d; .* What usually helps: a lower") as error:
            loop.run(config, tmp_path)
        at, good = map(
            int, re.search(r"at step (\d); the last good checkpoint is step (\d)", str(error.value)).groups()
        )
        # The gradient is computed before the update, so it belongs to the parameters of the previous step.
        assert good == at - 2 and committed_steps(tmp_path / "checkpoints") == [at - 1, good]
    for step in committed_steps(tmp_path / "checkpoints"):
        assert all(np.isfinite(a.astype(np.float64)).all() for a in arrays(tmp_path, step))
    assert not (tmp_path / contents.RESULTS).exists()


@pytest.mark.slow
def test_it_rolls_back_and_lowers_the_rate(tmp_path, tiny_config, capsys):
    config = tiny_config(**EXPLODES, **{"train.select": "best", "eval.every_epochs": 0.01})
    with pytest.raises(UserError, match="train.on_divergence=lower_rate"):
        loop.run(config, tmp_path)
    for path in (tmp_path / "best").glob("*.npz"):  # a non-finite epoch is never the best
        with np.load(path) as saved:
            assert all(np.isfinite(saved[name]).all() for name in saved)
    # The same run resumes when the config allows a lower rate.
    config.train.on_divergence, config.train.lower_rate_times = "lower_rate", 1
    with pytest.raises(UserError, match=r"The learning rate was lowered 1 time, to 0.001 times the scheduled one"):
        loop.run(config, tmp_path)
    config.train.lower_rate_times = 2
    results = loop.run(config, tmp_path)
    printed = capsys.readouterr().out
    lowered = contents.read_json(tmp_path / contents.RUN)["rate_lowered"]
    assert [e["rate_factor"] for e in lowered] == [1e-3, pytest.approx(1e-6)]
    back = lowered[1]["back_to"]
    assert lowered[1]["diverged_at"] > back >= lowered[0]["back_to"] > 0
    assert f"rolled back to the checkpoint of step {back}, continuing with 1e-06 times the learning rate (" in printed
    assert "(rollback 2 of 2)" in printed
    rows = rows_of(tmp_path)
    assert [row["rate_factor"] for row in rows if "rate_factor" in row] == [e["rate_factor"] for e in lowered]
    rates = {row["step"]: row["learning_rate"] for row in rows if "learning_rate" in row}
    assert sorted(rates) == list(range(1, 9)) and 0 < rates[back + 1] < 1e-4 and rates[lowered[0]["back_to"]] > 1
    assert all(np.isfinite(v) for row in rows for v in row.values()) and np.isfinite(results["accuracy"])
    assert committed_steps(tmp_path / "checkpoints") == [8]


def test_it_rolls_back_further_if_a_lower_rate_does_not_help(tmp_path, tiny_config):
    changes = EXPLODES | {"checkpoint.keep": 3, "train.on_divergence": "lower_rate", "train.lower_rate_factor": 0.5}
    with pytest.raises(UserError, match="lowered 3 times"):
        loop.run(tiny_config(**changes), tmp_path)
    first, second, _ = (entry["back_to"] for entry in contents.read_json(tmp_path / contents.LOWERED))
    assert first > second > 0


def test_without_a_checkpoint_it_rolls_back_to_the_initial_weights(tmp_path, tiny_config, capsys):
    changes = EXPLODES | {"checkpoint.every_epochs": 50.0, "train.on_divergence": "lower_rate"}
    loop.run(tiny_config(**changes), tmp_path)
    assert (
        "rolled back to the initial weights, continuing with 0.001 times the learning rate" in capsys.readouterr().out
    )
    assert {row["step"] for row in rows_of(tmp_path) if "rate_factor" in row} == {0}  # once or more


def test_initial_weights_that_are_not_finite_are_named(tmp_path, tiny_config):
    config = tiny_config(**{"model.head_std": 3e38, "train.on_divergence": "lower_rate"})
    with pytest.raises(UserError, match=r"at step 1; there is no good checkpoint yet .*initial weights"):
        loop.run(config, tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("train.on_divergence", "ignore", "use one of stop, lower_rate"),
        ("train.lower_rate_factor", 1.0, r"allowed: \(0, 1\)"),
        ("train.lower_rate_times", 0, r"allowed: \[1, 100\]"),
    ],
)
def test_settings_that_cannot_help_are_refused(tiny_config, field, value, message):
    with pytest.raises(UserError, match=message):
        validation.validate(tiny_config(**{field: value}))


# Kills itself with SIGKILL after the decision to roll back, while the later checkpoints still exist.
KILLED = """
import os, signal, sys
from pathlib import Path
from mae_jax.checkpoints.saver import Checkpoints
from mae_jax.train import loop
from tests.conftest import tiny_config
from tests.train.test_divergence import EXPLODES

if sys.argv[2] == "kill":
    Checkpoints.drop = lambda self, first: os.kill(os.getpid(), signal.SIGKILL)
loop.run(tiny_config.__wrapped__()(**EXPLODES, **{"train.on_divergence": "lower_rate"}), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_run_killed_during_a_rollback_has_the_same_results(tmp_path, tiny_config):
    config = tiny_config(**EXPLODES, **{"train.on_divergence": "lower_rate"})
    uninterrupted, broken = tmp_path / "whole", tmp_path / "broken"
    loop.run(config, uninterrupted)
    for how, code in (("kill", -signal.SIGKILL), ("finish", 0)):
        run = subprocess.run(
            [sys.executable, "-c", KILLED, str(broken), how],
            capture_output=True, text=True, env=os.environ, cwd=ROOT, timeout=300,
        )  # fmt: skip
        assert run.returncode == code, run.stderr[-2000:]
        if code:
            back = contents.read_json(broken / contents.LOWERED)[0]["back_to"]
            assert committed_steps(broken / "checkpoints")[0] > back
    assert "resuming from step" in run.stdout and "(rollback 2 of 3)" in run.stdout
    for name in (contents.METRICS, contents.PREDICTIONS, contents.LOWERED):
        assert (broken / name).read_bytes() == (uninterrupted / name).read_bytes()
    for one, two in zip(arrays(broken, 8), arrays(uninterrupted, 8), strict=True):
        np.testing.assert_array_equal(one, two)


def test_predictions_that_are_not_finite_are_not_written(tmp_path, tiny_config):
    data = splits.labeled(tiny_config().data)

    def nans(source, indices):
        return np.full((len(indices), len(source.classes)), np.nan, np.float32)

    with pytest.raises(UserError, match="predictions.csv is not written: predictions are not finite"):
        finetune.write_predictions_and_score(data, nans, tmp_path)
    assert not list(tmp_path.iterdir())


def test_rates_depend_on_the_list_of_reductions_and_the_step_alone(tmp_path, tiny_config):
    entry = {"what": "loss", "value": "nan", "diverged_at": 9, "back_to": 4, "rate_factor": 0.5}
    config = validation.validate(tiny_config())
    contents.write_json(tmp_path / contents.LOWERED, [entry, entry | {"back_to": 2, "rate_factor": 0.25}])
    result = divergence.RateReductions(tmp_path, config, leader=True)
    assert [result.factor(step) for step in (0, 1, 2, 3, 4, 9)] == [1, 1, 0.25, 0.25, 0.25, 0.25]
    assert result.rows(4) == [{"diverged_at": 9, "rate_factor": 0.5}] and result.rows(3) == []
    assert result.resume(4, [entry]) == 2  # a rollback that is newer than this checkpoint
    assert result.resume(2, [entry]) is None
    (tmp_path / contents.LOWERED).unlink()
    lost = divergence.RateReductions(tmp_path, config, leader=True)
    assert lost.factor(9) == 1 and lost.resume(4, [entry]) is None and lost.factor(9) == 0.5
    contents.write_json(tmp_path / contents.LOWERED, [{"back_to": "4"}])
    with pytest.raises(UserError, match="is not a list of learning-rate reductions; restore it, or remove it"):
        divergence.RateReductions(tmp_path, config, leader=True)
