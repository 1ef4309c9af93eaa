"""The identity of a run: which differences are refused, when it may grow, and the versions of the code."""

import subprocess

import jax
import pytest

from mae_jax.config.fields import RunConfig, changed
from mae_jax.config.validation import validate
from mae_jax.rundir import contents, identity
from mae_jax.runtime.errors import UserError


@pytest.fixture
def config(tiny_config) -> RunConfig:
    return validate(tiny_config(**{"optim.schedule": "constant", "train.steps": 4}))


def test_a_config_is_kept_and_found_again(config, tmp_path):
    identity.keep_config(tmp_path, config, {"steps": 4, "devices": 5}, leader=False)
    assert not (tmp_path / contents.CONFIG).exists()
    resolved = {"steps": 4, "devices": 5}
    identity.keep_config(tmp_path, config, resolved)
    saved = contents.read_config(tmp_path / contents.CONFIG)
    assert (
        saved["config"]["seed"] == 0
        and saved["resolved"] == {"steps": 4, "devices": 5}
        and saved["init_from_here"] == ""
    )
    identity.keep_config(
        tmp_path, changed(config, {"log.every_steps": 9}), {"steps": 4, "devices": 1}
    )  # does not affect results
    with pytest.raises(UserError, match=r"another config \(seed: 0 -> 1\); use the same config"):
        identity.keep_config(tmp_path, changed(config, {"seed": 1}), {"steps": 4, "devices": 5})
    with pytest.raises(UserError, match=r"\(resolved.batch_size: 8 -> 16\)"):
        contents.write_json(
            tmp_path / contents.CONFIG, saved | {"resolved": {"steps": 4, "devices": 5, "batch_size": 8}}
        )
        identity.keep_config(tmp_path, config, {"steps": 4, "devices": 5, "batch_size": 16})


def test_a_directory_of_a_study_or_of_steps_without_a_config_is_refused(config, tmp_path):
    (tmp_path / contents.SAVED).write_text("")
    with pytest.raises(UserError, match=r"config\.json is missing, but .*checkpoints has checkpoints of its run"):
        identity.keep_config(tmp_path, config, {"devices": 1})
    (tmp_path / contents.STUDY).write_text("{}")
    with pytest.raises(UserError, match=r"holds a study of several runs \(study\.json\); choose another --workdir"):
        identity.keep_config(tmp_path, config, {"devices": 1})


@pytest.mark.parametrize(
    ("schedule", "changes", "why"),
    [
        ("constant", {"train.steps": 6}, None),
        ("constant", {"train.steps": 2}, "a run can only get longer: set a larger train.steps"),
        ("constant", {"train.steps": 0, "train.epochs": 9.0}, "a run can only get longer: set a larger train.epochs"),
        ("constant", {"train.steps": 6, "seed": 1}, "seed: 0 -> 1"),
        ("cosine", {"train.steps": 6}, "the learning rates of the cosine schedule depend on it"),
    ],
)
def test_only_a_run_of_a_constant_rate_may_get_longer(config, tmp_path, schedule, changes, why):
    config = changed(config, {"optim.schedule": schedule})
    path = tmp_path / contents.CONFIG
    identity.keep_config(tmp_path, config, {"devices": 1})
    (tmp_path / contents.RESULTS).write_text("{}")
    if why is None:
        assert identity.refuse_difference(tmp_path, path, changed(config, changes))
        identity.keep_config(tmp_path, changed(config, changes), {"devices": 1})
        assert not (tmp_path / contents.RESULTS).exists()  # of the shorter run
        assert contents.read_config(path)["config"]["train"]["steps"] == 6
    else:
        with pytest.raises(UserError, match=why):
            identity.refuse_difference(tmp_path, path, changed(config, changes))
        assert (tmp_path / contents.RESULTS).exists()
    assert not identity.refuse_difference(tmp_path, path, changed(config, changes if why is None else {}))


def test_a_run_and_its_origin_may_move_together_but_not_apart(config, tmp_path):
    def placed(folder):
        return changed(config, {"init": "mae", "init_from": str(tmp_path / folder / "pretrain")})

    (tmp_path / "old" / "run").mkdir(parents=True)
    identity.keep_config(tmp_path / "old" / "run", placed("old"), {"devices": 1})
    saved = contents.read_json(tmp_path / "old" / "run" / contents.CONFIG)
    assert saved["init_from_here"] == "../pretrain"
    (tmp_path / "old").rename(tmp_path / "new")
    run = tmp_path / "new" / "run"
    assert not identity.refuse_difference(run, run / contents.CONFIG, placed("new"))
    with pytest.raises(UserError, match="init_from: "):
        identity.refuse_difference(run, run / contents.CONFIG, placed("elsewhere"))


def test_versions_and_the_commit(monkeypatch):
    result = identity.versions()
    assert (
        result["jax"] == jax.__version__ and result["python"].count(".") == 2 and set(identity.PACKAGES) <= set(result)
    )
    answers = {"rev-parse": "abc123\n", "status": ""}

    def run(command, **options):
        return subprocess.CompletedProcess(command, 0, answers[command[1]], "")

    monkeypatch.setattr(identity.subprocess, "run", run)
    assert identity.commit() == "abc123"
    answers["status"] = " M mae_jax/main.py\n"
    assert identity.commit() == "abc123+"

    def fails(command, **options):
        raise subprocess.CalledProcessError(128, command)

    monkeypatch.setattr(identity.subprocess, "run", fails)
    assert identity.commit() == ""


@pytest.mark.parametrize(("epochs", "warmup", "may"), [(3.0, 5.0, False), (3.0, 3.0, True), (9.0, 5.0, True)])
def test_a_run_that_ended_within_its_warm_up_cannot_get_longer(tiny_config, tmp_path, epochs, warmup, may):
    """A longer run would have warmed up more slowly."""
    fields = {"optim.schedule": "constant", "optim.warmup_epochs": warmup, "train.epochs": epochs}
    config = validate(tiny_config(**fields))
    steps = round(2 * epochs)
    resolved = {"devices": 1, "steps_per_epoch": 2, "steps": steps, "warmup_steps": min(steps, round(2 * warmup))}
    identity.keep_config(tmp_path, config, resolved)
    longer = changed(config, {"train.epochs": 20.0})
    if may:
        assert identity.refuse_difference(tmp_path, tmp_path / contents.CONFIG, longer)
        return
    with pytest.raises(UserError, match=r"because its warm-up \(optim.warmup_epochs=5\) lasted as long as the run and"):
        identity.refuse_difference(tmp_path, tmp_path / contents.CONFIG, longer)
