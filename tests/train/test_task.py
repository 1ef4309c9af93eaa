"""What the training loop sees of a run: batches with padding, its position in the data, and lines about files."""

import dataclasses

import numpy as np
import pytest

from mae_jax.config.validation import validate
from mae_jax.data import sources
from mae_jax.step import sharding
from mae_jax.train.build import build
from mae_jax.train.task import Task


@pytest.fixture
def task(tiny_config) -> Task:
    return build(validate(tiny_config(**{"data.threads": 0, "train.batch_size": 12})), sharding.make_mesh(1))


def test_batches_are_padded_to_the_devices_and_begin_where_a_run_stopped(task):
    assert (task.resolved.batch_size, task.resolved.rows) == (12, 15)
    stream = task.batches(0)
    batches = [next(stream) for _ in range(3)]
    stream.close()
    for batch in batches:
        assert {name: value.shape for name, value in batch.items()} == {
            "image": (15, 16, 16, 3), "label": (15,), "index": (15,), "mask": (15,)
        }  # fmt: skip
        np.testing.assert_array_equal(batch["mask"], [1] * 12 + [0] * 3)
        assert not batch["image"][12:].any() and set(batch["index"][:12]) <= set(task.indices[0])
        np.testing.assert_array_equal(batch["label"][:12], task.sources[0].labels[batch["index"][:12]])
    later = task.batches(2)
    again = next(later)
    later.close()
    for name, value in again.items():
        np.testing.assert_array_equal(value, batches[2][name])


def test_a_position_has_the_next_batch_and_the_data_it_is_of(task):
    position = task.position(5)
    assert position["next_batch"] == 5 and position["tests"] == {"TestA": task.tests["TestA"].fingerprint}
    other = dataclasses.replace(task, config=dataclasses.replace(task.config, seed=1)).position(5)
    assert other != position and other["next_batch"] == 5


def test_images_of_an_epoch_are_counted_by_source_where_there_are_several(task):
    assert task.epoch_images(3) == {}
    pair = (task.sources[0], sources.synthetic("Train", 30, 32, 5))
    data = dataclasses.replace(task.config.data, weights=(3.0, 1.0))
    mixed = dataclasses.replace(
        task, sources=pair, indices=(task.indices[0], np.arange(30)), mixture=("a", "b"),
        config=dataclasses.replace(task.config, data=data),
    )  # fmt: skip
    steps = task.resolved.steps_per_epoch
    result = mixed.epoch_images(2 * steps)
    assert list(result) == ["epoch_images/a", "epoch_images/b"]
    assert result["epoch_images/a"] == pytest.approx(0.75 * steps * 12, abs=1)
    assert sum(result.values()) == steps * 12
    assert sum(mixed.epoch_images(1).values()) == 12  # of an epoch that has only begun


def test_files_that_were_skipped_or_assumed_are_counted_by_source(task):
    odd = dataclasses.replace(
        task.sources[0], counts={"hidden": 1, "not an image": 2}, assumed={"the first frame is used": 2}
    )
    changed = dataclasses.replace(task, sources=(odd,))
    assert changed.assumed() == {"train": {"the first frame is used": 2}}
    assert changed.skipped_files() == {"train": {"hidden": 1, "not an image": 2}} and task.skipped_files() == {}
