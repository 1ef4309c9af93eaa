import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mae_jax import models
from mae_jax.models.params import map_paths
from mae_jax.models.patches import n_visible, patchify
from mae_jax.models.vit import ViTConfig
from mae_jax.step import eval_step, mixup, sharding, stain, state, train_step
from mae_jax.step.batches import to_float
from mae_jax.step.spec import MIX
from tests.step.small import OPTIMIZER, SHAPE, batch_of, mesh_of, spec_of


def losses(spec, rows, steps=4):
    current, result = state.init_state(spec, 0), []
    for step in range(steps):
        batch = sharding.put_batch(batch_of(step, rows), spec.mesh)
        current, metrics = train_step.train_step(spec, current, batch, np.int32(0), np.float32(1e-2))
        result.append([float(metrics["loss"]), float(metrics["gradient_norm"])])
    return np.array(result), current


@pytest.mark.slow
@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_every_split_and_accumulation_gives_the_losses_of_one_device(task):
    expected, _ = losses(spec_of(task, mesh_of(1)), 8)
    assert expected[-1, 0] != expected[0, 0]
    for devices, fsdp, accumulation, rows in [(5, 1, 1, 10), (5, 5, 1, 10), (5, 1, 2, 10), (4, 2, 2, 8), (5, 5, 3, 15)]:
        values, _ = losses(spec_of(task, mesh_of(devices, fsdp), accumulation=accumulation), rows)
        np.testing.assert_allclose(values, expected, rtol=1e-5, err_msg=f"{devices} {fsdp} {accumulation}")


@pytest.mark.slow
def test_parameters_and_optimizer_state_are_split_over_fsdp():
    """Even if 5 divides no axis (32 and 128 features here; 768 and 3,072 in ViT-B)."""
    shape = ViTConfig(16, 4, 32, 1, 2, mlp_ratio=8.0, n_classes=3)
    spec = spec_of("finetune", mesh_of(5, 5), shape=shape)
    current = state.init_state(spec, 0)
    for tree in (current.params, current.opt_state):
        large = [x for x in jax.tree.leaves(tree) if x.size >= sharding.MIN_SPLIT]
        assert large and all(x.addressable_shards[0].data.size == x.size // 5 for x in large)
    assert current.params["encoder"]["block_00"]["mlp"]["fc1"]["kernel"].shape == (32, 260)
    values, after = losses(spec, 10)
    jax.tree.map(lambda x, place: x.sharding.is_equivalent_to(place, x.ndim) or pytest.fail(str(x.sharding)),
                 after, state.state_shardings(spec))  # fmt: skip
    # Padding stays zero and has no effect, and the saved state has the network's own shapes.
    expected, _ = losses(spec_of("finetune", mesh_of(1), shape=shape), 10)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    saved = state.unpadded(spec, after)
    assert jax.tree.map(jnp.shape, saved) == jax.tree.map(jnp.shape, state.abstract_state(spec))
    again = state.padded(spec, saved)
    jax.tree.map(np.testing.assert_array_equal, again, after)
    assert not np.asarray(after.params["encoder"]["block_00"]["mlp"]["fc1"]["kernel"])[:, 256:].any()


@pytest.mark.slow
def test_visible_patches_train_by_their_weight():
    batch = sharding.put_batch(batch_of(0, 8), mesh_of(1))

    def trained(weight, **fields):
        spec = spec_of("pretrain", mesh_of(1), visible_weight=weight, **fields)
        after, metrics = train_step.train_step(spec, state.init_state(spec, 0), batch, np.int32(0), np.float32(1e-3))
        return after.params["decoder"]["pred"]["bias"], metrics

    plain, weighted = trained(0.0), trained(0.5)
    assert np.abs(plain[0] - weighted[0]).max() > 0
    # The reported metrics do not depend on the weight.
    np.testing.assert_allclose(plain[1]["loss"], weighted[1]["loss"], rtol=1e-6)
    np.testing.assert_allclose(plain[1]["visible_loss"], weighted[1]["visible_loss"], rtol=1e-6)
    assert weighted[1]["gradient_norm"] > plain[1]["gradient_norm"]


def leaves(params):
    collected = {}
    map_paths(lambda path, leaf: collected.setdefault(path, np.asarray(leaf).copy()), params)
    return collected


@pytest.mark.slow
def test_only_the_last_blocks_are_trained_and_have_optimizer_state():
    """Frozen parameters stay bit-identical, have no drop path, and need no memory for moments."""
    shape = dataclasses.replace(SHAPE, depth=3, drop_path=0.9, frozen_blocks=2)
    last = r"^(head|encoder/norm|encoder/block_02)/"
    spec = spec_of("finetune", mesh_of(2), shape=shape, trained=last, accumulation=2)
    before = leaves(state.init_state(spec, 0).params)
    values, current = losses(spec, 8)
    after = leaves(current.params)
    moved = {path for path in before if before[path].tobytes() != after[path].tobytes()}
    assert moved == {path for path in before if re.search(last, path)}
    moments = {path for path in leaves(optax.tree.get(current.opt_state, "mu"))}
    assert moments == moved
    # Training all blocks changes the results, because the first blocks then have drop path, too.
    other = dataclasses.replace(shape, frozen_blocks=0)
    assert (
        abs(values - losses(spec_of("finetune", mesh_of(2), shape=other, trained=last, accumulation=2), 8)[0]).max() > 0
    )


def probe(devices, rows, accumulation=1, steps=3):
    """States before and after a few steps of linear probing, and the losses."""
    shape = dataclasses.replace(SHAPE, batch_norm=True, head_std=0.01)
    optimizer = dataclasses.replace(OPTIMIZER, name="lars", weight_decay=0.0)
    fields = dict(shape=shape, optimizer=optimizer, trained="^head/", accumulation=accumulation)
    spec = spec_of("linear_probe", mesh_of(devices), **fields)
    current, result = state.init_state(spec, 0), []
    before = leaves(current.params)
    for step in range(steps):
        batch = sharding.put_batch(batch_of(step, rows), spec.mesh)
        current, metrics = train_step.train_step(spec, current, batch, np.int32(0), np.float32(3.0))
        result.append(float(metrics["loss"]))
    return spec, before, current, result


@pytest.mark.slow
def test_linear_probing_trains_the_head_by_statistics_of_the_whole_batch():
    """Batch norm and LARS match NumPy over the real rows, with padding, accumulation, and one or five devices."""
    spec, before, current, _ = probe(1, 8)
    frozen = current.params
    mean, variance = np.zeros(16), np.ones(16)
    kernel, bias, moved = before["head/kernel"].astype(float), before["head/bias"].astype(float), (0.0, 0.0)
    expected = []
    for step in range(3):
        batch = batch_of(step, 8)
        x = np.asarray(
            models.pooled(spec.shape, frozen, to_float(jnp.asarray(batch["image"]), spec.mean, spec.std)),
            np.float64,
        )
        mean, variance = 0.9 * mean + 0.1 * x.mean(0), 0.9 * variance + 0.1 * x.var(0, ddof=1)
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)
        p = np.exp(x @ kernel + bias)
        p /= p.sum(1, keepdims=True)
        expected.append(-np.log(p[np.arange(8), batch["label"]]).mean())
        error = (p - np.eye(3)[batch["label"]]) / 8
        gradient = x.T @ error
        gradient *= 0.001 * np.linalg.norm(kernel) / np.linalg.norm(gradient)
        moved = 0.9 * moved[0] + gradient, 0.9 * moved[1] + error.sum(0)
        kernel, bias = kernel - 3.0 * moved[0], bias - 3.0 * moved[1]
    for devices, rows, accumulation in ((1, 8, 1), (5, 10, 1), (5, 15, 3), (2, 8, 2)):
        _, before, current, values = probe(devices, rows, accumulation)
        text = f"{devices} devices, {rows} rows, {accumulation} accumulated"
        np.testing.assert_allclose(values, expected, rtol=1e-4, err_msg=text)
        np.testing.assert_allclose(current.params["batch_norm"]["mean"], mean, rtol=1e-4, atol=1e-6, err_msg=text)
        np.testing.assert_allclose(current.params["batch_norm"]["variance"], variance, rtol=1e-4, err_msg=text)
        np.testing.assert_allclose(current.params["head"]["kernel"], kernel, rtol=1e-3, atol=1e-6, err_msg=text)
        np.testing.assert_allclose(current.params["head"]["bias"], bias, rtol=1e-3, atol=1e-6, err_msg=text)
        after = leaves(current.params)
        changed = {path for path in after if before[path].tobytes() != after[path].tobytes()}
        assert changed == {"batch_norm/mean", "batch_norm/variance", "head/bias", "head/kernel"}
        assert sum(x.size for x in jax.tree.leaves(current.opt_state)) == after["head/kernel"].size + 3


def test_a_linear_probe_is_evaluated_by_its_running_statistics():
    spec, _, current, _ = probe(1, 8)
    batch = batch_of(9, 8)
    x = np.asarray(
        models.pooled(spec.shape, current.params, to_float(jnp.asarray(batch["image"]), spec.mean, spec.std))
    )
    norm, head = (jax.tree.map(np.asarray, current.params[name]) for name in ("batch_norm", "head"))
    logits = (x - norm["mean"]) / np.sqrt(norm["variance"] + 1e-6) @ head["kernel"] + head["bias"]
    result = eval_step.eval_step(spec, current.params, batch, np.int32(0))["probabilities"]
    np.testing.assert_allclose(result, jax.nn.softmax(logits), rtol=1e-4)


def test_frozen_blocks_are_run_without_dropping_paths():
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    shape = dataclasses.replace(SHAPE, depth=2, drop_path=0.9)
    params = models.init("vit", shape, jax.random.key(0))

    def logits(shape, key=None):
        return np.asarray(models.apply("vit", shape, params, images, key=key))

    still = logits(shape)
    np.testing.assert_array_equal(logits(dataclasses.replace(shape, frozen_blocks=2), jax.random.key(2)), still)
    assert abs(logits(dataclasses.replace(shape, frozen_blocks=1), jax.random.key(2)) - still).max() > 1e-3


@pytest.mark.slow
def test_each_micro_batch_drops_other_paths():
    """One image twice: alone it has one of few losses, and two micro-batches that drop different paths have a mean."""
    shape = dataclasses.replace(SHAPE, depth=2, drop_path=0.5)  # 4 losses: two branches of the last block, each or not
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)

    def losses_of(rows):
        spec = spec_of("finetune", mesh_of(1), shape=shape, batch_size=rows, accumulation=rows)
        batch = {"image": image.repeat(rows, 0), "label": np.zeros(rows, np.int32)}
        batch |= {"index": np.arange(rows, dtype=np.int32), "mask": np.ones(rows, np.float32)}
        current, result = state.init_state(spec, 0), set()
        for _ in range(20):  # a learning rate of 0 changes the step and with it the paths, but no parameter
            current, metrics = train_step.train_step(spec, current, batch, np.int32(0), np.float32(0))
            result.add(round(float(metrics["loss"]), 4))
        return result

    alone, both = losses_of(1), losses_of(2)
    assert len(alone) == 4 and both - alone
    means = [(one + other) / 2 for one in alone for other in alone]
    assert all(min(abs(loss - mean) for mean in means) < 1e-3 for loss in both)


def test_padding_rows_change_nothing():
    spec = spec_of("finetune", mesh_of(1))
    clean, _ = losses(spec, 8, steps=2)
    padded, _ = losses(spec, 13, steps=2)
    np.testing.assert_allclose(padded, clean, rtol=1e-5)


def test_the_norm_that_is_reported_is_that_of_the_mean_gradient_before_clipping():
    spec = spec_of("finetune", mesh_of(1), optimizer=dataclasses.replace(OPTIMIZER, clip_norm=1e-3))
    current = state.init_state(spec, 0)
    batch = sharding.put_batch(batch_of(0, 8), spec.mesh)
    total = jax.grad(lambda params: spec.objective.loss(spec, params, batch, jax.random.key(0), None)[0])(
        current.params
    )
    expected = float(np.sqrt(sum(np.square(leaf / 8).sum() for leaf in jax.tree.leaves(total))))
    _, metrics = train_step.train_step(spec, current, batch, np.int32(0), np.float32(1e-2))
    assert float(metrics["gradient_norm"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"mixup": 0.8}, {"cutmix": 1.0}], ids=["mixup", "cutmix"])
def test_a_step_trains_on_what_numpy_mixes(fields):
    spec = spec_of("finetune", mesh_of(1), label_smoothing=0.1, **fields)
    current, batch = state.init_state(spec, 0), batch_of(0, 8)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(6), MIX), 0)
    weights, share = (np.asarray(x) for x in mixup.draw(key, spec.objective.mixup, spec.objective.cutmix, 16))
    assert 0.05 < share < 0.95

    images = (batch["image"] / 255 - 0.5) / 0.25
    mixed, targets = np.empty((8, 16, 16, 3), np.float32), np.full((8, 3), 0.1 / 3)
    for i in range(8):
        for y, x in np.ndindex(16, 16):
            mixed[i, y, x] = weights[y, x] * images[i, y, x] + (1 - weights[y, x]) * images[7 - i, y, x]
        targets[i, batch["label"][i]] += 0.9 * share
        targets[i, batch["label"][7 - i]] += 0.9 * (1 - share)
    logits = np.asarray(models.apply("vit", spec.shape, current.params, jnp.asarray(mixed)), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -(targets * log_probabilities).sum(1).mean()

    _, metrics = train_step.train_step(spec, current, batch, np.int32(6), np.float32(1e-2))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    assert "accuracy" not in metrics


MIXED = {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1}


@pytest.mark.slow
def test_every_split_and_accumulation_mixes_alike():
    expected, _ = losses(spec_of("finetune", mesh_of(1), **MIXED), 8, steps=3)
    plain, _ = losses(spec_of("finetune", mesh_of(1), label_smoothing=0.1), 8, steps=3)
    assert np.abs(expected - plain).min() > 1e-4
    for devices, fsdp, accumulation, rows in [(5, 1, 1, 10), (5, 5, 3, 15)]:
        spec = spec_of("finetune", mesh_of(devices, fsdp), accumulation=accumulation, **MIXED)
        values, _ = losses(spec, rows, steps=3)
        np.testing.assert_allclose(values, expected, rtol=1e-5, err_msg=f"{devices} {fsdp} {accumulation}")


@pytest.mark.slow
def test_drop_path_dropout_and_mixing_together_do_not_depend_on_the_number_of_devices():
    shape = ViTConfig(16, 4, 16, 2, 2, n_classes=3, pool="mean", drop_path=0.3, dropout=0.2)
    expected, _ = losses(spec_of("finetune", mesh_of(1), shape=shape, **MIXED), 8, steps=3)
    values, _ = losses(spec_of("finetune", mesh_of(5), shape=shape, **MIXED), 10, steps=3)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.slow
def test_padding_is_mixed_into_nothing():
    spec, result = spec_of("finetune", mesh_of(1), **MIXED), []
    for filling in (0, 255):
        batch = batch_of(0, 13)
        batch["image"][8:] = filling
        batch["label"][8:] = filling % 3
        batch = sharding.put_batch(batch, spec.mesh)
        _, metrics = train_step.train_step(spec, state.init_state(spec, 0), batch, np.int32(0), np.float32(1e-2))
        result.append((float(metrics["loss"]), float(metrics["gradient_norm"])))
    assert result[0] == result[1]
    without_padding, _ = losses(spec, 8, steps=1)
    np.testing.assert_allclose(result[0], without_padding[0], rtol=1e-5)


@pytest.mark.slow
def test_what_is_mixed_is_a_function_of_seed_and_step():
    keys = [(0, 0), (0, 1), (1, 0)]
    spec, result = spec_of("finetune", mesh_of(1), **MIXED), []
    batch = sharding.put_batch(batch_of(0, 8), spec.mesh)
    for seed, step in [*keys, *keys]:
        current = state.init_state(spec, 0)
        current.step = jnp.int32(step)
        result.append(float(train_step.train_step(spec, current, batch, np.int32(seed), np.float32(0))[1]["loss"]))
    assert result[:3] == result[3:] and len(set(result)) == 3


@pytest.mark.slow
def test_randomness_is_a_function_of_seed_and_step():
    spec = spec_of("pretrain", mesh_of(1))
    batch = sharding.put_batch(batch_of(0, 8), spec.mesh)

    def loss(seed, step):
        current = state.init_state(spec, 0)
        current.step = jnp.int32(step)
        return float(train_step.train_step(spec, current, batch, np.int32(seed), np.float32(0))[1]["loss"])

    assert loss(0, 0) == loss(0, 0)
    assert len({loss(0, 0), loss(0, 1), loss(1, 0)}) == 3


def test_runs_that_differ_in_seed_length_and_rate_share_compiled_code():
    spec = spec_of("finetune", mesh_of(1), label_smoothing=0.123)
    before = train_step.train_step._cache_size()
    losses(spec, 8, steps=3)
    same = spec_of("finetune", mesh_of(1), label_smoothing=0.123)
    losses(same, 8, steps=1)
    assert train_step.train_step._cache_size() == before + 1


def test_bfloat16_keeps_parameters_in_float32():
    shape = ViTConfig(16, 4, 16, 1, 2, n_classes=3, dtype="bfloat16")
    values, current = losses(spec_of("finetune", mesh_of(1), shape=shape), 8, steps=2)
    assert np.isfinite(values).all()
    assert {x.dtype for x in jax.tree.leaves(current.params)} == {np.dtype("float32")}


@pytest.mark.slow
def test_remat_saves_memory_and_the_state_is_donated():
    """The new state reuses every byte of the old one. `remat` gives the same losses with less memory."""
    collected, sizes = [], []
    batch = batch_of(0, 32)
    for remat in (False, True):
        deep = dict(decoder_width=16, decoder_depth=3, decoder_heads=2)
        spec = spec_of("pretrain", mesh_of(1), shape=ViTConfig(16, 4, 16, 3, 2, remat=remat, **deep))
        current, rest = state.init_state(spec, 0), (batch, np.int32(0), np.float32(1e-2))
        program = train_step.train_step.lower(spec, current, *rest).compile()
        memory = program.memory_analysis()
        assert memory.alias_size_in_bytes >= sum(x.nbytes for x in jax.tree.leaves(current))
        sizes.append(memory.temp_size_in_bytes)
        for _ in range(2):
            current, metrics = program(current, *rest)
            collected.append([float(metrics["loss"]), float(metrics["gradient_norm"])])
    assert sizes[1] < 0.6 * sizes[0], sizes
    np.testing.assert_allclose(collected[2:], collected[:2], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_stain_changes_depend_on_seed_and_step_but_not_on_devices(task):
    expected, _ = losses(spec_of(task, mesh_of(1), stain=stain.Hed()), 8, steps=2)
    plain, _ = losses(spec_of(task, mesh_of(1)), 8, steps=2)
    assert (expected != plain).all()
    for devices, accumulation, rows in [(5, 1, 10), (5, 2, 10)]:
        values, _ = losses(spec_of(task, mesh_of(devices), accumulation=accumulation, stain=stain.Hed()), rows, steps=2)
        np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_every_step_draws_another_stain():
    spec, batch = spec_of("finetune", mesh_of(1), stain=stain.Hed()), batch_of(0, 10)
    changed = [
        train_step._stained(spec, jax.tree.map(jnp.asarray, batch), jnp.int32(0), jnp.int32(step)) for step in (3, 3, 4)
    ]
    images = [np.asarray(each["image"]) for each in changed]
    assert (images[0] == images[1]).all() and (images[0] != images[2]).mean() > 0.5
    assert (images[0][8:] == 0).all()  # padding stays
    assert (np.asarray(changed[0]["original"]) == batch["image"]).all()


@pytest.mark.parametrize("target", ["augmented", "original"])
def test_the_target_is_the_changed_image_or_the_original(target):
    spec = spec_of("pretrain", mesh_of(1), stain=stain.Jitter(), target=target, norm_pix=False)
    params, batch = state.init_state(spec, 0).params, jax.tree.map(jnp.asarray, batch_of(0, 8))
    batch = train_step._stained(spec, batch, jnp.int32(0), jnp.int32(0))
    _, batch, shared = spec.objective.prepare(spec, params, batch, jnp.int32(0), jnp.int32(0), {})
    loss, _ = spec.objective.loss(spec, params, batch, jax.random.key(0), shared)
    seen = to_float(batch["image"], spec.mean, spec.std)
    pred, mask = models.apply("mae", SHAPE, params, seen, batch["noise"], n_visible(SHAPE.n_patches, 0.5))
    wanted = to_float(batch["image" if target == "augmented" else "original"], spec.mean, spec.std)
    error = ((pred - patchify(wanted, 4)) ** 2).mean(-1)
    assert float(loss) == pytest.approx(float(((error * mask).sum(1) / mask.sum(1)).sum()), rel=1e-5)
    assert (batch["image"] != batch["original"]).any()
