"""What a directory holds: a run, finished or not, of which kind."""

import json

import pytest

from mae_jax.config.loading import as_json
from mae_jax.config.validation import validate
from mae_jax.rundir import contents, saved_runs
from mae_jax.runtime.errors import UserError


def test_a_place_is_a_run_by_its_config_and_a_bundle_by_its_mark(tmp_path):
    mark = {"config": {"task": "finetune"}, contents.BUNDLE: 1}
    for name, content in (
        ("run", {"config": {"task": "finetune"}}), ("other", {"config": {}}), ("list", [1]), ("bundle", mark),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / contents.CONFIG).write_text(json.dumps(content))
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / contents.RUN).write_text("{}")
    names = ("run", "other", "list", "old", "none")
    assert [name for name in names if saved_runs.is_run(tmp_path / name)] == ["run", "old"]
    assert [name for name in (*names, "bundle") if saved_runs.is_bundle(tmp_path / name)] == ["bundle"]


def test_a_classifier_is_finished_with_predictions_and_results(tmp_path):
    for name, files in (("a", (contents.RUN, contents.PREDICTIONS, contents.RESULTS)), ("b", (contents.RUN,))):
        (tmp_path / "cells" / name).mkdir(parents=True)
        for file in files:
            (tmp_path / "cells" / name / file).write_text("{}")
    assert saved_runs.finished_classifiers(tmp_path) == [tmp_path / "cells" / "a"]
    saved_runs.refuse_unfinished(tmp_path / "cells" / "a", "RUN_DIR")
    with pytest.raises(UserError, match=r"RUN_DIR=.*b is not finished \(no results.json\); rerun its command"):
        saved_runs.refuse_unfinished(tmp_path / "cells" / "b", "RUN_DIR")


def test_a_directory_without_a_config_is_named_and_a_study_names_its_runs(tmp_path):
    with pytest.raises(UserError, match="X=.*missing does not exist; name the directory of a run"):
        saved_runs.config_of(tmp_path / "missing", "X")
    with pytest.raises(UserError, match=r"X=.* is not a run directory \(no config.json\); name the --workdir of a run"):
        saved_runs.config_of(tmp_path, "X")
    (tmp_path / "cells" / "one").mkdir(parents=True)
    (tmp_path / "cells" / "one" / contents.RUN).write_text("{}")
    with pytest.raises(UserError, match="is the directory of 1 run; name one: cells/one"):
        saved_runs.config_of(tmp_path, "X")


def test_the_task_decides_what_a_run_can_be_used_for(tiny_config, tmp_path):
    for task in ("pretrain", "finetune", "knn"):
        (tmp_path / task).mkdir()
        saved = contents.stamped({"config": as_json(validate(tiny_config(task)))})
        contents.write_json(tmp_path / task / contents.CONFIG, saved)
        assert saved_runs.config_of(tmp_path / task, "X").task == task
    assert saved_runs.trained_config_of(tmp_path / "finetune", "X").task == "finetune"
    assert saved_runs.pretraining_config_of(tmp_path / "pretrain", "X").task == "pretrain"
    with pytest.raises(UserError, match="X=.*knn is a run of task knn, which trains no network; name a run of"):
        saved_runs.trained_config_of(tmp_path / "knn", "X")
    with pytest.raises(UserError, match="X=.*finetune is a run of task finetune; name a run of task pretrain"):
        saved_runs.pretraining_config_of(tmp_path / "finetune", "X")
