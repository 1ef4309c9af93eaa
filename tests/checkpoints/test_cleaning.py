"""Optimizer states of finished runs are deleted, and nothing else."""

import pytest

from mae_jax.checkpoints import cleaning, digests, steps
from mae_jax.rundir import contents, lock
from mae_jax.runtime.errors import UserError


@pytest.fixture
def run(tmp_path):
    """A finished run with the checkpoints of steps 4 and 8, each with 30 bytes of optimizer state."""
    for step in (4, 8):
        place = tmp_path / "checkpoints" / str(step)
        for name in ("params", "optimizer", "position", "config"):
            (place / name / "deep").mkdir(parents=True)
            (place / name / "deep" / "data").write_bytes(b"x" * 10 * (1 + 2 * (name == "optimizer")))
        digests.write(place)
    for name in (contents.RUN, contents.RESULTS):
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_only_finished_runs_have_something_to_drop(run):
    assert cleaning.droppable(run) == 60
    (run / contents.RESULTS).rename(run / "aside")
    assert cleaning.droppable(run) == cleaning.drop(run) == 0
    assert (run / "checkpoints" / "8" / "optimizer").exists()


def test_what_is_dropped_is_the_optimizer_state_and_the_rest_stays_whole(run):
    assert cleaning.drop(run) == 60 and cleaning.droppable(run) == cleaning.drop(run) == 0
    assert steps.committed_steps(run / "checkpoints") == [8, 4]
    for step in (4, 8):
        place = run / "checkpoints" / str(step)
        assert not (place / "optimizer").exists() and digests.problem(place) == ""
        assert (place / "params" / "deep" / "data").read_bytes() == b"x" * 10
        with pytest.raises(UserError, match="cannot be resumed, because `mae-jax runs --clean`"):
            steps.refuse_cleaned(place)


def test_of_a_run_that_only_starts_others_the_newest_weights_are_kept(run):
    freed = cleaning.keep_weights(run)
    assert [path.name for path in (run / "checkpoints").iterdir() if path.name.isdecimal()] == ["8"]
    assert freed > 60 + 60 and not (run / "checkpoints" / "8" / "optimizer").exists()
    assert digests.problem(run / "checkpoints" / "8") == ""


def test_a_run_in_use_is_left_alone(run):
    with lock.held(run):
        for clean in (cleaning.drop, cleaning.keep_weights):
            with pytest.raises(UserError, match="is in use by process"):
                clean(run)
    assert cleaning.droppable(run) == 60
