"""Networks that mae_jax does not compute are named, and plain ViTs are not."""

import pytest

from mae_jax.runtime.errors import UserError
from mae_jax.weights import refusals


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("dist_token", "a distilled ViT (DeiT)"),
        ("rope_embed.periods", "a ViT with rotary positions"),
        ("blocks.0.attn.relative_position_bias_table", "a ViT with relative positions"),
        ("blocks.0.attn.q_norm.weight", "a ViT that normalizes queries and keys"),
        ("layers.0.blocks.1.attn.qkv.weight", "a Swin transformer"),
        ("layer1.0.conv2.weight", "a ResNet"),
        ("base.q.lora_A.weight", "a network with LoRA adapters; merge them into the weights first"),
    ],
)
def test_other_networks_are_known_by_their_keys(key, words):
    assert refusals.of_keys(["cls_token", key]) == words


def test_a_plain_vit_is_not_refused():
    assert refusals.of_keys(["cls_token", "pos_embed", "blocks.0.attn.qkv.weight", "norm.weight"]) == ""
    assert refusals.of_config({"model_type": "vit"}) == refusals.of_config({}) == ""
    assert refusals.of_config({"architecture": "vit_base_patch16_224"}) == ""
    about = {"architecture": "vit_base_patch16_224", "model_args": {"img_size": [224, 224], "global_pool": "avg"}}
    refusals.activation_of(about, gated=False, where="init: x")
    refusals.activation_of({"model_args": {"act_layer": "torch.nn.SiLU"}}, gated=True, where="init: x")


@pytest.mark.parametrize(
    ("about", "gated", "message"),
    [
        ({"model_type": "swinv2"}, False, "init: x is a Swin transformer: its model_type is 'swinv2'; use weights of"),
        ({"model_type": "other"}, False, "is another network: its model_type is 'other'"),
        ({"architecture": "eva02_base"}, False, "is a ViT with rotary positions: timm's eva02_base"),
        ({"model_args": {"qk_norm": True}}, False, "model_args.qk_norm of config.json is True, which mae_jax does not"),
        ({"model_args": {"strange": 1}}, False, "model_args.strange of config.json is 1"),
        ({"model_args": {"depth": [1]}}, False, "model_args.depth of config.json is [1]"),
        ({"hidden_act": "relu"}, False, "hidden_act is 'relu'; it can be 'gelu' or 'quick_gelu'"),
        ({"hidden_act": "silu", "model_type": "dinov2"}, True, "hidden_act is 'silu'; it can be 'gelu'"),
        ({"hidden_act": "gelu", "model_type": "dinov3_vit"}, True, "hidden_act is 'gelu'; it can be 'silu' or 'swish'"),
        ({"model_args": {"act_layer": "gelu"}}, True, "model_args.act_layer is 'gelu'; it can be 'silu' or 'swish'"),
    ],
)
def test_what_a_config_says_is_refused(about, gated, message):
    with pytest.raises(UserError) as error:
        refusals.activation_of(about, gated, "init: x")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("about", "gated", "expected"),
    [
        ({}, False, "gelu"),
        ({"hidden_act": "quick_gelu", "model_type": "clip_vision_model"}, False, "quick_gelu"),
        ({"architecture": "vit_base_patch16_clip_224"}, False, "gelu"),
        ({"architecture": "vit_base_patch16_clip_quickgelu_224"}, False, "quick_gelu"),
        ({"model_args": {"act_layer": "quick_gelu"}}, False, "quick_gelu"),
        ({"hidden_act": "silu", "model_type": "dinov3_vit"}, True, "silu"),
    ],
)
def test_the_activation_is_stated_or_that_of_the_family(about, gated, expected):
    assert refusals.activation_of(about, gated, "init: x") == expected
