import dataclasses

import numpy as np
import pytest

from mae_jax.runtime.errors import UserError
from mae_jax.weights import reader, shapes
from mae_jax.weights.layout import read_layout


def test_what_arrays_do_not_show_is_read_from_the_config(timm_file):
    about = {"num_attention_heads": 4, "layer_norm_eps": 1e-3, "decoder_num_attention_heads": 2}
    shape, kind, known = shapes.shape_of(read_layout(timm_file(about=about, decoder=1), "init"))
    assert (shape.heads, shape.norm_eps, shape.decoder_heads, kind, known) == (4, 1e-3, 2, "mae", True)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ({"decoder": 1}, {"decoder_depth": 1, "decoder_width": 8, "n_classes": 0}),
        ({"pool": "mean", "classes": 3}, {"pool": "mean"}),
        ({"learned": True}, {"positions": "learned"}),
        ({"learned": True, "registers": 4, "layer_scale": True}, {"registers": 4, "layer_scale": 1e-5}),
    ],
)
def test_the_shape_follows_from_the_keys(timm_file, kinds, expected):
    weights = reader.read(timm_file(**kinds))
    assert {name: getattr(weights.shape, name) for name in expected} == expected
    assert weights.kind == ("mae" if "decoder" in kinds else "vit")


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
        ({"architecture": "vit_so400m_patch14_siglip_224"}, "a ViT with attention pooling: timm's vit_so400m"),
        ({"architecture": "deit_base_distilled_patch16_224"}, "a distilled ViT"),
        ({"model_type": "eva"}, "a ViT with rotary positions .*its model_type is 'eva'"),
        ({"model_type": "unheard"}, "another network: its model_type is 'unheard'"),
        ({"model_args": {"act_layer": "relu"}}, "model_args.act_layer of config.json is 'relu'"),
        ({"model_args": {"num_heads": 2, "rope_theta": 100}}, "model_args.rope_theta of config.json is 100"),
        ({"model_args": {"qk_norm": True}}, "model_args.qk_norm of config.json is True"),
        ({"model_args": {"num_heads": 3}}, "3 heads do not fit 16"),
    ],
)
def test_a_network_that_computes_something_else_is_refused(timm_file, about, message):
    with pytest.raises(UserError, match=message):
        reader.read(timm_file(about=about))


def test_an_unknown_number_of_heads_is_assumed_and_noted(timm_file):
    weights = reader.read(timm_file(about={}))
    assert weights.shape.heads == 1 and not weights.heads_known and "1 attention head is assumed" in weights.notes[0]
    assert reader.read(timm_file(about={}), heads=4).shape.heads == 4
    weights = dataclasses.replace(weights, shape=dataclasses.replace(weights.shape, width=384, heads=6, depth=12))
    assert {k: v for k, v in weights.model_fields().items() if k in ("size", "width")} == {"size": "small", "width": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.update({"patch_embed.proj.weight": np.zeros((16, 3, 0, 0), np.float32)}),
            "has shape (16, 3, 0, 0)",
        ),
        (lambda a: a.update({"blocks.0.mlp.fc1.weight": np.zeros((0, 16), np.float32)}), "has shape (0, 16)"),
        (lambda a: a.update({"pos_embed": np.zeros(5, np.float32)}), "pos_embed has shape (5,)"),
        (
            lambda a: a.update({"decoder_embed.weight": np.zeros(8, np.float32)}),
            "decoder_embed.weight has shape (8,)",
        ),
        (
            lambda a: a.update({f"blocks.{i}.norm1.weight": np.ones(1, np.float32) for i in range(2, 200)}),
            "more than 100 blocks",
        ),
    ],
)
def test_arrays_of_impossible_shapes_are_refused(timm_file, change, message):
    with pytest.raises(UserError) as error:
        reader.read(timm_file(change))
    assert message in str(error.value)
