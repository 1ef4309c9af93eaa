"""CellMix: where patches come from, labels, the curriculum, and one update."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.runtime.errors import UserError
from mae_jax.step import cellmix
from mae_jax.step.state import init_state, parts_of, with_running
from mae_jax.step.train_step import train_step
from tests.step.small import SHAPE, batch_of, mesh_of, spec_of


def origins(seed, images=6, grid=4, side=1, stay=0, group=0):
    return np.asarray(cellmix.origins(jax.random.key(seed), images, grid, jnp.int32(side), jnp.int32(stay), group))


@pytest.mark.parametrize("group", [0, 2])
@pytest.mark.parametrize(("side", "stay"), [(1, 0), (1, 9), (2, 2), (4, 0)])
def test_each_patch_is_used_once_at_its_position_and_the_asked_number_stays(group, side, stay):
    source = origins(1, side=side, stay=stay, group=group)
    np.testing.assert_array_equal(np.sort(source, 0), np.tile(np.arange(6)[:, None], (1, 16)))
    stays = (source == np.arange(6)[:, None]).all(0)
    positions = stays.reshape(4 // side, side, 4 // side, side).transpose(0, 2, 1, 3).reshape(-1, side * side)
    assert (positions.all(1) | ~positions.any(1)).all()  # whole patches
    assert positions.all(1).sum() >= stay and (group == 0 or positions.all(1).sum() == stay)
    whole_patches = source.reshape(6, 4 // side, side, 4 // side, side)
    assert (whole_patches == whole_patches[:, :, :1, :, :1]).all()


def test_a_ratio_of_one_is_the_identity_and_pairs_are_swapped():
    np.testing.assert_array_equal(origins(2, stay=16), np.tile(np.arange(6)[:, None], (1, 16)))
    source = origins(3, images=5, stay=7, group=2)
    partners = source.max(1) + source.min(1) - np.arange(5)  # each image has patches of itself and of one other
    assert sorted(partners[partners]) == list(range(5)) and (partners[partners] == np.arange(5)).all()
    assert (partners == np.arange(5)).sum() == 1  # one of five has no partner
    assert len({tuple(row) for row in source != np.arange(5)[:, None]}) == 2  # the same positions for all
    assert not np.array_equal(origins(3), origins(4))


def mixed(seed, level=0, classes=5):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 64, 64, 3), np.uint8)
    labels = jnp.asarray([0, 1, 2, 3, 4, 0], jnp.int32)
    running = cellmix.begin() | {"level": jnp.int32(level)}
    new, shares = cellmix.mix(jax.random.key(seed), jnp.asarray(images), labels, running, 0, classes)
    return images, np.asarray(labels), np.asarray(new), np.asarray(shares)


def test_labels_are_the_shares_of_the_patches_and_half_of_the_updates_is_mixed():
    changed = 0
    for seed in range(40):
        images, labels, new, shares = mixed(seed, level=9)
        np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
        if (new == images).all():
            np.testing.assert_array_equal(shares, np.eye(5)[labels])
            continue
        changed += 1
        expected = np.zeros((6, 5))
        for i, y, x in np.ndindex(6, 4, 4):  # find each patch among those at its position
            place = np.s_[:, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
            (origin,) = np.flatnonzero((images[place] == new[place][i]).all((1, 2, 3)))
            expected[i, labels[origin]] += 1 / 16
        np.testing.assert_allclose(shares, expected, atol=1e-6)
    assert 10 < changed < 30


def test_levels_have_fewer_positions_that_stay_and_then_smaller_patches():
    assert [level.side for level in cellmix.levels(224)] == [7] * 5 + [2] * 5 + [1] * 5
    assert [level.stay for level in cellmix.levels(64)] == [3, 3, 2, 2, 2, 14, 12, 11, 9, 8]
    for size in (16, 40):
        with pytest.raises(UserError, match=f"train.cellmix needs model.image_size to be .* not {size}"):
            cellmix.levels(size)


def test_the_warm_up_sets_the_threshold_and_low_losses_raise_the_level():
    running = cellmix.timed(cellmix.begin(), 2, 5)  # two periods of warm-up: 4 updates
    losses = [9, 9, 2, 1, 1.5, 1.4, 1.6, 1.5, 0.1, 0.1, 3, 3]
    history = []
    for step, loss in enumerate(losses):
        running = cellmix.advance(running, jnp.float32(loss), jnp.int32(step), 32)
        history.append((int(running["level"]), float(running["threshold"])))
    assert [level for level, _ in history] == [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert [t for _, t in history][1] == 9 and {t for _, t in history[3:]} == {1.5}
    for step in range(12, 40):
        running = cellmix.advance(running, jnp.float32(0), jnp.int32(step), 32)
    assert int(running["level"]) == len(cellmix.levels(32)) - 1
    assert int(cellmix.timed(cellmix.begin(), 10, 3)["warmup"]) == 10


@pytest.fixture(scope="module")
def shape():
    return dataclasses.replace(SHAPE, image_size=32, patch_size=8)


def images_of(step, rows):
    batch = batch_of(step, rows)
    return batch | {"image": np.repeat(np.repeat(batch["image"], 2, 1), 2, 2)}


def run(shape, devices, accumulation, steps=3):
    spec = spec_of("finetune", mesh_of(devices), shape=shape, accumulation=accumulation, cellmix="batch")
    state = init_state(spec, 0)
    optimizer, running = parts_of(spec, state.opt_state)
    state.opt_state = with_running(optimizer, cellmix.timed(running, 1, 1))
    losses = []
    for step in range(steps):
        state, metrics = train_step(spec, state, images_of(step, 8), np.int32(3), np.float32(1e-3))
        losses.append(float(metrics["loss"]))
    return spec, state, losses


@pytest.mark.slow
def test_updates_do_not_depend_on_devices_or_micro_batches_and_carry_the_curriculum(shape):
    spec, state, losses = run(shape, 1, 1)
    _, other, split = run(shape, 2, 2)
    np.testing.assert_allclose(losses, split, rtol=1e-5)
    running, elsewhere = (parts_of(spec, s.opt_state)[1] for s in (state, other))
    assert float(running["threshold"]) == pytest.approx(losses[0], rel=1e-6)
    assert int(running["level"]) == int(elsewhere["level"]) == sum(loss <= losses[0] for loss in losses[1:])
    plain = spec_of("finetune", mesh_of(1), shape=shape)
    assert parts_of(plain, init_state(plain, 0).opt_state)[1] == {}
