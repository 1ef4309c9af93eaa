"""What a run directory must contain, and the message if it does not."""

import csv
import errno
import io
import json
import math
import os

import pytest

from mae_jax.report.__main__ import main
from mae_jax.report.runs import percent, read_runs, rounded, series
from mae_jax.rundir.predictions import clean
from mae_jax.runtime.errors import UserError


def edit_json(run, **changes):
    info = json.loads((run / "run.json").read_text()) | changes
    kept = {k: v for k, v in info.items() if v is not ...}
    (run / "run.json").write_text(json.dumps(kept))


def edit_csv(run, change, name="predictions.csv"):
    with (run / name).open() as stream:
        table = list(csv.DictReader(stream))
    table = change(table)
    with (run / name).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, table[0])
        writer.writeheader()
        writer.writerows(table)


def change_row(number, **values):
    def change(table):
        table[number] |= values
        return table

    return change


def without(column):
    return lambda table: [{k: v for k, v in row.items() if k != column} for row in table]


@pytest.fixture
def pair(make, tmp_path):
    return [make.run(tmp_path / init, init, 0.1, rows=60) for init in ("scratch", "mae")]


def test_reads_in_order_whatever_the_order_of_rows_and_classes(pair, make):
    edit_csv(pair[1], lambda table: table[::-1])
    edit_json(pair[1], classes=make.classes[::-1])
    runs, notes = read_runs(pair[::-1])
    assert [run.init for run in runs] == ["scratch", "mae"]
    assert runs[0].classes == runs[1].classes
    assert (runs[0].test.labels == runs[1].test.labels).all()
    assert runs[0].test.images == runs[1].test.images
    assert runs[0].test.probabilities.shape == (60, 5)
    assert (runs[1].test.probabilities.argmax(1) == runs[1].test.predictions).all()
    assert notes == []


def test_the_minimum_that_is_needed(make, tmp_path):
    run = make.run(tmp_path / "a", "scratch", 0.1, rows=30, columns=list(make.required))
    for name in ("metrics.jsonl", "predictions_val.csv"):
        (run / name).unlink()
    (run / "run.json").write_text(json.dumps({"init": "scratch", "fraction": 0.1, "seed": 0, "classes": make.classes}))
    (read,), notes = read_runs([run])
    assert read.test.groups is None and read.test.probabilities is None and read.n_train is None
    assert any("p_Basophil" in note for note in notes) and any("'group'" in note for note in notes)


def test_images_without_a_group_are_groups_of_their_own(make, tmp_path):
    run = make.run(tmp_path / "a", "scratch", 0.1, rows=30)
    edit_csv(run, lambda rows: [row | {"group": "" if i < 10 else row["group"]} for i, row in enumerate(rows)])
    (read,), notes = read_runs([run])
    assert notes == [] and all(read.test.groups)
    units = dict(zip(read.test.images, read.test.groups, strict=True))
    alone = [image for image, group in units.items() if group == f"image {image}"]
    assert len(alone) == 10 and len(set(units.values())) == 30
    edit_csv(run, lambda rows: [row | {"group": ""} for row in rows])
    (read,), notes = read_runs([run])
    assert read.test.groups is None and "groups are not known, so the same patient may be on both sides" in notes[0]


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda a, b: (b / "run.json").unlink(), ["run.json", "is not the directory of a run or study"]),
        (lambda a, b: (b / "predictions.csv").unlink(), ["predictions.csv", "not found"]),
        (lambda a, b: (b / "run.json").write_text("{"), ["run.json", "JSON"]),
        (lambda a, b: (b / "run.json").write_text("[1]"), ["run.json", "[1]"]),
        (lambda a, b: (b / "run.json").write_bytes(b"\xff\xfe"), ["run.json"]),
        (lambda a, b: edit_json(b, init=...), ["'init'", "missing"]),
        (lambda a, b: edit_json(b, fraction=10), ["fraction", "10", "at most 1"]),
        (lambda a, b: edit_json(b, fraction=float("nan")), ["fraction", "nan"]),
        (lambda a, b: edit_json(b, seed="0"), ["seed", "'0'", "integer"]),
        (lambda a, b: edit_json(b, seed=True), ["seed", "True"]),
        (lambda a, b: edit_json(b, classes=["A"]), ["classes", "2 or more"]),
        (lambda a, b: edit_json(b, classes=["A", "A\x1b"]), ["classes"]),
        (lambda a, b: edit_json(b, n_train=-1), ["n_train", "-1"]),
        (lambda a, b: edit_json(b, init="scratch"), ["scratch", "also in"]),
        (lambda a, b: edit_json(b, classes=["A", "B"]), ["classes", "differ"]),
        (lambda a, b: edit_csv(b, without("confidence")), ["'confidence'", "missing"]),
        (lambda a, b: edit_csv(b, change_row(3, label="Cat")), ["line 5", "'Cat'", "Basophil"]),
        (lambda a, b: edit_csv(b, change_row(3, prediction="")), ["line 5", "prediction"]),
        (lambda a, b: edit_csv(b, change_row(3, confidence="nan")), ["line 5", "'nan'"]),
        (lambda a, b: edit_csv(b, change_row(3, confidence="1.2")), ["line 5", "'1.2'"]),
        (lambda a, b: edit_csv(b, change_row(3, p_Basophil="1.0")), ["line 5", "sum"]),
        (lambda a, b: edit_csv(b, lambda t: [*t, t[0]]), ["line 62", "twice"]),
        (lambda a, b: edit_csv(b, lambda t: t[1:]), ["same", "missing here"]),
        (lambda a, b: edit_csv(b, change_row(3, image="other")), ["same", "images"]),
        (lambda a, b: edit_csv(b, change_row(3, group="other")), ["'group'"]),
        (lambda a, b: (b / "predictions.csv").write_text(""), ["'image'"]),
        (
            lambda a, b: (b / "predictions.csv").write_text("image,label,prediction,confidence\n"),
            ["no rows"],
        ),
        (
            lambda a, b: (b / "predictions.csv").write_text("image,label,prediction,confidence\na,b\n"),
            ["line 2", "2 cells"],
        ),
        (lambda a, b: (b / "predictions.csv").write_text('image,label\n"a'), ["CSV"]),
        (lambda a, b: (b / "predictions.csv").write_text("image,image\n"), ["twice"]),
        (lambda a, b: (b / "predictions.csv").write_bytes(b"image,\xff\n"), ["CSV"]),
        (
            lambda a, b: (b / "predictions_val.csv").write_bytes((b / "predictions.csv").read_bytes()),
            ["predictions_val.csv", "also in"],
        ),
    ],
)
def test_mistakes_are_one_line_with_file_value_and_remedy(pair, tmp_path, capsys, break_it, words):
    break_it(*pair)
    with pytest.raises(UserError) as caught:
        read_runs(pair)
    assert main([*map(str, pair), "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "Traceback" not in shown
    for word in words:
        assert word in str(caught.value) and word in shown


def test_labels_that_differ_between_pairs(pair):
    def swap(table):
        table[0]["label"] = next(r["label"] for r in table if r["label"] != table[0]["label"])
        return table

    edit_csv(pair[1], swap)
    with pytest.raises(UserError, match="has label"):
        read_runs(pair)


def test_of_a_step_that_was_logged_twice_the_last_value_counts():
    """A run that was killed and resumed logs the steps since its last checkpoint again."""
    log = [{"step": s, "val/accuracy": a} for s, a in ((1, 0.1), (2, 0.2), (3, 0.3), (2, 0.25), (3, 0.35))]
    assert series(log, "step", "val/accuracy") == [(1, 0.1), (2, 0.25), (3, 0.35)]
    assert (
        series([{"step": 1, "val/accuracy": math.nan}, {"step": True, "val/accuracy": 1}], "step", "val/accuracy") == []
    )


def test_broken_log_lines_are_counted(pair):
    with (pair[0] / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 1, "tr')
    runs, notes = read_runs(pair)
    assert len(runs[0].log) == 21 and "1 broken" in notes[0]


def test_names():
    assert clean("a\x1b[31mb\u202e c\n") == "a[31mb c"
    assert [percent(f) for f in (0.01, 0.005, 1.0, 0.07)] == ["1 %", "0.5 %", "100 %", "7 %"]


@pytest.mark.parametrize("name", ["run.json", "subset.json", "results.json", "metrics.jsonl", "config.json"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_file_that_cannot_be_read_is_not_taken_for_one_that_is_not_there(pair, monkeypatch, name, number):
    file = pair[0] / name
    if not file.exists():
        file.write_text("{}")
    opened = io.open

    def failing(path, *args, **options):
        if str(path) == str(file):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(io, "open", failing)
    with pytest.raises(OSError, match=os.strerror(number)):
        read_runs(pair)


def test_a_run_of_a_later_format_is_refused_with_its_writer(pair):
    (pair[0] / "config.json").write_text(json.dumps({"format": 7, "version": "9.1", "config": {"task": "finetune"}}))
    with pytest.raises(UserError, match=r"config.json has format 7, written by mae_jax 9\.1, but .*; update mae_jax"):
        read_runs(pair)
    (pair[0] / "config.json").write_text(json.dumps({"format": 7}))  # of other code
    assert len(read_runs(pair)[0]) == 2


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (0.9012, 1, "90.1"), (341 / 342, 0, "99.7"), (341.3 / 342, 1, "99.8"), (0.9999, 1, "99.99"), (1.0, 1, "100.0"),
        (1.0, 0, "100"), (0.0, 0, "0"), (1 - 1e-16, 1, "100.0"), (1 / 342, 0, "0.3"), (1e-6, 1, "< 0.01"),
        (1 - 1e-6, 0, "> 99.99"), (0.996, 0, "99.6"), (0.79, 0, "79"),
    ],
)  # fmt: skip
def test_only_none_and_all_are_0_and_100_percent(share, digits, text):
    assert rounded(share, digits) == text


def test_validation_images_are_counted_by_results_json(make, tmp_path):
    run = make.run(tmp_path / "a", "scratch", 0.1, rows=60, select="macro_f1")
    (run / "predictions_val.csv").unlink()
    assert read_runs([run])[0][0].n_validation is None
    for recorded, known in ((223, 223), ("many", None), (-1, None)):
        (run / "results.json").write_text(json.dumps({"n_validation": recorded}))
        assert read_runs([run])[0][0].n_validation == known
