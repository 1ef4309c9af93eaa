"""The results of a run: a dict that prints as a few lines."""

import json

from mae_jax import main
from mae_jax.config.tasks import OF_SEVERAL_RUNS, TASKS, in_words
from mae_jax.rundir import contents
from mae_jax.study.results import Results, summary

SCORES = {"accuracy": 0.5, "f1": 0.25, "collapsed": False, "majority_rate": 0.4, "n": 20}
PRETRAINED = {"val/loss": 0.5, "val/visible_loss": 0.75, "val/spam": 0.1}


def test_a_classifier(tmp_path):
    (tmp_path / contents.PREDICTIONS).write_text("")
    results = Results(SCORES, tmp_path, "finetune")
    assert results["accuracy"] == 0.5 and results == SCORES and json.loads(json.dumps(results)) == SCORES
    assert repr(results).splitlines() == [
        "fine-tuning",
        "  test accuracy 0.500, macro F1 0.250",
        "  always predicting the most common class scores 0.400",
        f"  files in {tmp_path}: predictions.csv",
    ]


def test_a_collapsed_classifier_is_reported(tmp_path):
    results = Results(SCORES | {"collapsed": True}, tmp_path, "lbfgs", "my probe")
    first, second, *_ = repr(results).splitlines()
    assert first == "my probe (logistic regression)"
    assert second == "  test accuracy 0.500, macro F1 0.250, collapsed: one class predicted for all test images"


def test_a_pretraining():
    assert (
        summary(PRETRAINED) == "held-out error on removed patches 0.5000, on visible ones 0.7500, patch repetition 0.10"
    )
    assert summary({"n_train": 90}) == "held-out error not known (no images were held out)"


def test_a_study(tmp_path):
    rows = [{"accuracy": 0.5}, {"accuracy": 0.75}, {"accuracy": None}]
    results = Results({"rows": rows, "report": str(tmp_path / "report")}, tmp_path, "study", "demo")
    assert not results.is_single
    assert repr(results).splitlines() == [
        "demo (study)",
        "  3 rows in the table; test accuracy from 0.500 to 0.750",
        f"  report: {tmp_path / 'report/index.html'}",
    ]


def test_every_task_has_a_name():
    words = [in_words(task) for task in (*TASKS, *OF_SEVERAL_RUNS)]
    assert all(words) and len(set(words)) == len(words)


def test_run_returns_results_and_prints_the_devices(tiny_config, tmp_path, capsys):
    config = tiny_config("lbfgs")
    results = main.run(config, tmp_path / "run")
    assert isinstance(results, Results) and results.directory == tmp_path / "run"
    saved = json.loads((tmp_path / "run" / contents.RESULTS).read_text())
    assert results == saved and "predictions.csv" in repr(results)
    assert capsys.readouterr().out.startswith("devices: ")
