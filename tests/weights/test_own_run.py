"""The network of a finished run: which weights, its classes, and a batch norm that is folded into the head."""

import errno
import os

import numpy as np
import pytest

from mae_jax.config.validation import validate
from mae_jax.models import layers
from mae_jax.rundir import contents, identity
from mae_jax.runtime import files
from mae_jax.runtime.errors import UserError
from mae_jax.weights import own_run


def test_a_folded_head_gives_the_same_logits():
    rng = np.random.default_rng(0)
    params = {
        "encoder": {"x": np.ones(1)},
        "batch_norm": {"mean": rng.normal(size=4), "variance": rng.uniform(0.5, 2, 4)},
        "head": {"kernel": rng.normal(size=(4, 3)).astype(np.float32), "bias": rng.normal(size=3).astype(np.float32)},
    }
    x = rng.normal(size=(7, 4))
    norm, head = params["batch_norm"], params["head"]
    expected = (x - norm["mean"]) / np.sqrt(norm["variance"] + layers.BATCH_NORM_EPSILON) @ head["kernel"] + head[
        "bias"
    ]
    folded = own_run._folded(params)
    np.testing.assert_allclose(x @ folded["head"]["kernel"] + folded["head"]["bias"], expected, rtol=1e-5, atol=1e-5)
    assert set(folded) == {"encoder", "head"} and "batch_norm" in params


def test_class_names_are_a_list_of_texts(tmp_path):
    assert own_run.class_names(tmp_path, {"classes": ["a", "b"]}, "X") == ("a", "b")
    assert own_run.class_names(tmp_path, {}, "X") == ()
    for wrong in ("ab", [1], None):
        with pytest.raises(UserError, match=r"X: .*run\.json: classes is .*; it should be a list of names"):
            own_run.class_names(tmp_path, {"classes": wrong}, "X")


def test_only_encoder_and_decoder_start_other_runs():
    assert own_run.transferable({"encoder": 1, "decoder": 2, "teacher": 3}) == {"encoder": 1, "decoder": 2}
    assert own_run.transferable({"encoder": 1}) == {"encoder": 1}


def test_a_run_that_is_not_finished_or_trains_nothing_is_refused(tiny_config, tmp_path):
    (tmp_path / "knn").mkdir()
    identity.keep_config(tmp_path / "knn", validate(tiny_config("knn")), {"devices": 1})
    with pytest.raises(UserError, match="RUN_DIR=.*knn is a run of task knn, which trains no network"):
        own_run.load(tmp_path / "knn")
    (tmp_path / "fine").mkdir()
    identity.keep_config(tmp_path / "fine", validate(tiny_config()), {"devices": 1})
    with pytest.raises(UserError, match=r"X=.*fine is not finished \(no run.json\); rerun its command to finish it"):
        own_run.load(tmp_path / "fine", "X")
    contents.write_json(tmp_path / "fine" / contents.RUN, {})
    with pytest.raises(UserError, match=r"\(no results.json\)"):
        own_run.load(tmp_path / "fine", "X")


def test_the_best_epoch_must_fit_the_network(tmp_path, monkeypatch):
    like = {"head": {"kernel": np.zeros((4, 3), np.float32)}}
    run = {"select": "best", "selected_step": 4, "steps": 9}
    (tmp_path / "best").mkdir()
    with pytest.raises(UserError, match=r"X: .*best/4.npz, the network that made predictions.csv, is missing"):
        own_run._params(tmp_path, like, run, "X")
    given = np.arange(12, dtype=np.float32)
    np.savez(tmp_path / "best" / "4.npz", **{"head/kernel": given.reshape(4, 3)})
    result, step = own_run._params(tmp_path, like, run, "X")
    assert step == 4
    np.testing.assert_array_equal(result["head"]["kernel"], given.reshape(4, 3))
    for wrong, message in [
        (given.reshape(3, 4), r"has the shape \(3, 4\) instead of \(4, 3\)"),  # the same number of values
        (given.reshape(4, 3).astype(np.int32), "is int32 instead of float32"),
    ]:
        np.savez(tmp_path / "best" / "4.npz", **{"head/kernel": wrong})
        with pytest.raises(UserError, match=rf"X: .*4.npz, .* cannot be read \(.*head/kernel {message}\)"):
            own_run._params(tmp_path, like, run, "X")

    def fail(path, *args, **options):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr(files, "open", fail, raising=False)
    with pytest.raises(OSError, match="Stale file handle"):
        own_run._params(tmp_path, like, run, "X")
