"""Config files, their arguments and flags, and how saved configs compare."""

import shutil
from pathlib import Path

import pytest

from mae_jax.config import loading
from mae_jax.config.loading import config_file, load, parse_arg
from mae_jax.runtime.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("arg", ["frac", "frac=x", "fraction=0.1", "frac=0.1,,seed=1.5", "seed=1,1", "seed=1,seed=2"])
def test_unknown_arguments_are_refused(arg):
    with pytest.raises(UserError, match="config argument"):
        loading.load(ROOT / "configs/finetune.py", arg)


def test_an_override_of_an_unknown_field_is_refused():
    with pytest.raises(UserError, match=r"did you mean --config.train.epochs\?"):
        loading.check_arguments([f"--config={ROOT}/configs/finetune.py:frac=0.1", "--config.train.epoch=3"])
    loading.check_arguments(["--config", f"{ROOT}/configs/finetune.py:frac=0.1", "--config.train.epochs", "3"])


def test_hparams_have_the_same_keys_in_every_run_and_no_none(tiny_config):
    one, two = (loading.hparams(tiny_config(task)) for task in ("pretrain", "finetune"))
    assert one.keys() == two.keys()
    assert all(type(v) in (int, float, str, bool) for v in (one | two).values())


def test_difference_lists_what_matters():
    ours, theirs = {"seed": 1, "log.every_steps": 5, "pretrain.name": "a"}, {"seed": 0, "log.every_steps": 9}
    assert loading.difference(ours, theirs) == ["seed: 0 -> 1"]


def test_a_bare_boolean_argument_is_true():
    assert parse_arg("smoke", smoke=False, scale="paper").smoke is True
    assert load(ROOT / "configs/demo.py", "smoke").name == "demo_smoke"
    with pytest.raises(UserError, match="config argument 'scale' is not known; allowed, with their defaults: smoke="):
        parse_arg("scale", smoke=False, scale="paper")
    with pytest.raises(UserError, match="smoke is given twice"):
        parse_arg("smoke,smoke=false", smoke=False)


def test_a_local_file_wins_over_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_file("configs/demo.py") == loading.CONFIGS / "demo.py"
    assert load("configs/demo.py", "smoke").task == "study"
    (tmp_path / "configs").mkdir()
    shutil.copy(ROOT / "configs/probe.py", tmp_path / "configs/demo.py")
    assert config_file("configs/demo.py") == Path("configs/demo.py")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config_file("~/configs/demo.py") == tmp_path / "configs/demo.py"


def test_a_file_that_does_not_exist_gets_a_hint_only_where_one_is_near(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"configs/finetun.py does not exist; did you mean configs/finetune.py\?"):
        config_file("configs/finetun.py")
    with pytest.raises(UserError, match=r"xyz.py does not exist; mae_jax has configs/demo.py, configs/finetune.py"):
        config_file("xyz.py")
    with pytest.raises(UserError, match="is not a file"):
        config_file(tmp_path)


def test_a_field_gets_a_hint_only_where_one_is_near():
    file = f"--config={ROOT}/configs/finetune.py"
    with pytest.raises(UserError, match=r"did you mean --config.train.epochs\?"):
        loading.check_arguments([file, "--config.train.epoch=3"])
    with pytest.raises(UserError, match=r"nothing is not a field of the config; --config=\S+ --help lists the fields"):
        loading.check_arguments([file, "--config.nothing=3"])
    assert loading.check_arguments([]) == {}
