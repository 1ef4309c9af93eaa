"""DINOv3's ViTs (Siméoni et al. 2025) in the layouts of transformers, timm and facebookresearch.

They are ViTs with registers, layer scale and rotary positions (`models.rotary`). No array states the positions, except
for the periods in facebookresearch's files.
"""

import re
from typing import Any

import numpy as np

from mae_jax.models import rotary
from mae_jax.runtime.errors import UserError

PERIODS = "rope_embed.periods"
_TIMM = re.compile(r"vit_\w*dinov3.*")
# Patterns that rename the keys of transformers' DINOv3 to those of its DINOv2, and the others' to timm's ViT.
_PATTERNS = [
    (r"^(?:dinov3_vit\.)?embeddings\.", "vit.embeddings."),
    (r"^vit\.embeddings\.patch_embeddings\.(weight|bias)$", r"vit.embeddings.patch_embeddings.projection.\1"),
    (r"^(?:dinov3_vit\.)?(?:model\.)?layer\.(\d+)\.", r"vit.encoder.layer.\1."),
    (r"^(vit\.encoder\.layer\.\d+\.)mlp\.up_proj\.", r"\1mlp.fc1."),
    (r"^(vit\.encoder\.layer\.\d+\.)mlp\.down_proj\.", r"\1mlp.fc2."),
    (r"^storage_tokens$", "reg_token"),
    (r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma"),
]


def is_dinov3(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> bool:
    """Whether a file, with the config.json `about` next to it, is a DINOv3."""
    return (
        about.get("model_type") == "dinov3_vit"
        or bool(_TIMM.fullmatch(str(about.get("architecture", ""))))
        or PERIODS in arrays
    )


def canonical(key: str, transformers: bool) -> str:
    """Renames a key, without its prefix, to that of transformers' DINOv2 or timm's ViT."""
    for pattern, name in _PATTERNS:
        key = re.sub(pattern, name, key)
    return re.sub(r"^norm\.", "vit.layernorm.", key) if transformers else key


def joined(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with one bias for queries, keys and values, 0 for the keys, and without the periods."""
    arrays = {key: array for key, array in arrays.items() if key != PERIODS}
    for key in [key for key in arrays if key.endswith(".attn.q_bias")]:  # timm's
        value = key.replace(".q_bias", ".v_bias")
        if value in arrays and arrays[key].ndim and arrays[key].shape == arrays[value].shape:
            query = arrays.pop(key)
            arrays[key.replace(".q_bias", ".qkv.bias")] = np.concatenate(
                [query, np.zeros_like(query), arrays.pop(value)]
            )
    for key in [key for key in arrays if key.endswith(".attn.qkv.bias_mask")]:  # facebookresearch's: 1, and 0 for keys
        mask, bias = arrays.pop(key), key.removesuffix("_mask")
        if bias in arrays and arrays[bias].shape == mask.shape:
            arrays[bias] = np.where(mask == 0, 0, arrays[bias] * mask)
    return arrays


def heads_of(arrays: dict[str, np.ndarray]) -> int:
    """The number of attention heads that the periods show; 0 without periods. There are four features for each."""
    periods, token = arrays.get(PERIODS), arrays.get("cls_token")
    if periods is None or not periods.size or token is None or not token.ndim:
        return 0
    return token.shape[-1] // (4 * periods.size)


def check_periods(about: dict[str, Any], arrays: dict[str, np.ndarray], where: str) -> list[str]:
    """Notes on the periods of rotary positions. Raises UserError if they are not DINOv3's.

    `about` is the content of config.json, and `where` starts the message.
    """
    base = about.get("rope_theta", rotary.BASE)
    if base != rotary.BASE:
        raise UserError(f"{where}: rope_theta of config.json is {base!r:.100}; only {rotary.BASE:g} is computed")
    periods = arrays.get(PERIODS)
    if periods is None:
        return []
    expected = rotary.BASE ** (np.arange(periods.size) / periods.size)
    if periods.ndim != 1 or not np.allclose(periods, expected, rtol=5e-3):  # bfloat16 rounds by 0.4 %
        raise UserError(
            f"{where}: {PERIODS} are not those of DINOv3, {rotary.BASE:g}^(i/n); other ones are not computed"
        )
    exact = np.allclose(periods, expected, rtol=1e-5)
    return [] if exact else [f"{PERIODS} are rounded, as in bfloat16; positions are computed from the exact ones"]
