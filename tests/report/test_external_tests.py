"""External test sets: which runs were tested on them, their scores, and what is left out."""

import pytest

from mae_jax.report import external_tests
from mae_jax.report.runs import read_runs
from mae_jax.runtime.errors import UserError


@pytest.fixture
def dirs(make, tmp_path):
    return [make.run(tmp_path / init, init, 0.1, rows=60) for init in ("scratch", "mae")]


def test_scores_are_of_the_external_images_and_the_classes_are_those_that_occur(make, dirs):
    for seed, run in enumerate(dirs):
        make.external(run, "TestB", ["Lymphocyte", "Neutrophil"], seed=seed)
    runs, _ = read_runs(dirs)
    (result,), notes = external_tests.read(runs)
    assert notes == [] and result.classes == ["Lymphocyte", "Neutrophil"] and result.name == result.slug == "TestB"
    assert [row["init"] for row in result.rows] == ["scratch", "mae"] and result.rows[0]["n_test"] == 90
    for row, run in zip(result.rows, result.study.runs, strict=True):
        assert row["accuracy"] == pytest.approx(run.test.right.mean())
        assert run.validation is not None and run.log == ()  # validation images choose the baseline
    gain = result.rows[1]["accuracy"] - result.rows[0]["accuracy"]
    (paired,) = [row for row in result.paired if row["metric"] == "accuracy"]
    assert paired["difference"] == pytest.approx(gain, abs=1e-9)


def test_sets_are_sorted_their_file_names_differ_and_untested_runs_are_counted(make, dirs):
    for name in ("b c", "b_c", "a"):
        make.external(dirs[0], name, make.classes)
    runs, _ = read_runs(dirs)
    result, notes = external_tests.read(runs)
    assert [each.name for each in result] == ["a", "b c", "b_c"]
    assert [each.slug for each in result] == ["a", "b_c", "b_c_"]
    assert "a: 1 of 2 runs was not tested on it" in notes and len(result[0].study.runs) == 1


def test_a_random_probe_is_the_baseline_of_the_set_that_it_was_tested_on(make, dirs, tmp_path):
    probe = make.run(tmp_path / "probe", "scratch", 0.1, rows=60, evaluation="lbfgs")
    for run in (*dirs, probe):
        make.external(run, "TestB", make.classes, seed=4)
    make.external(dirs[0], "other", make.classes)
    runs, _ = read_runs(dirs)
    tests, _ = external_tests.read(runs, read_runs([probe])[0])
    by_name = {each.name: each for each in tests}
    (expected,) = {run.test.right.mean() for run in by_name["TestB"].study.runs}
    assert [row["random_probe_accuracy"] for row in by_name["TestB"].rows] == [pytest.approx(expected)] * 2
    assert by_name["other"].rows[0]["random_probe_accuracy"] is None


def test_other_images_in_two_runs_are_refused_and_a_missing_column_is_named_once(make, dirs):
    make.external(dirs[0], "TestB", make.classes, rows=20)
    make.external(dirs[1], "TestB", make.classes, rows=10)
    runs, _ = read_runs(dirs)
    with pytest.raises(UserError, match="external/TestB/predictions.csv: 10 test images, not the same 20"):
        external_tests.read(runs)
    for run in dirs:
        file = run / "external" / "TestB" / "predictions.csv"
        rows = ["image,label,prediction,confidence", *(f"{i},Basophil,Basophil,0.9" for i in range(5))]
        file.write_text("\n".join(rows) + "\n")
    (result,), notes = external_tests.read(runs)
    assert result.classes == ["Basophil"] and result.rows[0]["accuracy"] == 1
    assert len(notes) == 2 and all(note.startswith("TestB: ") and note.endswith("(2 runs)") for note in notes)


def test_runs_without_external_test_sets_have_none(make, dirs):
    runs, _ = read_runs(dirs)
    (dirs[0] / "external" / "x" / "predictions.csv").mkdir(parents=True)  # a directory of that name
    assert external_tests.read(runs) == ([], [])
