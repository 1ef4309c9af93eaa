"""How the outcome of a run is noted: missing runs are named, errors that concern all runs are raised."""

import errno
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_jax.config.fields import study_defaults
from mae_jax.data import checking
from mae_jax.rundir import contents
from mae_jax.runtime.errors import StorageError, UserError
from mae_jax.runtime.progress import Progress
from mae_jax.study import cells, execution, label_study
from mae_jax.study.validation import validate_study


@pytest.fixture
def study(tiny_config):
    config = study_defaults(tiny_config("pretrain"), tiny_config("finetune"))
    config.fractions = (1.0,)
    return validate_study(config)


@pytest.fixture
def started(study, tmp_path):
    return execution._Execution(study, cells.runs(study, tmp_path), Progress(1.0, stream=io.StringIO()), [])


def test_a_refused_run_and_one_that_cannot_be_written_are_missing(started):
    started.note(1, UserError("its process 17 was killed by SIGKILL"), started.progress)
    started.note(2, PermissionError(errno.EACCES, "Permission denied", "cells/x"), started.progress)
    assert [run.name for run in started.missing.values()] == ["finetune 100 % scratch", "finetune 100 % mae"]
    lines = started.progress.stream.getvalue().splitlines()
    assert lines[0] == "[2/3] finetune 100 % scratch: missing: its process 17 was killed by SIGKILL"
    assert lines[1].startswith("[3/3] finetune 100 % mae: missing: cells/x: Permission denied")


@pytest.mark.parametrize(
    "error", [StorageError("disk full"), OSError(errno.EIO, "Input/output error", "x"), KeyError("a bug")]
)
def test_errors_that_concern_all_runs_are_raised(started, error):
    with pytest.raises(type(error)):
        started.note(1, error, started.progress)
    assert not started.missing


def test_what_starts_from_a_missing_run_is_refused(started):
    started.note(0, UserError("diverged"), started.progress)
    started.refuse_without_weights(1)  # from scratch
    with pytest.raises(UserError, match="it needs the weights of pre-training, which is missing"):
        started.refuse_without_weights(2)


def test_finished_runs_are_counted_by_their_results(started):
    assert execution.finished_of(started.runs) == "0 of 3 runs are finished"
    place: Path = started.runs[1][0]
    place.mkdir(parents=True)
    (place / "results.json").write_text("{}")
    assert execution.finished_of(started.runs) == "1 of 3 runs is finished"


@pytest.mark.slow
def test_a_finished_study_opens_no_image(tiny_config, tmp_path, monkeypatch, capsys):
    number = 0
    for split, n in (("Train", 8), ("TestA", 3)):
        for name in ("A", "B"):
            (tmp_path / "cells" / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "cells" / split / name / f"{i}.png")
                number += 1
    fields = {"data.source": "folder", "data.dir": str(tmp_path / "cells"), "train.steps": 1}
    config = study_defaults(tiny_config("pretrain", **fields | {"data.part": "train"}), tiny_config(**fields))
    config.fractions, config.evaluations = (1.0,), ("finetune", "knn")
    first = label_study.run(config, tmp_path / "study")
    capsys.readouterr()
    for name in ("read_file", "decode"):
        monkeypatch.setattr(checking, name, lambda *rest: pytest.fail("an image is opened"))
    assert label_study.run(config, tmp_path / "study")["rows"] == first["rows"]
    assert capsys.readouterr().out.count("already finished") == 5
    (tmp_path / "study" / "cells" / "100pct-mae-seed0" / contents.PREDICTIONS).unlink()
    with pytest.raises(pytest.fail.Exception, match="an image is opened"):
        label_study.run(config, tmp_path / "study")  # to compute the predictions again
