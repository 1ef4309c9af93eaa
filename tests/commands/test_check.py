"""`mae-jax check`: its output file, and what reaches the search."""

from mae_jax.__main__ import dispatch
from mae_jax.datasets import check


def test_the_output_is_named_after_the_data_set_and_options_are_passed_on(record, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = record(check, "check")
    assert dispatch(["check", "some where/my set:v1", "--columns=path=f", "--group_pattern=(p.)", "--data_dir=d"]) == 0
    (((name, data_dir, out), named),) = calls
    assert (name, data_dir, str(out)) == ("some where/my set:v1", "d", "check_my_set_v1.csv")
    assert named == {"columns": "path=f", "pattern": "(p.)"}
    dispatch(["check", "cam16", "--out", "found.csv"])
    assert str(calls[-1][0][2]) == "found.csv" and calls[-1][0][1] == ""
