"""Help of config files, files that mae_jax ships, and short forms of arguments."""

import shutil
from pathlib import Path

import pytest

from mae_jax.config import loading, usage
from mae_jax.config.loading import config_file, load, parse_arg
from mae_jax.runtime.errors import UserError

ROOT = Path(__file__).parents[2]


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
    assert loading.check_arguments([]) is None


def test_the_overview_lists_every_config_file():
    text = usage.overview("run", "Runs a config.")
    assert "usage: mae-jax run --config=FILE" in text
    for path in (ROOT / "configs").glob("*.py"):
        assert f"  configs/{path.name} " in text


@pytest.mark.parametrize("path", usage.shipped(), ids=lambda path: path.name)
def test_help_of_a_config_file_lists_its_arguments_and_every_field(path):
    text = usage.of_config(str(path), "data=synthetic" if path.name != "demo.py" else "")
    lines = text.splitlines()
    shown = {line.strip().partition(" = ")[0] for line in lines if " = " in line}
    for key in loading.flatten(load(path, "data=synthetic" if path.name != "demo.py" else "")):
        field = key.partition(".")[2]
        assert key in shown or f"pretrain|finetune.{field}" in shown, key
    with loading.recorded_arguments() as recorded:
        load(path)
    assert recorded[0] and all(any(line.startswith(f"  {name}=") for line in lines) for name in recorded[0])
    assert all(len(line) <= 120 for line in lines)


def test_help_shows_both_values_where_the_parts_of_a_study_differ():
    text = usage.of_config("configs/study.py", "data=synthetic")
    assert "  pretrain|finetune.optim.base_lr = 5e-05 | 0.0005" in text
    assert "  pretrain|finetune.data.source = synthetic" in text
