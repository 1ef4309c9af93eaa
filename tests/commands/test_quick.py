"""`mae-jax quick`: the check, the small study and the plan, in this order and with one cache."""

import pytest

from mae_jax import main as study_command
from mae_jax.__main__ import dispatch
from mae_jax.datasets import check
from mae_jax.runtime import machine
from mae_jax.runtime.errors import UserError
from mae_jax.study import quick


@pytest.fixture
def calls(record):
    record(machine, "keep_memory")
    return {
        "configured": record(quick, "configured", "the config"),
        "check": record(check, "check"),
        "run": record(study_command, "run"),
        "more": record(quick, "what_more", ["more seeds", "an hour"]),
    }


def test_images_are_checked_studied_and_planned_with_one_cache(calls, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my cells").mkdir()
    options = ["--group_pattern=(p)", "--seeds=2", "--steps=9", "--bad_images=skip", "--arm=histogram"]
    assert dispatch(["quick", "my cells", *options]) == 0
    (fields, unlabeled, init, *rest, cache, arms), _ = calls["configured"][0]
    assert (fields["dir"], fields["group_pattern"], fields["bad_images"]) == ("my cells", "(p)", "skip")
    assert (unlabeled, init, rest, arms) == ("", "", [2, 9], ["histogram"])
    ((where, _, out), named), ((config, workdir, shared), _) = calls["check"][0], calls["run"][0]
    assert (where, str(out)) == ("my cells", "runs/quick-my_cells/check.csv") and named["fields"] == fields
    assert named["cache"] is cache and shared is cache
    assert (config, str(workdir)) == ("the config", "runs/quick-my_cells")
    assert calls["more"] == [(("the config", cache), {})]
    assert capsys.readouterr().out.splitlines()[-2:] == ["more seeds", "an hour"]


def test_a_check_that_is_done_and_a_plan_that_is_not_wanted_are_left_out(calls, tmp_path, capsys):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "check.csv").write_text("")
    encoder = ["--init", str(tmp_path), "--unlabeled=~a,b", "--no_plan", f"--workdir={tmp_path / 'w'}"]
    with pytest.raises(UserError, match="--unlabeled=~a: ~a is not a user with a home directory"):
        dispatch(["quick", str(tmp_path), *encoder])
    encoder[2] = "--unlabeled=a,b"
    assert dispatch(["quick", str(tmp_path), *encoder]) == 0
    assert "note: --unlabeled=a,b is not used, because --init=" in capsys.readouterr().out
    assert calls["configured"][0][0][1:5] == ("a,b", str(tmp_path), 3, 400)
    assert calls["check"] == calls["more"] == [] and len(calls["run"]) == 1


def test_a_place_that_does_not_exist_is_refused_first(calls, tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist; name a folder of labeled images, or a CSV"):
        dispatch(["quick", str(tmp_path / "nowhere")])
    assert not any(calls.values())
