"""Which steps are complete, and the first array of a checkpoint that does not fit the network."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from mae_jax.checkpoints import digests, steps
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError

ITEMS = ("params", "optimizer", "position", "config")


def step(directory, name, inside="", items=ITEMS):
    for item in items:
        (directory / name / item).mkdir(parents=True)
    (directory / name / digests.DIGESTS).write_text("{}")
    if inside:
        (directory / name / "step.txt").write_text(inside)


def test_only_complete_steps_under_their_own_numbers_count(tmp_path):
    step(tmp_path, "3")
    step(tmp_path, "12", "12")
    step(tmp_path, "7", items=("params", "position"))
    step(tmp_path, "9", "8")
    step(tmp_path, "05")
    step(tmp_path, "20", items=("params", "position", "config"))
    (tmp_path / "20" / digests.NO_OPTIMIZER).touch()
    (tmp_path / "tmp.99").mkdir()
    (tmp_path / "100").write_text("a file")
    lines = []
    assert steps.committed_steps(tmp_path, lines.append) == [20, 12, 3]
    assert sorted(line.removeprefix(f"{tmp_path}/") for line in lines) == [
        "05 is not a complete checkpoint (its name is not a plain number); skipped",
        "7 is not a complete checkpoint (optimizer, config missing); skipped",
        "9 is not a complete checkpoint (it holds step 8); skipped",
    ]
    assert steps.committed_steps(tmp_path / "none") == []


def test_a_name_that_is_taken_gets_a_number(tmp_path):
    assert steps.unused(tmp_path / "a") == tmp_path / "a"
    for taken in ("a", "a.1"):
        (tmp_path / taken).mkdir()
    assert steps.unused(tmp_path / "a") == tmp_path / "a.2"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "params"
    tree = {"a": {"kernel": np.ones((2, 3), np.float32)}, "b": np.zeros(4, np.int32)}
    with ocp.StandardCheckpointer() as saver:
        saver.save(directory, tree)
    return directory


def like(**changes):
    leaf = jax.ShapeDtypeStruct
    return {"a": {"kernel": leaf((2, 3), np.float32)}, "b": leaf((4,), np.int32)} | changes


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (like(), ""),
        (
            like(a={"kernel": jax.ShapeDtypeStruct((3, 2), np.float32)}),
            "a.kernel has the shape (2, 3) instead of (3, 2)",
        ),
        (like(b=jax.ShapeDtypeStruct((4,), np.int16)), "b is int32 instead of int16"),
        (like(c=jax.ShapeDtypeStruct((1,), np.int32)), "params has no c"),
        ({"a": like()["a"]}, "params has b, which the network does not have"),
    ],
)
def test_the_first_array_that_does_not_fit_is_named(saved, tree, message):
    result = steps.differing_leaf(saved, tree)
    assert result.endswith(message) and bool(result) == bool(message)


def test_a_run_without_checkpoints_is_named(tmp_path):
    with pytest.raises(
        UserError, match=rf"init_from={tmp_path} has no checkpoint; name the run directory of a finished"
    ):
        steps.load_params(tmp_path, {}, "init_from")
    (tmp_path / contents.RESULTS).write_text("{}")
    with pytest.raises(UserError, match="has results.json, but its checkpoints are missing"):
        steps.load_params(tmp_path, {}, "init_from")
