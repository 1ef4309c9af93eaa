"""A report is kept while nothing that it was made from, and nothing of it, has changed."""

import json
import os

import pytest

from mae_jax.report import unchanged


@pytest.fixture
def runs(tmp_path):
    """Two run directories, the second from a pre-training."""
    for name in ("cells/scratch", "cells/mae", "pretrain"):
        place = tmp_path / name
        (place / "checkpoints").mkdir(parents=True)
        (place / "checkpoints" / "state").write_text("1")
        (place / "run.json").write_text(json.dumps({"init_from": str(tmp_path / "pretrain") if "mae" in name else ""}))
        (place / "metrics.jsonl").write_text("{}\n")
    return [tmp_path / "cells/scratch", tmp_path / "cells/mae"]


SETTINGS = {"title": "Cells", "target": 0.0}


def test_what_a_report_reads_counts_and_nothing_else(runs, tmp_path):
    first = unchanged.fingerprint(runs, SETTINGS)
    assert unchanged.fingerprint(runs[::-1], SETTINGS) == first
    (runs[0] / "checkpoints" / "state").write_text("22")
    (runs[0] / ".lock").write_text("1 on host")
    assert unchanged.fingerprint(runs, SETTINGS) == first
    seen = {first}
    for change in (
        lambda: (runs[1] / "predictions.csv").write_text("image\n"),
        lambda: (tmp_path / "pretrain" / "metrics.jsonl").write_text("{} \n"),
        lambda: os.utime(runs[0] / "metrics.jsonl", ns=(1, 1)),
    ):
        change()
        seen.add(unchanged.fingerprint(runs, SETTINGS))
    seen.add(unchanged.fingerprint(runs, SETTINGS | {"target": 0.9}))
    seen.add(unchanged.fingerprint(runs[:1], SETTINGS))
    assert len(seen) == 6


def test_a_moved_study_counts_the_pretraining_beside_its_cells(runs, tmp_path):
    (tmp_path / "cells").rename(tmp_path / "moved")
    (tmp_path / "pretrain").rename(tmp_path / "old")
    moved = [tmp_path / "moved" / run.name for run in runs]
    before = unchanged.fingerprint(moved, SETTINGS)
    (tmp_path / "old").rename(tmp_path / "pretrain")
    with_it = unchanged.fingerprint(moved, SETTINGS)
    (tmp_path / "pretrain" / "metrics.jsonl").write_text("{}  \n")
    assert len({before, with_it, unchanged.fingerprint(moved, SETTINGS)}) == 3


def test_a_report_is_kept_only_if_all_its_files_are_there(tmp_path):
    page = tmp_path / "index.html"
    page.write_text("page")
    assert unchanged.kept(tmp_path, "abc") is None
    unchanged.keep(tmp_path, "abc", [page], {"rows": [{"accuracy": 0.5}]})
    assert unchanged.kept(tmp_path, "abc") == {"rows": [{"accuracy": 0.5}]}
    assert unchanged.kept(tmp_path, "other") is None
    page.write_text("longer page")
    assert unchanged.kept(tmp_path, "abc") is None
    page.unlink()
    assert unchanged.kept(tmp_path, "abc") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"inputs": "abc"}', '{"inputs": "abc", "files": 3, "content": {}}'])
def test_a_damaged_record_means_a_new_report(tmp_path, text):
    (tmp_path / unchanged.RECORD).write_text(text)
    assert unchanged.kept(tmp_path, "abc") is None
