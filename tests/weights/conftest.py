"""Random weight files in the formats of other code, written without that code."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from mae_jax.models.patches import position_embedding

WIDTH, PATCH, GRID, HIDDEN = 16, 8, 2, 64


def timm_arrays(rng, *, depth=2, decoder=0, classes=0, pool="cls", learned=False, registers=0, layer_scale=False):
    """Arrays with timm's names, or facebookresearch/mae's if there are `decoder` blocks."""
    arrays = {}

    def put(key, *shape):
        arrays[key] = rng.normal(0, 0.3, shape).astype(np.float32)

    def block(prefix, width):
        for norm in ("norm1", "norm2"):
            put(f"{prefix}.{norm}.weight", width)
            put(f"{prefix}.{norm}.bias", width)
        for name, n_in, n_out in (
            ("attn.qkv", width, 3 * width), ("attn.proj", width, width),
            ("mlp.fc1", width, 4 * width), ("mlp.fc2", 4 * width, width),
        ):  # fmt: skip
            put(f"{prefix}.{name}.weight", n_out, n_in)
            put(f"{prefix}.{name}.bias", n_out)
        if layer_scale:
            put(f"{prefix}.ls1.gamma", width)
            put(f"{prefix}.ls2.gamma", width)

    put("cls_token", 1, 1, WIDTH)
    put("patch_embed.proj.weight", WIDTH, 3, PATCH, PATCH)
    put("patch_embed.proj.bias", WIDTH)
    put("pos_embed", 1, GRID**2 + 1, WIDTH)
    if not learned:
        arrays["pos_embed"] = np.pad(position_embedding(GRID, WIDTH), ((1, 0), (0, 0)))[None]
    if registers:
        put("reg_token", 1, registers, WIDTH)
        put("pos_embed", 1, GRID**2, WIDTH)  # timm's register models have none for the tokens
    for i in range(depth):
        block(f"blocks.{i}", WIDTH)
    norm = "fc_norm" if pool == "mean" else "norm"
    put(f"{norm}.weight", WIDTH)
    put(f"{norm}.bias", WIDTH)
    if classes:
        put("head.weight", classes, WIDTH)
        put("head.bias", classes)
    if decoder:
        put("decoder_embed.weight", 8, WIDTH)
        put("decoder_embed.bias", 8)
        put("mask_token", 1, 1, 8)
        arrays["decoder_pos_embed"] = np.pad(position_embedding(GRID, 8), ((1, 0), (0, 0)))[None]
        for i in range(decoder):
            block(f"decoder_blocks.{i}", 8)
        put("decoder_norm.weight", 8)
        put("decoder_norm.bias", 8)
        put("decoder_pred.weight", 3 * PATCH**2, 8)
        put("decoder_pred.bias", 3 * PATCH**2)
    return arrays


@pytest.fixture
def timm_file(tmp_path):
    """Writes such a file after calling `change(arrays)`, with timm's config.json next to it."""

    def write(change=None, about=None, **kinds):
        arrays = timm_arrays(np.random.default_rng(0), **kinds)
        if change is not None:
            change(arrays)
        folder = tmp_path / "timm"
        folder.mkdir(exist_ok=True)
        path = folder / "model.safetensors"
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)
        if about is None:
            scale = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
            about = {"architecture": "vit_tiny_patch8", "model_args": {"num_heads": 2}, "pretrained_cfg": scale}
        (folder / "config.json").write_text(json.dumps(about))
        return path

    return write
