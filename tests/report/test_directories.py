"""A study's directory in place of run directories."""

import json

import pytest

from mae_jax.report.directories import expand, study_settings
from mae_jax.runtime.errors import UserError


def test_a_study_is_all_of_its_finished_classifiers(study):
    result, notes = expand([study])
    assert [run.name for run in result] == ["10pct-mae-seed0", "10pct-scratch-seed0"]
    assert notes == ["not finished, and so left out: 50pct-mae-seed0"]


def test_run_directories_stay_as_they_are(study):
    runs = [study / "cells" / "50pct-mae-seed0", study / "cells" / "10pct-mae-seed0"]
    assert expand(runs) == (runs, [])
    with pytest.raises(UserError, match="nothing is not the directory of a run or study"):
        expand([*runs, study / "nothing"])


def test_a_study_without_classifiers_is_refused(study):
    for run in (study / "cells").iterdir():
        (run / "run.json").unlink()
    with pytest.raises(UserError, match="study: no classifier among its 1 run"):
        expand([study])


def test_a_study_gives_its_title_its_target_and_whether_images_are_shown(study, tmp_path):
    config = {"title": "Few labels", "target": 0.7, "pictures": False, "seeds": [0]}
    (study / "study.json").write_text(json.dumps({"format": 2, "config": config}))
    assert study_settings([study]) == {"title": "Few labels", "target": 0.7, "pictures": False}
    (study / "study.json").write_text(json.dumps({"config": config | {"contrasts": ["a:mae", 3]}}))
    assert study_settings([study])["contrasts"] == ["a:mae"]
    (study / "study.json").write_text(json.dumps({"config": config}))
    assert study_settings([study, tmp_path]) == {"pictures": False}  # several studies have no common title
    (study / "study.json").write_text(json.dumps({"config": {"title": 3, "target": 70, "pictures": "no"}}))
    assert study_settings([study]) == study_settings([tmp_path]) == {}
