"""`mae-jax check`: its output file, and what reaches the search."""

import pytest

from mae_jax.__main__ import dispatch
from mae_jax.datasets import check
from mae_jax.runtime.errors import UserError

USUAL = {"columns": "", "group_pattern": "", "levels": "", "train_split": "auto", "val_split": "auto"}
USUAL |= {"test_split": "auto"}


def test_the_output_is_named_after_the_data_set_and_options_are_passed_on(record, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = record(check, "check")
    given = [
        "check",
        "some where/my set:v1",
        "--group_pattern=(p.)",
        "--data_dir=d",
        "--test_split=C",
        "--levels=class",
    ]
    assert dispatch(given) == 0
    (name, data_dir, out), named = calls[0]
    assert (name, data_dir, str(out)) == ("some where/my set:v1", "d", "check_my_set_v1.csv")
    fields = {"group_pattern": "(p.)", "test_split": "C", "levels": "class", "dir": "some where/my set:v1"}
    assert named["fields"] == USUAL | fields and named["options"]["dir"] == "DATASET"
    dispatch(["check", "cam16", "--out", "found.csv"])
    assert str(calls[-1][0][2]) == "found.csv" and calls[-1][0][1] == ""


def test_a_table_has_columns_and_a_folder_and_a_folder_has_levels(record, tmp_path):
    calls = record(check, "check")
    (tmp_path / "labels.v2.csv").write_text("path,label\n")
    table = str(tmp_path / "labels.v2.csv")
    dispatch(["check", table, "--columns=path=f", "--dir=there", f"--out={tmp_path / 'o.csv'}"])
    assert calls[0][1]["fields"] == USUAL | {"columns": "path=f", "labels": table, "dir": "there"}
    assert calls[0][1]["options"]["labels"] == "DATASET" and calls[0][1]["options"]["dir"] == "--dir"
    for arguments, message in (
        ([table, "--levels=class"], "--levels=class is for folders, but .*labels.v2.csv is a table of labels; omit it"),
        (
            [str(tmp_path), "--columns=path=f"],
            "--columns=path=f is for a table of labels, but .* is not a file; omit it",
        ),
        ([str(tmp_path), "--dir=x"], "--dir=x is for a table of labels"),
    ):
        with pytest.raises(UserError, match=message):
            dispatch(["check", *arguments, f"--out={tmp_path / 'o.csv'}"])
    assert len(calls) == 1
