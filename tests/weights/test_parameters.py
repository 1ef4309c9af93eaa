import dataclasses

import jax
import numpy as np
import pytest

from mae_jax.runtime.errors import UserError
from mae_jax.weights import parameters, reader, shapes
from mae_jax.weights.layout import read_layout


def test_biases_that_a_network_does_without_are_zero(timm_file):
    def without(arrays):
        for key in [key for key in arrays if key.endswith("qkv.bias")]:
            arrays.pop(key)

    layout = read_layout(timm_file(without), "init")
    shape, kind, _ = shapes.shape_of(layout)
    params, notes = parameters.take(layout, shape, kind)
    assert notes == ["queries, keys and values have no bias in the file; their biases are set to 0"]
    assert not np.any(params["encoder"]["block_01"]["attn"]["qkv"]["bias"])
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params)) and "head" not in params
    one = dataclasses.replace(layout, arrays=layout.arrays | {"blocks.0.attn.qkv.bias": np.ones(48, np.float32)})
    with pytest.raises(UserError, match=r"1 missing \(blocks.1.attn.qkv.bias\)"):
        parameters.take(one, shape, kind)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("blocks.1.mlp.fc2.bias"), "1 missing (blocks.1.mlp.fc2.bias)"),
        (lambda a: a.update({"blocks.0.attn.q_norm.weight": a["norm.bias"]}), "1 unexpected (blocks.0.attn.q_norm"),
        (lambda a: a.update({"norm.bias": a["norm.bias"][:3]}), "1 unusable (norm.bias (3,) instead of (16,))"),
        (lambda a: a.update({"norm.bias": a["norm.bias"] * np.nan}), "norm.bias is not finite"),
        (lambda a: a.update({"norm.bias": a["norm.bias"].astype(np.int32)}), "norm.bias is int32"),
        (lambda a: a.pop("pos_embed"), "pos_embed is missing"),
        (lambda a: a.pop("cls_token"), "1 missing (cls_token)"),
        (lambda a: a.pop("patch_embed.proj.weight"), "no patch embedding under the names"),
        (lambda a: a.update(pos_embed=a["pos_embed"][:, :4]), ""),
        (lambda a: a.update(pos_embed=a["pos_embed"][:, :3]), "3 positions do not fit a square image"),
    ],
)
def test_missing_unexpected_and_unusable_keys_stop_the_import(timm_file, change, message):
    path = timm_file(change, classes=3)
    if not message:  # positions of the patches alone are allowed
        reader.read(path)
        return
    with pytest.raises(UserError) as error:
        reader.read(path, "init_from")
    assert message in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("dist_token",), "it is a distilled ViT"),
        (("rope.periods",), "it is a ViT with rotary positions"),
        (("blocks.0.attn.rel_pos_bias.relative_position_bias_table",), "it is a ViT with relative positions"),
        (("attn_pool.q.weight",), "it is a ViT with attention pooling"),
        (("blocks.0.attn.q_norm.weight",), "it is a ViT that normalizes queries and keys"),
    ],
)
def test_a_refusal_names_the_network_and_mentions_leave(timm_file, keys, message):
    path = timm_file(lambda a: a.update(dict.fromkeys(keys, np.zeros((1, 16), np.float32))))
    with pytest.raises(UserError) as error:
        reader.read(path)
    assert message in str(error.value) and f"mae-jax convert import {path} OUT --leave REGEX" in str(error.value)
