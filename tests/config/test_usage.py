"""Help of config files, files that mae_jax ships, and short forms of arguments."""

from pathlib import Path

import pytest

from mae_jax.config import loading, usage
from mae_jax.config.loading import load

ROOT = Path(__file__).parents[2]


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
