"""Everything that the page of a study shows, as data."""

import dataclasses

import pytest

from mae_jax.report import tables
from mae_jax.report.findings import find
from mae_jax.runtime.errors import UserError


@pytest.fixture
def dirs(make, tmp_path):
    return [make.run(tmp_path / f"{i}{s}", i, 0.1, seed=s, rows=60) for i in ("scratch", "mae") for s in (0, 1)]


def test_rows_pairs_counts_and_seeds_are_those_of_the_runs(dirs):
    result = find(dirs[:3], notes=["of the study"])
    assert [(row["init"], row["seeds"]) for row in result.rows] == [("scratch", 2), ("mae", 1)] and result.seeds == 2
    assert {row["init"] for row in result.paired} == {"mae"}
    labels = result.study.runs[0].test.labels
    assert result.class_counts == [
        (name, int((labels == i).sum())) for i, name in enumerate(result.study.runs[0].classes)
    ]
    assert sum(n for _, n in result.class_counts) == 60
    runs = [dataclasses.replace(run, classes=(*run.classes, "rare")) for run in result.study.runs]
    without = dataclasses.replace(result, study=dataclasses.replace(result.study, runs=runs))
    assert without.class_counts[-1] == ("rare", 0)
    assert result.notes == ["of the study"]
    assert [line for line in result.left_out if "mae at 10 %: 1 seed" in line]


def test_the_title_names_the_data_and_a_given_title_wins(make, tmp_path):
    named = make.run(tmp_path / "a", "scratch", 0.1, rows=60, data_name="Leaves\x1b 2")
    result = find([named])
    assert (result.title, result.images) == ("How many labels are enough? Leaves 2", "Leaves 2")
    result = find([make.run(tmp_path / "b", "scratch", 0.1, rows=60, data=None)])
    assert (result.title, result.images) == ("How many labels are enough?", "")
    assert find([named], title="Mine").title == "Mine"


def test_the_published_table_is_shown_on_its_own_images_alone(make, tmp_path):
    assert find([make.run(tmp_path / "a", "scratch", 0.1, rows=60)]).published == []
    raabin = make.run(tmp_path / "b", "scratch", 0.1, rows=60, data="raabin_wbc")
    assert find([raabin]).published is tables.PUBLISHED


@pytest.mark.parametrize("target", [-0.1, 1.5, float("nan")])
def test_a_target_that_is_not_a_macro_f1_is_refused_before_a_run_is_read(tmp_path, target):
    with pytest.raises(UserError, match="is not a macro F1: use a number above 0 and at most 1"):
        find([tmp_path / "nothing"], target=target)


def test_probes_are_apart_and_without_other_models_the_first_headline_says_what_they_are(make, dirs, tmp_path):
    probe = make.run(tmp_path / "probe", "scratch", 0.1, rows=60, evaluation="knn")
    result = find([*dirs, probe])
    assert [run.path for run in result.probe_runs] == [probe] and [each.evaluation for each in result.probes] == ["knn"]
    assert "All models here" not in " ".join([*result.answer["headlines"], *result.answer["arms"]])
    alone = find([probe])
    kind = "nearest neighbors by the features of frozen encoders"
    assert alone.probe_runs == alone.probes == []
    assert alone.answer["headlines"][0].endswith(f"All models here are {kind}.")
    assert alone.answer["arms"][0] == f"All models here are {kind}: the encoder was not trained."
    odd = find([make.run(tmp_path / "odd", "scratch", 0.1, rows=60, evaluation="SVM")])
    assert odd.answer["arms"][0].startswith("All models here are classifiers on frozen encoders (SVM): ")
