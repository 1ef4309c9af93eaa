"""The time on several devices, from known times of steps."""

from pathlib import Path

import pytest

from mae_jax.config.schedule import Schedule
from mae_jax.config.validation import validate
from mae_jax.data.splits import DataCache
from mae_jax.study import forecast
from mae_jax.study.plan import Planned

SCHEDULE = Schedule(
    n_train=60, devices=1, batch_size=16, rows=16, steps_per_epoch=4, steps=8, warmup_steps=0, peak_lr=1e-3,
    eval_every=4, save_every=4,
)  # fmt: skip


def test_one_classifier_per_device_and_each_run_over_all(tiny_config, monkeypatch):
    """Pre-training: 60 s with 12 images per device. Classifiers: 100, 100, 50 s, half as long with 4 rows of 16."""
    rows = []

    def seconds(config, cache):
        rows.append((config.task, config.train.batch_size))
        return 0.05

    monkeypatch.setattr(forecast.plan, "step_seconds", seconds)
    monkeypatch.setattr(forecast, "DEVICES", (1, 2, 4))
    classifier = validate(tiny_config())
    pretrain = tiny_config("pretrain", **{"train.batch_size": 0, "train.batch_per_device": 12})
    runs = [Planned(Path(), pretrain, SCHEDULE, 0, 0, False, step_seconds=0.2, seconds=60.0)]
    runs += [
        Planned(Path(), classifier, SCHEDULE, 0, 0, False, step_seconds=0.1, seconds=s) for s in (100.0, 100.0, 50.0)
    ]
    result = forecast.lines(runs, DataCache())
    assert [line.strip() for line in result[1:]] == [
        "1 device: about 5 minutes",
        "2 devices: about 3 minutes with one classifier per device, 3 minutes with each run over all devices",
        "4 devices: about 2 minutes with one classifier per device, 2 minutes with each run over all devices",
    ]
    assert rows == [("finetune", 8), ("finetune", 4)]


@pytest.mark.parametrize("done", [True, False])
def test_nothing_is_measured_for_a_single_run(tiny_config, done):
    run = Planned(Path(), tiny_config(), SCHEDULE, 0, 0, done, step_seconds=0.1, seconds=0.0 if done else 5.0)
    assert forecast.lines([run], DataCache()) == []
