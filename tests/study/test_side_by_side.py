"""Which runs train at once, in which order, and whether that is worth it."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from mae_jax.config.fields import study_defaults
from mae_jax.config.schedule import Schedule
from mae_jax.data.looks import Kept
from mae_jax.data.splits import DataCache
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.progress import Progress
from mae_jax.study import side_by_side
from mae_jax.study.plan import Planned
from mae_jax.study.team import Place, Team, Worker
from mae_jax.study.validation import validate_study

SCHEDULE = Schedule(
    n_train=60, devices=1, batch_size=16, rows=16, steps_per_epoch=4, steps=8, warmup_steps=0, peak_lr=1e-3,
    eval_every=4, save_every=4,
)  # fmt: skip


@pytest.fixture
def study(tiny_config):
    def make(**fields):
        config = study_defaults(tiny_config("pretrain"), tiny_config("finetune"))
        config.update(fields)
        return validate_study(config)

    return make


@pytest.fixture
def planned(tiny_config):
    """Runs by task, start and seconds."""

    def make(*runs: tuple[str, str, float]) -> list[Planned]:
        return [
            Planned(
                Path(str(k)), tiny_config(task, init_from=start), SCHEDULE, 0, 0, False,
                step_seconds=0.0 if task in ("knn", "lbfgs") else 0.1, seconds=seconds,
            )
            for k, (task, start, seconds) in enumerate(runs)
        ]  # fmt: skip

    return make


def test_the_longest_job_is_first_and_probes_of_an_encoder_stay_together(planned):
    runs = planned(
        ("finetune", "a", 5.0), ("knn", "a", 3.0), ("finetune", "b", 9.0), ("lbfgs", "a", 4.0), ("knn", "b", 1.0)
    )
    assert side_by_side.jobs(runs, range(5)) == [[2], [1, 3], [0], [4]]
    assert side_by_side.jobs(runs, [0, 4]) == [[0], [4]]


def test_the_time_of_all_jobs_is_that_of_the_worker_with_most_to_do(planned):
    runs = planned(*[("finetune", "", seconds) for seconds in (7.0, 5.0, 4.0, 4.0)])
    jobs = [[0], [1], [2], [3]]
    assert side_by_side.makespan(runs, jobs, 1) == 20
    assert side_by_side.makespan(runs, jobs, 2) == 11  # 7 + 4 and 5 + 4: the third goes where 5 is done first
    assert side_by_side.makespan(runs, jobs, 4) == 7


@pytest.mark.parametrize(
    ("parallel", "cores", "expected"),
    [("3", [0, 1, 2, 3, 4, 5], 3), ("1", [0, 1], 0), ("8", [0, 1], 4), ("auto", [0, 1], 0)],
)
def test_a_number_is_taken_and_auto_outside_a_command_is_one(planned, study, monkeypatch, parallel, cores, expected):
    monkeypatch.setattr(side_by_side.hardware, "core_numbers", lambda: cores)
    runs = planned(*[("finetune", "", 500.0)] * 4)
    places = side_by_side.places(study(parallel=parallel), runs, [[0], [1], [2], [3]])
    assert len(places) == expected
    if expected == 3:
        assert places == [Place((0, 1)), Place((2, 3)), Place((4, 5))]


@pytest.mark.parametrize(("seconds", "free", "expected"), [(500.0, None, 4), (500.0, 0, 0), (20.0, None, 0)])
def test_auto_asks_for_long_runs_and_memory_for_each(planned, study, monkeypatch, seconds, free, expected):
    monkeypatch.setattr(side_by_side.signals, "of_a_command", lambda: True)
    monkeypatch.setattr(side_by_side.jax, "device_count", lambda: 1)
    monkeypatch.setattr(side_by_side.hardware, "available_memory", lambda: free)
    monkeypatch.setattr(side_by_side.hardware, "core_numbers", lambda: [0, 1, 2, 3])
    runs = planned(*[("finetune", "", seconds)] * 4)
    assert len(side_by_side.places(study(), runs, [[0], [1], [2], [3]])) == expected


@pytest.mark.parametrize(("each", "faster"), [(0.15, True), (0.19, False), (0.25, False)])
def test_workers_are_used_if_they_do_more_updates_per_second(planned, study, capsys, monkeypatch, each, faster):
    """Two workers of 0.19 s per update do 1.05 times the updates of one process of 0.1 s: not worth it."""
    team = object.__new__(Team)  # without processes
    team.workers = [object.__new__(Worker), object.__new__(Worker)]
    monkeypatch.setattr(Team, "seconds_per_update", lambda team, config: each)
    runs = planned(("finetune", "", 100.0), ("finetune", "", 100.0))
    chosen = side_by_side.chosen(study(), team, runs, [[0], [1]], Progress(1.0))
    assert chosen is faster
    assert ("2 runs at once, about 2 minutes for the classifiers" in capsys.readouterr().out) is faster


def test_gpus_are_left_to_workers_unless_processes_share_each_run(study, monkeypatch):
    restricted = []
    monkeypatch.setattr(side_by_side, "gpu_names", lambda: ["0", "1", "2"])
    monkeypatch.setattr(side_by_side.jax.config, "update", lambda *values: restricted.append(values))
    assert side_by_side.gpus(study()) == [] and not restricted  # a notebook: JAX may hold the GPUs
    monkeypatch.setattr(side_by_side.signals, "of_a_command", lambda: True)
    assert side_by_side.gpus(study(parallel="1")) == [] and not restricted
    assert side_by_side.gpus(study()) == ["0", "1", "2"] and restricted == [("jax_platforms", "cpu")]
    assert side_by_side.gpus(study(parallel="2")) == ["0", "1"]
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    assert side_by_side.gpus(study()) == []
    with pytest.raises(UserError, match="parallel=2, but several processes share each run already; use parallel=1"):
        side_by_side.gpus(study(parallel="2"))


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", ""])
def test_other_values_are_refused(study, value):
    with pytest.raises(UserError, match=f"parallel={value} is not allowed; use auto, or a whole number from 1 to 999"):
        study(parallel=value)


def test_what_was_read_of_the_images_reaches_the_workers(tmp_path):
    cache = DataCache()
    cache.once(("validation", 1), lambda: [3, 1])
    path = side_by_side.keep(cache, os.fspath(tmp_path))
    with open(path, "rb") as file:
        again = pickle.load(file)
    assert again.once(("validation", 1), lambda: pytest.fail("computed again")) == [3, 1]


def test_the_workers_of_a_study_get_the_perceptual_hashes_and_those_of_a_loader_do_not(tmp_path):
    """A worker compares its test images with those of its pre-training."""
    cache, hashes = DataCache(), np.arange(-8, 8, dtype=np.int8).reshape(2, 8)
    cache.once(("images",), lambda: Kept(hashes))
    with open(side_by_side.keep(cache, os.fspath(tmp_path)), "rb") as file:
        again = pickle.load(file)
    np.testing.assert_array_equal(again.once(("images",), dict)(), hashes)
    with pytest.raises(RuntimeError, match="not sent to other processes"):
        pickle.loads(pickle.dumps(Kept(hashes)))()
