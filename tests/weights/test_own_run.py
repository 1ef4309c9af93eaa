"""The network of a finished run: which weights, its classes, and a batch norm that is folded into the head."""

import numpy as np
import pytest

from mae_jax.config.validation import validate
from mae_jax.models import layers
from mae_jax.rundir import contents, identity
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
