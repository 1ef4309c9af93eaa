import dataclasses
import re
from functools import partial

import jax
import numpy as np
import pytest

from mae_jax import models
from mae_jax.config import loading, naming, schedule
from mae_jax.config.fields import defaults
from mae_jax.models import vit
from mae_jax.models.patches import position_embedding
from mae_jax.runtime.errors import UserError
from mae_jax.step import from_config, sharding
from mae_jax.step.state import init_state
from mae_jax.train import loop
from mae_jax.weights import initial_weights, positions, reader, transfer
from mae_jax.weights.positions import interpolate
from mae_jax.weights.writer import write

init = partial(jax.jit, static_argnums=(0, 1))(models.init)


@pytest.fixture
def weights(timm_file):
    return lambda **kinds: reader.read(timm_file(**kinds))


def drawn(weights, kind="vit", **fields):
    decoder = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
    shape = dataclasses.replace(weights.shape, **({"n_classes": 3} | decoder | fields))
    return init(kind, shape, jax.random.key(1)), shape


def test_a_classifier_takes_the_encoder_and_keeps_its_own_head(weights):
    source = weights(classes=7, decoder=0)
    params, shape = drawn(source)
    taken, notes = transfer.transfer(params, shape, source)
    jax.tree.map(np.testing.assert_array_equal, taken["encoder"], source.params["encoder"])
    jax.tree.map(np.testing.assert_array_equal, taken["head"], params["head"])
    assert notes == []


def test_an_autoencoder_copies_the_decoder_or_keeps_random_weights(weights):
    source = weights(decoder=1)
    params, shape = drawn(source, "mae")
    taken, notes = transfer.transfer(params, shape, dataclasses.replace(source, shape=shape))
    jax.tree.map(np.testing.assert_array_equal, taken, source.params)
    assert notes == []
    alone = weights()
    taken, notes = transfer.transfer(params, shape, alone)
    jax.tree.map(np.testing.assert_array_equal, taken["decoder"], params["decoder"])
    assert notes == ["the decoder starts from random weights, because the source has none"]


def test_a_mean_pooled_classifier_leaves_the_last_norm(weights):
    source = weights()
    params, shape = drawn(source, pool="mean")
    taken, _ = transfer.transfer(params, shape, source)
    assert "norm" not in taken["encoder"]
    jax.tree.map(np.testing.assert_array_equal, taken["fc_norm"], params["fc_norm"])


def test_a_fine_tuned_networks_norm_after_the_mean_is_taken(weights):
    source = weights(pool="mean", classes=7)
    params, shape = drawn(source)
    assert shape.pool == "mean"
    taken, _ = transfer.transfer(params, shape, source)
    jax.tree.map(np.testing.assert_array_equal, taken["fc_norm"], source.params["fc_norm"])
    jax.tree.map(np.testing.assert_array_equal, taken["head"], params["head"])


def test_learned_positions_are_interpolated_to_another_grid(weights):
    source = weights(learned=True)
    params, shape = drawn(source, image_size=32)
    taken, notes = transfer.transfer(params, shape, source)
    assert taken["encoder"]["pos_embed"].shape == (1, 16, 16)
    assert notes == [
        "position embeddings interpolated from 2 x 2 patches to 4 x 4 (bicubic and antialiased, as in timm)"
    ]
    _, notes = transfer.transfer(*drawn(weights(), image_size=32), weights())
    assert notes == ["fixed positions recomputed for 4 x 4 patches"]


def test_interpolation_keeps_constants_and_smooth_functions():
    constant = np.full((1, 9, 4), 3.0, np.float32)
    np.testing.assert_allclose(interpolate(jax.numpy.asarray(constant), 5), 3.0, rtol=1e-6)
    ramp = np.arange(8, dtype=np.float32)
    square = np.stack(np.meshgrid(ramp, ramp), -1).reshape(1, 64, 2)
    finer = np.asarray(interpolate(jax.numpy.asarray(square), 16)).reshape(16, 16, 2)
    inside = (np.arange(16) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(finer[8, 4:12, 0], inside[4:12], atol=0.02)
    np.testing.assert_allclose(finer[4:12, 8, 1], inside[4:12], atol=0.02)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positions": "learned"}, "positions is learned in the config and fixed in the weights"),
        ({"depth": 3}, "depth is 3 in the config and 2 in the weights"),
        ({"heads": 4}, "heads is 4 in the config and 2 in the weights"),
        ({"registers": 2}, "registers is 2 in the config and 0 in the weights"),
        ({"layer_scale": 0.1}, "layer_scale is 0.1 in the config; the weights are without layer scale"),
        ({"mlp_ratio": 2.0}, "mlp_ratio is 2.0 in the config and 4.0 in the weights"),
    ],
)
def test_another_network_is_refused_and_the_matching_fields_are_listed(weights, fields, message):
    source = weights()
    with pytest.raises(UserError) as error:
        transfer.compare(dataclasses.replace(source.shape, **fields), source)
    assert message in str(error.value) and "--config.model.depth=2" in str(error.value)


def test_missing_and_unexpected_parameters_are_listed(weights):
    source = weights()
    params, shape = drawn(source)
    less = source.params | {"encoder": {k: v for k, v in source.params["encoder"].items() if k != "cls_token"}}
    less["encoder"]["extra"] = np.zeros(3, np.float32)
    with pytest.raises(UserError, match=re.escape("encoder/cls_token is missing; encoder/extra has no counterpart")):
        transfer.transfer(params, shape, dataclasses.replace(source, params=less))


def test_another_epsilon_is_noted(weights):
    source = weights()
    (text,) = transfer.compare(dataclasses.replace(source.shape, norm_eps=1e-12), source)
    assert "epsilon is 1e-12 in the config and 1e-06 in the weights" in text


def test_every_field_of_a_shape_is_read_from_the_config_or_known():
    """A new field `model.*` must reach the network, and the readers and writers of weights must know it."""
    fields = set(defaults("finetune").model) - {"size"}
    shape = {f.name for f in dataclasses.fields(vit.ViTConfig)} - {"n_classes", "remat", "batch_norm", "frozen_blocks"}
    assert fields == shape
    result = reader.Weights({}, vit.ViTConfig(16, 8, 16, 2, 2), "mae", "").model_fields()
    free = {"image_size", "pool", "drop_path", "dropout", "dtype", "attention", "head_std", "family"}  # of the run
    free |= {"norm"}  # of ResNets
    assert set(result) | free == fields | {"size"}


def test_a_file_keeps_its_way_of_interpolating_when_it_is_converted(timm_file, tmp_path):
    """facebookresearch/dinov2's files have a mask token and no config.json of timm."""
    source = reader.read(timm_file(lambda a: a.update(mask_token=a["cls_token"][0]), learned=True, about={}))
    assert source.interpolation == positions.OFFSET
    (tmp_path / "own").mkdir()
    write(source, tmp_path / "own", "own")
    again = reader.read(tmp_path / "own")
    assert again.interpolation == positions.OFFSET
    params, shape = drawn(again, image_size=32)
    taken, notes = transfer.transfer(params, shape, again)
    expected = interpolate(jax.numpy.asarray(source.params["encoder"]["pos_embed"]), 4, positions.OFFSET)
    np.testing.assert_array_equal(taken["encoder"]["pos_embed"], expected)
    assert "with an offset of 0.1" in notes[0]


def test_config_files_take_a_path(timm_file, tmp_path):
    path = timm_file(learned=True, about={"model_args": {"num_heads": 2}, "pretrained_cfg": {"mean": [0.5] * 3}})
    config = loading.load("configs/finetune.py", f"init={path}")
    assert (config.init, config.init_from) == ("weights", str(path))
    assert (config.model.size, config.model.width, config.model.positions) == ("custom", 16, "learned")
    assert config.data.mean == (0.5, 0.5, 0.5) and config.data.std == (0.229, 0.224, 0.225)
    assert naming.default_workdir(config).endswith("-weights_model-16x2_p8_224px-seed0")
    folder = loading.load("configs/pretrain.py", f"init={path.parent}")
    assert folder.init == "weights" and folder.model.positions == "learned"
    assert loading.init_of(tmp_path / "run") == "mae" and loading.init_of("x/y.pth") == "weights"
    with pytest.raises(UserError, match="init=.*y.pth does not exist"):
        loading.load("configs/finetune.py", "init=x/y.pth")


@pytest.mark.slow
def test_a_pretraining_starts_from_a_file_and_a_classifier_from_its_run(tiny_config, timm_file, tmp_path, capsys):
    path = timm_file(decoder=1)
    fields = {"init": "weights", "init_from": str(path), "train.steps": 1, "optim.base_lr": 1e-30}
    config = tiny_config("pretrain", **fields)
    config.model.update(reader.read(path).model_fields())
    config.model.decoder_heads = 1
    loop.run(config, tmp_path / "run")
    assert f"initial weights from {path}" in capsys.readouterr().out

    config = tiny_config("finetune", init="mae", init_from=str(tmp_path / "run"))
    config.model.image_size = 32
    mesh = sharding.make_mesh(1)
    spec = from_config.spec_of(config, schedule.resolve(config, 50, mesh.size), mesh, 5)
    params = init_state(spec, 0).params
    taken = initial_weights.first_weights(config)(spec, params)
    expected = reader.read(path).params["encoder"]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), taken["encoder"], expected)
    jax.tree.map(np.testing.assert_array_equal, taken["head"], params["head"])
    assert jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, taken, params))
    assert "fixed positions recomputed for 4 x 4 patches" in capsys.readouterr().out
    config.model.depth = 1
    with pytest.raises(UserError, match="depth is 1 in the config and 2 in the weights"):
        initial_weights.first_weights(config)


def test_fixed_positions_are_those_of_the_papers_code():
    """Rows of the paper code's `get_2d_sincos_pos_embed(8, 2)`: sines and cosines of the column, then the row."""
    angle = 1.0 * np.array([1.0, 1 / 10000**0.5])
    expected = np.concatenate([np.sin(angle), np.cos(angle), [0, 0, 1, 1]])
    np.testing.assert_allclose(position_embedding(2, 8)[1], expected, rtol=1e-6)
