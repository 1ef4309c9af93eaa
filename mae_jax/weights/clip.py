"""Vision towers of CLIP (Radford et al. 2021) in the layouts of transformers and open_clip, such as PLIP.

They are ViTs with a norm before the first block and patches without a bias; many have the quick GELU. timm's have the
names of timm's other ViTs.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.runtime.errors import UserError
from mae_jax.weights.arrays import read_config

_EPSILON = 1e-5
# Patterns that rename the keys of transformers' CLIP to those of its ViT, and open_clip's to timm's.
_TRANSFORMERS = [
    (r"^embeddings\.class_embedding$", "vit.embeddings.cls_token"),
    (r"^embeddings\.patch_embedding\.", "vit.embeddings.patch_embeddings.projection."),
    (r"^embeddings\.position_embedding\.weight$", "vit.embeddings.position_embeddings"),
    (r"^pre_layrnorm\.", "vit.layernorm_pre."),
    (r"^post_layernorm\.", "vit.layernorm."),
    (r"^encoder\.layers\.", "vit.encoder.layer."),
    (r"\.self_attn\.out_proj\.", ".attention.o_proj."),
    (r"\.self_attn\.", ".attention."),
    (r"\.layer_norm1\.", ".layernorm_before."),
    (r"\.layer_norm2\.", ".layernorm_after."),
]
_OPEN_CLIP = [
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_1\.", ".norm1."),
    (r"\.ln_2\.", ".norm2."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
]


def is_tower(keys: Iterable[str]) -> bool:
    """Whether keys, without their prefix, are those of a vision tower of transformers' CLIP or of open_clip."""
    return not {"embeddings.class_embedding", "class_embedding"}.isdisjoint(keys)


def canonical(key: str) -> str:
    """Renames a key, without its prefix, to that of transformers' ViT or timm's."""
    for pattern, name in _TRANSFORMERS + _OPEN_CLIP:
        key = re.sub(pattern, name, key)
    return key


def shaped(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The renamed arrays with the axes that a ViT's token and positions have, and without constants."""
    arrays = {key: array for key, array in arrays.items() if not key.endswith("embeddings.position_ids")}
    for key in ("cls_token", "vit.embeddings.cls_token", "pos_embed", "vit.embeddings.position_embeddings"):
        if key in arrays and arrays[key].ndim in (1, 2):
            arrays[key] = arrays[key].reshape((1,) * (3 - arrays[key].ndim) + arrays[key].shape)
    return arrays


def config_of(about: dict[str, Any], path: Path, field: str) -> dict[str, Any]:
    """What config.json (`about`) or open_clip_config.json next to `path` says, in the names of transformers' ViT.

    The config.json of another model is returned as it is. Raises UserError if no file states the activation, which no
    array shows.
    """
    if kind := about.get("model_type"):
        vision = about.get("vision_config", {} if kind == "clip" else about)
        if kind not in ("clip", "clip_vision_model"):
            return about
        if not isinstance(vision, dict):
            raise UserError(
                f"{field}: the config.json of {path}: vision_config is {vision!r:.100}; it should be an object"
            )
        return {"hidden_act": "quick_gelu", "layer_norm_eps": _EPSILON} | vision | {"model_type": "clip_vision_model"}
    given = read_config(path, field, "open_clip_config.json")
    model = given.get("model_cfg")
    if not isinstance(model, dict) or not isinstance(model.get("vision_cfg"), dict):
        raise UserError(
            f"{field}: {path} is a vision tower of CLIP, and no file states whether its activation is GELU or quick "
            "GELU; put open_clip_config.json or config.json of the same model next to it"
        )
    preprocess, vision = given.get("preprocess_cfg"), model["vision_cfg"]
    named = {name: preprocess[name] for name in ("mean", "std") if isinstance(preprocess, dict) and name in preprocess}
    width, head = vision.get("width"), vision.get("head_width", 64)
    if type(width) is int and type(head) is int and head > 0:
        named["num_attention_heads"] = width // head
    return named | {"hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu", "layer_norm_eps": _EPSILON}
