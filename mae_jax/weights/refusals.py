"""Recognizes networks that mae_jax does not compute, from config.json or from the keys, and names them."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from mae_jax.runtime.errors import UserError

# Patterns of keys, and what a network with them is.
_BY_KEYS = (
    (r"(^|\.)(dist_token|head_dist|distillation_token|distillation_classifier)\b", "a distilled ViT (DeiT)"),
    (r"rope|inv_freq|freqs_cis|(^|\.)periods$|rotary", "a ViT with rotary positions"),
    (r"relative_position|rel_pos_bias|rel_pos_h", "a ViT with relative positions"),
    (r"(^|\.)embeddings\.patch_embeddings\.weight$", "a DINOv3 without its config.json, which has to lie next to it"),
    (r"attn_?pool", "a ViT with attention pooling"),
    (r"\.(q_norm|k_norm|query_norm|key_norm)\.", "a ViT that normalizes queries and keys"),
    (r"\.mlp\.(norm|ffn_ln)\.", "a ViT with a norm inside the MLP"),
    (r"(lora_[AB]|\.lora_)", "a network with LoRA adapters; merge them into the weights first"),
    (r"(^|\.)layers\.\d+\.(blocks|downsample)\.", "a Swin transformer"),
    (r"(^|\.)layer[1-4]\.\d+\.conv\d", "a ResNet"),
    (r"(^|\.)(stages|downsample_layers)\.\d+\.", "a ConvNeXt or another convolutional network"),
    (r"patch_embed\.proj\.\d|patch_embed\.(backbone|conv)", "a ViT with a convolutional stem"),
)  # fmt: skip
_MODEL_TYPES = {"vit", "vit_mae", "vit_msn", "dinov2", "dinov2_with_registers", "beit", "hibou"}
_MODEL_TYPES |= {"dinov3_vit", "clip_vision_model", "clip"}
_OTHER_TYPES = {
    "deit": "a distilled ViT (DeiT)",
    "dinov3_convnext": "a ConvNeXt (DINOv3)",
    "siglip": "a SigLIP with attention pooling",
    "siglip_vision_model": "a SigLIP with attention pooling",
    "swin": "a Swin transformer",
    "swinv2": "a Swin transformer",
    "convnext": "a ConvNeXt",
    "resnet": "a ResNet",
    "data2vec-vision": "a ViT with relative positions (data2vec)",
    "eva": "a ViT with rotary positions (EVA)",
    "ijepa": "a ViT without a class token (I-JEPA)",
}
# Names of timm whose networks have a plain ViT's keys, or nearly so, and compute something else.
_OTHER_TIMM = (
    (r"distilled", "a distilled ViT (DeiT)"),
    (r"rope|eva", "a ViT with rotary positions"),
    (r"siglip|so\d+m", "a ViT with attention pooling"),
    (r"relpos|^beit|xpos", "a ViT with relative positions"),
    (r"_sam_|samvit|^swin|^convnext|^resnet", "another network"),
)


def _of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _anything(_: Any) -> bool:
    return True


# Arguments of timm's VisionTransformer, and which of their values a plain ViT computes. Others are refused.
_ACTIVATIONS = _of(None, "", "gelu", "GELU", "torch.nn.GELU", "silu", "SiLU", "torch.nn.SiLU", "swish")
_QUICK = ("quick_gelu", "quickgelu", "QuickGELU", "timm.layers.QuickGELU")
_TIMM_ARGUMENTS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio"), _anything),
    **dict.fromkeys(("num_classes", "init_values", "reg_tokens", "no_embed_class", "qkv_bias", "fc_norm"), _anything),
    **dict.fromkeys(("dynamic_img_size", "dynamic_img_pad", "strict_img_size", "weight_init", "fix_init"), _anything),
    **dict.fromkeys(("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "drop_path_rate"), _anything),
    **dict.fromkeys(("attn_drop_rate", "pretrained", "features_only", "pretrained_strict"), _anything),
    "global_pool": _of("token", "avg", "", None),
    "in_chans": _of(3),
    "class_token": _of(True),
    "pos_embed": _of("learn", True),
    "pre_norm": _anything,
    "final_norm": _of(True),
    "qk_norm": _of(False),
    "scale_attn_norm": _of(False),
    "scale_mlp_norm": _of(False),
    "proj_bias": _of(True),
    "pool_include_prefix": _of(False),
    "act_layer": lambda value: _ACTIVATIONS(value) or value in _QUICK,
    "norm_layer": _of(None, "", "layernorm", "LayerNorm"),
    "embed_norm_layer": _of(None, ""),
    "mlp_layer": _of(None, "", "Mlp", "SwiGLUPacked", "timm.layers.SwiGLUPacked", "mlp"),
    "block_fn": _of(None, "", "Block"),
    "attn_layer": _of(None, "", "attn", "Attention"),
}  # fmt: skip


def of_keys(keys: Iterable[str]) -> str:
    """What a network with these keys is, in words; "" if none of the known patterns matches."""
    keys = list(keys)
    return next((words for pattern, words in _BY_KEYS if any(re.search(pattern, key) for key in keys)), "")


def of_config(about: dict[str, Any]) -> str:
    """What the network of a config.json is, in words, if it is one that mae_jax does not compute; otherwise ""."""
    kind, name = str(about.get("model_type") or ""), str(about.get("architecture") or "")
    if kind and kind not in _MODEL_TYPES:
        return f"{_OTHER_TYPES.get(kind, 'another network')}: its model_type is {kind[:100]!r}"
    words = next((words for pattern, words in _OTHER_TIMM if re.search(pattern, name)), "")
    return f"{words}: timm's {name[:200]}" if words else ""


def activation_of(about: dict[str, Any], gated: bool, where: str) -> str:
    """The activation of the MLP: gelu or quick_gelu, or silu if it is `gated`.

    `about` is the content of config.json, and `where` starts the message. Raises UserError for networks that have the
    keys of a plain ViT but compute something else.
    """
    if words := of_config(about):
        raise UserError(f"{where} is {words}; use weights of a plain ViT, such as timm's vit_base_patch16_224")
    arguments = about.get("model_args")
    arguments = arguments if isinstance(arguments, dict) else {}
    for name, value in arguments.items():
        known = _TIMM_ARGUMENTS.get(name)
        if known is None or (isinstance(value, dict | list) and name != "img_size") or not known(value):
            raise UserError(
                f"{where}: model_args.{name} of config.json is {value!r:.100}, which mae_jax does not compute; use "
                f"weights of a plain ViT, or remove it from config.json if it does not change the features"
            )
    quick = "quickgelu" in str(about.get("architecture", ""))  # timm's name
    usual = "silu" if gated else "quick_gelu" if quick else "gelu"
    activation = about.get("hidden_act") or arguments.get("act_layer") or usual
    silu = gated and ("hidden_act" not in about or about.get("model_type") == "dinov3_vit")
    expected = ("silu", "swish") if silu else ("gelu",) if gated else ("gelu", "quick_gelu")
    named = "quick_gelu" if activation in _QUICK else str(activation).lower().rpartition(".")[2]
    if named not in expected:
        what = "hidden_act" if "hidden_act" in about else "model_args.act_layer"
        raise UserError(f"{where}: {what} is {activation!r}; it can be {' or '.join(map(repr, expected))}")
    return named
