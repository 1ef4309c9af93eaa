"""Compares ours with the installed timm. test_golden uses stored numbers. Needs the extra [timm]."""

import dataclasses
import random
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mae_jax import models
from mae_jax.config.fields import defaults
from mae_jax.config.schedule import Schedule, learning_rate
from mae_jax.data import augment
from mae_jax.models import vit
from mae_jax.models.params import map_paths
from mae_jax.models.vit import ViTConfig
from mae_jax.step import mixup
from mae_jax.step.losses import soft_targets
from mae_jax.step.optimizer import Optimizer, layer_scales
from mae_jax.weights import names, reader
from mae_jax.weights.positions import interpolate
from mae_jax.weights.writer import write

timm, torch, optim, scheduler = (
    pytest.importorskip(name, reason="needs the extra [timm]")
    for name in ("timm", "torch", "timm.optim", "timm.scheduler")
)
pytestmark = pytest.mark.filterwarnings("default")  # theirs
BASE = ViTConfig(24, 8, 32, 2, 4, n_classes=3)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pool": "mean", "mlp_ratio": 2.0},
        {"positions": "learned", "registers": 2, "layer_scale": 1e-5},
        {"mlp": "swiglu"},
    ],
)
def test_timm_opens_an_exported_network_and_computes_the_same(tmp_path, fields):
    shape = dataclasses.replace(BASE, **fields)
    rng = np.random.default_rng(0)
    like = jax.eval_shape(partial(models.init, "vit", shape), jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), like)
    assert write(reader.Weights(params, shape, "vit", "a run", classes=("a", "b", "c")), tmp_path, "timm") == []
    network = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = rng.normal(0, 1, (2, 24, 24, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    ours = jax.jit(models.apply, static_argnums=(0, 1))("vit", shape, params, jnp.asarray(images))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert network.pretrained_cfg["mean"] == list(reader.Weights.mean)


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("vit_base_patch16_224", {}, {"pool": "cls", "heads": 12}),
        ("vit_base_patch16_224", {"global_pool": "avg"}, {"pool": "mean"}),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 126}, {"registers": 4, "positions": "learned"}),
    ],
)
def test_published_networks_are_read_from_timms_own_folders(tmp_path, name, options, field):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=5, **options).eval()
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn(p.shape))
    timm.models.save_for_hf(network, tmp_path, model_config={"model_args": options} if options else None)
    weights = reader.read(tmp_path)
    assert {key: getattr(weights.shape, key) for key in field} == field and weights.heads_known
    images = torch.randn(1, 3, weights.shape.image_size, weights.shape.image_size)
    with torch.no_grad():
        theirs = network(images).numpy()
    run = jax.jit(models.apply, static_argnums=(0, 1))
    ours = run("vit", weights.shape, weights.params, jnp.asarray(images.permute(0, 2, 3, 1).numpy()))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_parameter_groups_of_a_base_network():
    network = timm.create_model("vit_base_patch16_224", num_classes=5)
    groups = optim.param_groups_layer_decay(network, 0.05, network.no_weight_decay(), layer_decay=0.65)
    name_of = {id(p): name for name, p in network.named_parameters()}
    theirs = {
        name_of[id(p)]: (group["lr_scale"], group["weight_decay"] > 0) for group in groups for p in group["params"]
    }
    shape = ViTConfig(224, 16, *vit.SIZES["base"], n_classes=5, positions="learned")
    like = jax.eval_shape(partial(models.init, "vit", shape), jax.random.key(0))
    optimizer = Optimizer(0.9, 0.999, 0.05, defaults("finetune").optim.no_decay, 0.0, 0.65)
    ours: dict[str, list] = {}
    for tree in (layer_scales(like, 0.65), optimizer.decayed(like)):
        map_paths(lambda path, value: ours.setdefault(names.keys_of(path, "timm")[0], []).append(value), tree)
    assert ours.keys() == theirs.keys()
    for name, (scale, decayed) in ours.items():
        # timm assigns the final norm to the last block, the paper's code to the head.
        assert scale == pytest.approx(1.0 if name.startswith("norm.") else theirs[name][0]), name
        assert decayed == theirs[name][1], name


@pytest.mark.parametrize(("steps", "warmup", "low"), [(220, 20, 1e-6), (100, 0, 0.0), (50, 7, 1e-5)])
def test_schedule_at_every_step(steps, warmup, low):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    theirs = scheduler.CosineLRScheduler(
        optimizer, t_initial=steps - warmup, lr_min=low, warmup_t=warmup, warmup_lr_init=0.0, warmup_prefix=True
    )
    resolved = Schedule(
        n_train=1, devices=1, batch_size=1, rows=1, steps_per_epoch=1, steps=steps, warmup_steps=warmup,
        peak_lr=1e-3, eval_every=1, save_every=1,
    )  # fmt: skip
    for step in range(steps):
        ours = learning_rate(step, "cosine", resolved, low)
        assert ours == pytest.approx(theirs._get_lr(step)[0], rel=1e-9), step


def test_interpolation_to_other_grids():
    positions = np.random.default_rng(0).normal(0, 1, (1, 14 * 14, 8)).astype(np.float32)
    for grid in (7, 16, 24):
        theirs = timm.layers.resample_abs_pos_embed(torch.from_numpy(positions), (grid, grid), num_prefix_tokens=0)
        ours = interpolate(jnp.asarray(positions), grid)
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)


def test_operations_of_randaugment():
    theirs = pytest.importorskip("timm.data.auto_augment")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 31, 3), np.uint8))
    names_there = {"posterize": "PosterizeIncreasing", "solarize": "SolarizeIncreasing", "solarize_add": "SolarizeAdd"}
    names_there |= {"colour": "ColorIncreasing", "autocontrast": "AutoContrast"}
    names_there |= {name: f"{name.title()}Increasing" for name in ("contrast", "brightness", "sharpness")}
    names_there |= {f"shear_{axis}": f"Shear{axis.upper()}" for axis in "xy"}
    names_there |= {f"translate_{axis}": f"Translate{axis.upper()}Rel" for axis in "xy"}
    result = theirs.rand_augment_transform(
        "rand-m9-mstd0.5-inc1", {"img_mean": augment.FILL, "interpolation": Image.Resampling.BICUBIC}
    )
    ours = augment.RandAugment()
    assert (result.num_layers, result.choice_weights) == (ours.layers, None)
    operations = augment.GEOMETRY | augment.COLOR
    assert {op.name for op in result.ops} == {names_there.get(name, name.title()) for name in operations}
    for op in result.ops:
        assert (op.prob, op.magnitude, op.magnitude_std) == (ours.probability, ours.magnitude, ours.deviation)
        name = next(name for name in operations if names_there.get(name, name.title()) == op.name)
        for level in (0, 0.3, 2.5, 5, 8.7, 9, 9.31):
            random.seed(0)
            given = op.level_fn(level, op.hparams) if op.level_fn else ()
            expected = np.asarray(op.aug_fn(image, *given, **op.kwargs))
            signed = [np.asarray(operations[name](image, sign * level / 10)) for sign in (1, -1)]
            assert any((one == expected).all() for one in signed), (name, level)


def test_soft_targets_and_boxes_of_mixed_images(monkeypatch):
    theirs = pytest.importorskip("timm.data.mixup")
    labels = np.array([0, 2, 1, 3])
    ours = soft_targets(jnp.asarray(labels), jnp.asarray(labels[::-1]), jnp.float32(0.3), 4, 0.1)
    np.testing.assert_allclose(ours, theirs.mixup_target(torch.from_numpy(labels), 4, 0.3, 0.1), rtol=1e-6)
    rng = np.random.default_rng(0)
    for share in rng.random(20).astype(np.float32):
        centre = rng.integers(0, 17, 2)
        drawn = iter(centre)
        with monkeypatch.context() as patched:
            patched.setattr(np.random, "randint", lambda *_, drawn=drawn, **__: next(drawn))
            top, bottom, left, right = theirs.rand_bbox((3, 17, 17), float(share))
        expected = np.zeros((17, 17), bool)
        expected[top:bottom, left:right] = True
        np.testing.assert_array_equal(mixup.box(jnp.float32(share), jnp.asarray(centre), 17), expected)
