"""Steps, warm-up and learning rates that follow from a config, its images and the devices."""

import dataclasses

import pytest

from mae_jax.config import schedule
from mae_jax.config.schedule import Schedule, learning_rate
from mae_jax.runtime.errors import UserError


def test_resolved_values_follow_from_the_config(tiny_config):
    config = tiny_config("pretrain")
    config.train.update(epochs=20.0, batch_size=0, batch_per_device=48, accumulation=8)
    config.optim.update(base_lr=1.5e-4, warmup_epochs=2.0)
    r = schedule.resolve(config, n_train=10_000, devices=5)
    assert r.batch_size == 48 * 8 * 5 == r.rows and r.steps_per_epoch == 6 and r.steps == 120
    assert r.peak_lr == pytest.approx(1.5e-4 * 1920 / 256) and r.warmup_steps == 12


def test_twenty_epochs_of_one_percent_are_forty_updates(tiny_config):
    config = tiny_config()
    config.train.update(epochs=20.0, batch_size=64)
    assert schedule.resolve(config, n_train=92, devices=1).steps == 40
    assert schedule.resolve(config, n_train=5, devices=1).steps == 20


def test_equal_updates_also_mean_equal_warm_up_evaluations_and_checkpoints(tiny_config):
    """A run of 100 images that trains as long as 1,000 do differs from theirs only in its images and its epochs."""
    config = tiny_config()
    config.train.update(epochs=20.0, batch_size=10)
    config.optim.warmup_epochs, config.eval.every_epochs, config.checkpoint.every_epochs = 2.0, 1.0, 5.0
    few, many = schedule.resolve(config, 100, 1, n_schedule=1000), schedule.resolve(config, 1000, 1)
    assert (few.n_train, few.steps_per_epoch) == (100, 10)
    assert dataclasses.replace(few, n_train=1000, steps_per_epoch=100) == many
    assert (few.steps, few.warmup_steps, few.eval_every, few.save_every) == (2000, 200, 100, 500)


def test_a_batch_that_devices_do_not_divide_is_padded(tiny_config):
    config = tiny_config()
    config.train.update(batch_size=64, accumulation=2)
    r = schedule.resolve(config, n_train=100, devices=5)
    assert (r.batch_size, r.rows) == (64, 70)


def test_a_rate_that_would_rise_is_refused(tiny_config):
    with pytest.raises(UserError, match=r"optim\.min_lr=1 is above the peak learning rate, .* = 0\.000625"):
        schedule.resolve(tiny_config(**{"optim.min_lr": 1.0}), n_train=10, devices=1)


def test_a_run_has_an_update_and_its_warm_up_ends_with_it(tiny_config):
    """Where the warm-up is longer than the run, the rate still rises to the peak, and not to a part of it."""
    config = tiny_config()
    config.train.update(epochs=2.0, batch_size=10)
    config.optim.warmup_epochs = 5.0
    r = schedule.resolve(config, n_train=100, devices=1)
    assert r.warmup_steps == r.steps == 20
    assert learning_rate(r.steps - 1, "cosine", r) == pytest.approx(r.peak_lr * 19 / 20)
    config.train.epochs = 0.01
    assert schedule.resolve(config, n_train=100, devices=1).steps == 1


def resolved(**fields):
    values = dict(
        n_train=1, devices=1, batch_size=1, rows=1, steps_per_epoch=10, steps=110, warmup_steps=10,
        peak_lr=2.0, eval_every=1, save_every=1,
    )  # fmt: skip
    return Schedule(**(values | fields))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", {10: 2, 60: 1.1, 110: 0.2}),
        ("linear", {10: 2, 60: 1.1, 85: 0.65}),
        ("constant", {10: 2, 109: 2}),
    ],
)
def test_schedules(schedule, expected):
    r = resolved()
    assert learning_rate(0, schedule, r) == 0
    assert learning_rate(5, schedule, r) == 1
    for step, value in expected.items():
        assert learning_rate(step, schedule, r, 0.2) == pytest.approx(value)
    assert learning_rate(0, schedule, resolved(warmup_steps=0)) == 2
