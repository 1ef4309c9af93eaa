"""Names and shapes of arrays in other code's files: there and back again."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from mae_jax import models
from mae_jax.weights import names, reader
from tests.golden import drawing

GOLDEN = Path(__file__).parents[1] / "golden"

PATHS = (
    "encoder/cls_token", "encoder/patch_embed/proj/kernel", "encoder/block_03/attn/qkv/kernel",
    "encoder/block_03/attn/qkv/bias", "encoder/block_11/norm1/scale", "encoder/block_00/mlp/fc1/kernel", "head/kernel",
)  # fmt: skip


def test_each_naming_scheme_is_told_by_its_patch_embedding():
    assert names.family_of(["encoder/patch_embed/proj/kernel"]) == "own"
    assert names.family_of(["patch_embed.proj.weight", "x"]) == "timm"
    assert names.family_of(["vit.embeddings.patch_embeddings.projection.weight"]) == "hf"
    assert names.family_of(["conv1.weight"]) is None


@pytest.mark.parametrize(
    ("path", "family", "keys"),
    [
        ("encoder/block_03/attn/qkv/kernel", "timm", ("blocks.3.attn.qkv.weight",)),
        ("decoder/block_00/mlp/fc2/bias", "timm", ("decoder_blocks.0.mlp.fc2.bias",)),
        (
            "encoder/block_03/attn/qkv/bias",
            "hf",
            tuple(f"vit.encoder.layer.3.attention.attention.{name}.bias" for name in ("query", "key", "value")),
        ),
        ("encoder/cls_token", "timm", ("cls_token",)),
        ("encoder/norm/scale", "timm", ("norm.weight",)),
        ("anything/at/all", "own", ("anything/at/all",)),
    ],
)
def test_keys_of_a_parameter(path, family, keys):
    assert names.keys_of(path, family) == keys


@pytest.mark.parametrize("family", ["timm", "hf", "own"])
@pytest.mark.parametrize("path", PATHS)
def test_arrays_come_back_as_they_went(path, family):
    rng = np.random.default_rng(0)
    shape = (4 * 4 * 3, 6) if "patch_embed" in path else (6, 18) if path.endswith("kernel") else (18,)
    array = rng.normal(size=shape).astype(np.float32)
    theirs = names.to_theirs(path, array, family, 4)
    assert tuple(theirs) == names.keys_of(path, family)
    assert [value.shape for value in theirs.values()] == names.shape_theirs(path, shape, family, 4)
    np.testing.assert_array_equal(names.to_ours(path, list(theirs.values()), family), array)


def test_a_patch_kernel_has_the_order_of_a_convolution():
    """Ours: (row, column, channel) x feature. Theirs: feature, channel, row, column."""
    ours = np.arange(2 * 2 * 3 * 5, dtype=np.float32).reshape(12, 5)
    (theirs,) = names.to_theirs("encoder/patch_embed/proj/kernel", ours, "timm", 2).values()
    assert theirs.shape == (5, 3, 2, 2)
    assert theirs[4, 1, 0, 1] == ours[(0 * 2 + 1) * 3 + 1, 4]
    (linear,) = names.to_theirs("head/kernel", ours, "timm", 2).values()
    np.testing.assert_array_equal(linear, ours.T)


def test_gate_and_value_of_a_gated_layer_are_one_array():
    gate, value = np.full((3, 2), 1.0), np.full((3, 2), 2.0)
    (first, second, last), (one, two) = (names._SEPARATE[0][0], names._SEPARATE[0][1])
    given = {f"blocks.0.mlp.{first}.weight": gate, f"blocks.0.mlp.{second}.weight": value, "other": gate}
    result = names.packed(given)
    np.testing.assert_array_equal(result[f"blocks.0.mlp.{one}.weight"], np.concatenate([gate, value]))
    assert set(result) == {f"blocks.0.mlp.{one}.weight", "other"} and set(given) > {"other"} and last and two
    alone = {f"blocks.0.mlp.{first}.weight": gate}
    assert names.packed(alone).keys() == alone.keys()  # without its value nothing is joined


@pytest.mark.parametrize("above", ["", "opt/target/"])
def test_googles_npz_files_give_the_logits_that_timm_computes(tmp_path, above):
    """`tests/golden/make.py encoders` made the logits."""
    golden = np.load(GOLDEN / "augreg.npz")
    shapes = json.loads(str(golden["shapes"]))
    np.savez(tmp_path / "x.npz", **{above + key: drawing.array(key, tuple(shape)) for key, shape in shapes.items()})
    weights = reader.read(tmp_path / "x.npz")
    assert (weights.shape.heads, weights.heads_known, weights.mean) == (4, True, (0.5, 0.5, 0.5))
    assert any("0.5, as in Google's code, is assumed" in note for note in weights.notes)
    apply = jax.jit(models.apply, static_argnums=(0, 1))
    logits = apply("vit", weights.shape, weights.params, drawing.images(16))
    np.testing.assert_allclose(logits, golden["logits"], rtol=1e-5, atol=1e-5)
