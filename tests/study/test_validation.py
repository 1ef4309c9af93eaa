"""Configs of studies and sweeps that are refused."""

from pathlib import Path

import pytest
from ml_collections import ConfigDict

from mae_jax.config import fields, loading
from mae_jax.config.fields import study_defaults
from mae_jax.runtime.errors import UserError
from mae_jax.study import label_study, validation


@pytest.fixture
def config(tiny_config):
    study = study_defaults(tiny_config("pretrain"), tiny_config("finetune"))
    study.fractions = (0.1, 1.0)
    return study


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seeds", (-1,), "seeds=(-1,): -1 is not allowed; use whole numbers of 0 and above"),
        ("seeds", ("a",), "'a' is not allowed"),
        ("fractions", (0.1, "a"), "'a' is not allowed; use numbers above 0"),
        ("fractions", (0.0,), "0.0 is not allowed"),
        ("fractions", (), "use at least one value"),
        ("subset_seeds", (1, 2), "must be empty or as long as seeds"),
    ],
)
def test_an_invalid_grid_is_refused(config, tmp_path, field, value, message):
    with config.ignore_type():
        config[field] = value
    with pytest.raises(UserError) as error:
        label_study.run(config, tmp_path / "study")
    assert message in str(error.value) and not (tmp_path / "study").exists()


ROOT = Path(__file__).parents[2]


def test_a_study_needs_one_encoder():
    config = loading.load(ROOT / "configs/study.py", "data=synthetic,scale=laptop")
    config.finetune.model.width = 384
    with pytest.raises(UserError, match=r"pretrain.model.width=192 and finetune.model.width=384 differ"):
        validation.validate_study(config)
    with pytest.raises(UserError, match="not a field of a study"):
        validation.validate_study(ConfigDict({"fraction": 1}))


@pytest.mark.parametrize("field, value", [("seeds", ([0],)), ("fractions", ({},)), ("inits", (["scratch"],))])
def test_lists_within_lists_are_refused_in_one_line(field, value):
    study = fields.study_defaults(fields.defaults("pretrain"), fields.defaults("finetune"))
    study.update({field: value})
    with pytest.raises(UserError, match=f"{field}.* is not allowed; use"):
        validation.validate_study(study)


def test_missing_initial_weights_of_a_run_are_named(tiny_config, tmp_path):
    finetune = validation.check(tiny_config("finetune"))
    validation.check_start(finetune)  # from scratch
    for init, advice in (("mae", "the directory of a run"), ("weights", "a file or folder of weights")):
        started = fields.changed(finetune, {"init": init, "init_from": str(tmp_path / "nothing")})
        with pytest.raises(UserError, match=f"init_from=.*nothing does not exist; name {advice}"):
            validation.check_start(started)
    study = study_defaults(tiny_config("pretrain"), tiny_config("finetune"))
    validation.check_start(validation.check(study))  # makes its pre-training itself
