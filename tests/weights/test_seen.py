"""Which data an encoder was trained on, and whether test images are of them."""

import json

import pytest

from mae_jax.config.loading import as_json
from mae_jax.config.validation import validate
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.weights import seen


def test_names_are_equal_but_for_case_punctuation_and_parts():
    tests = {"TestA": ["raabin_wbc"], "clinic": ["clinic"], "ab": ["ab"]}
    assert seen.among(["Raabin-WBC", "PBC"], tests) == {"TestA": ["Raabin-WBC"]}
    assert seen.among(["raabin", "the clinic (2020)"], tests) == {"TestA": ["raabin"], "clinic": ["the clinic (2020)"]}
    assert seen.among(["a", "abc", ""], tests) == {}  # too short to be a part of another name
    assert seen.among(["AB"], tests) == {"ab": ["AB"]}


def test_config_sidecar_and_earlier_runs_all_count(tiny_config, tmp_path):
    file = tmp_path / "bloom.npz"
    file.with_name("bloom.npz.json").write_text(json.dumps({"model": "x", "seen": ["raabin_wbc", "pbc"]}))
    given = {"init": "weights", "init_from": str(file), "init_seen": "pbc, LVD-142M,"}
    assert seen.stated(validate(tiny_config("finetune", **given))) == ("pbc", "LVD-142M", "raabin_wbc")
    run = tmp_path / "pretrain"
    run.mkdir()
    contents.write_json(run / contents.CONFIG, {"config": as_json(tiny_config("pretrain", **given))})
    later = validate(tiny_config("lbfgs", init="mae", init_from=str(run)))
    assert seen.stated(later) == ("pbc", "LVD-142M", "raabin_wbc")
    assert seen.stated(validate(tiny_config("finetune"))) == ()


def test_a_sidecar_with_something_else_is_refused(tmp_path):
    assert seen.sidecar(str(tmp_path / "features.h5")) == []
    (tmp_path / "features.h5.json").write_text('{"seen": "raabin"}')
    with pytest.raises(UserError, match=r"features\.h5\.json: \"seen\" is 'raabin'; use a list of names"):
        seen.sidecar(str(tmp_path / "features.h5"))
    (tmp_path / "features.h5.json").write_text("[1]")
    with pytest.raises(UserError, match="holds a list, not a JSON object"):
        seen.sidecar(str(tmp_path / "features.h5"))
