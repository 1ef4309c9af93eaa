"""Whether a run is finished, what is missing of it, and what is said of that."""

import pytest

from mae_jax.config.fields import changed
from mae_jax.config.validation import validate
from mae_jax.rundir import contents, identity
from mae_jax.runtime.errors import UserError
from mae_jax.train import resume

HEADER = "image,group,label,prediction,confidence,p_x\n"
RESULTS = {"n": 2, "accuracy": 1.0, "f1": 1.0, "collapsed": False, "n_test": 2}


@pytest.fixture
def config(tiny_config):
    return validate(tiny_config(**{"optim.schedule": "constant"}))


@pytest.fixture
def run(tmp_path, config):
    """The files of a finished probe, which has no checkpoint."""
    identity.keep_config(tmp_path, config, {})
    contents.write_json(tmp_path / contents.RESULTS, RESULTS)
    contents.write_json(tmp_path / contents.RUN, {"steps": 0, "selected_step": 0})
    (tmp_path / contents.PREDICTIONS).write_text(HEADER + "a,,x,x,1,1\nb,,x,x,1,1\n")
    return tmp_path


def test_a_finished_run_answers_with_its_results(run, config):
    lines = []
    assert resume.finished(run, config, lines.append) == RESULTS
    assert lines == [f"{run}: already finished"]
    assert resume.finished(run / "other", config, lines.append) is None and len(lines) == 1


def test_what_is_missing_is_named_and_decides_whether_the_run_goes_on(run, config):
    lines = []
    (run / contents.PREDICTIONS).write_text(HEADER + "a,,x,x,1,1\n")
    assert resume.finished(run, config, lines.append) is None
    assert lines[-1].endswith("computed again from the last checkpoint") and contents.PREDICTIONS in lines[-1]
    contents.write_json(run / contents.RUN, {"steps": 4, "selected_step": 4})
    assert resume.finished(run, config, lines.append) == RESULTS  # without a checkpoint they cannot be computed
    assert "its checkpoint of step 4 is missing: no other run can start from this network" in lines[-1]
    assert lines[-1].endswith("restore it from a backup")
    (run / contents.RUN).unlink()
    assert resume.finished(run, config, lines.append) is None
    assert lines[-1] == f"{run}: already finished, but run.json is missing; restored from the last checkpoint"


def test_a_longer_run_goes_on_and_another_is_refused(run, config):
    lines = []
    longer = changed(config, {"train.epochs": 5.0})
    assert resume.finished(run, longer, lines.append) is None
    assert lines == [f"{run}: already finished; training continues to train.epochs=5"]
    with pytest.raises(UserError, match="another config"):
        resume.finished(run, changed(config, {"seed": 3}), lines.append)


@pytest.mark.parametrize("wrong", [{}, {"accuracy": "high"}, {"n": True}, {"collapsed": 0}, {"f1": None}])
def test_results_without_scores_are_refused(run, config, wrong):
    contents.write_json(run / contents.RESULTS, RESULTS | wrong if wrong else {})
    with pytest.raises(UserError, match=r"results\.json does not hold the results of a run; restore it, or remove it"):
        resume.finished(run, config, print)


def test_results_of_a_pre_training_have_errors_only_where_images_were_held_out(tiny_config):
    config = validate(tiny_config("pretrain"))
    held_out = {"val/loss": 1.0, "val/visible_loss": 1, "val/spam": 0.0}
    assert resume._complete({"n_train": 3}, config) and resume._complete({"n_train": 3} | held_out, config)
    assert not resume._complete({"n_train": 3, "val/loss": 1.0}, config) and not resume._complete({}, config)


def test_the_weights_that_were_tested_are_missing_where_an_epoch_was_chosen(tmp_path):
    contents.write_json(tmp_path / contents.RUN, {"steps": 0, "selected_step": 7, "select": "best"})
    assert resume.gone(tmp_path) == "best/7.npz, the weights that were tested,"
    contents.write_json(tmp_path / contents.RUN, {"steps": 9, "selected_step": 7, "select": "loss"})
    assert resume.gone(tmp_path) == "its checkpoint of step 9 and best/7.npz, the weights that were tested,"
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "7.npz").write_bytes(b"")
    assert resume.gone(tmp_path) == "its checkpoint of step 9"
