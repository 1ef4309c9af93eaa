"""Infers the shape of a network from its arrays and, where arrays do not show it, from the config.json next to them."""

import re

import numpy as np

from mae_jax.config.run_fields import FROZEN_BATCH, ROTARY
from mae_jax.models import vit
from mae_jax.models.vit import ViTConfig
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count
from mae_jax.weights import names, refusals, resnet18
from mae_jax.weights.layout import Layout

MOST_BLOCKS = 100


def shape_of(layout: Layout) -> tuple[ViTConfig, str, bool]:
    """The network's shape, its kind (mae or vit), and whether the number of heads is known.

    Raises UserError if arrays are missing or contradict each other, or if the network is not a plain ViT.
    """
    if layout.is_resnet:
        return _resnet(layout), "vit", True
    patch_size, width = _patches(layout)
    hidden, gated = _mlp(layout)
    activation = refusals.activation_of(layout.config.fields, gated, layout.where)
    pre_norm = layout.find("encoder/norm_pre/scale") is not None
    registers = layout.find("encoder/reg_token")
    registers = registers.shape[1] if registers is not None and registers.ndim == 3 else 0
    image_size = _image_size(layout, patch_size, registers)
    heads, known = _heads(layout, width)
    decoder_width, decoder_heads = _decoder(layout)
    kind = "mae" if decoder_width else "vit"
    shape = ViTConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        depth=_blocks(layout, "encoder"),
        heads=heads,
        mlp_ratio=hidden / width,
        mlp="swiglu" if gated else "quick_gelu" if layout.saved.get("mlp") == "quick_gelu" else activation,
        pre_norm=pre_norm,
        decoder_width=decoder_width,
        decoder_depth=_blocks(layout, "decoder") if decoder_width else 0,
        decoder_heads=decoder_heads,
        pool=_pool(layout, width),
        n_classes=0 if kind == "mae" or layout.find("head/bias") is None else len(layout.need("head/bias", 1)),
        positions=_positions(layout),
        norm_eps=_epsilon(layout, pre_norm),
        registers=registers,
        layer_scale=0.0 if layout.find("encoder/block_00/ls1/gamma") is None else 1e-5,
    )
    return shape, kind, known


def _resnet(layout: Layout) -> ViTConfig:
    resnet18.refuse_keys(layout.arrays, layout.where)
    resnet18.refuse_config(layout.config.fields, layout.where)
    # In other code's files, norms without statistics may have any number of groups, so they are missing ones.
    without = layout.family == "own" and layout.find("encoder/stem_norm/mean") is None
    norm = "group" if without else FROZEN_BATCH
    return resnet18.shape_of(0 if layout.find("head/bias") is None else len(layout.need("head/bias", 1)), norm)


def _patches(layout: Layout) -> tuple[int, int]:
    """Width of a patch in pixels, and features per token."""
    kernel = layout.need("encoder/patch_embed/proj/kernel", 2 if layout.family == "own" else 4)
    if layout.family == "own":
        return round((kernel.shape[0] / 3) ** 0.5), kernel.shape[1]
    if kernel.shape[1:3] != (3, kernel.shape[3]):
        raise UserError(
            f"{layout.where}: patches of shape {kernel.shape[1:]} are not supported; use weights for square RGB patches"
        )
    return kernel.shape[3], kernel.shape[0]


def _mlp(layout: Layout) -> tuple[int, bool]:
    """Hidden features of the MLP, and whether it is a SwiGLU, whose first layer computes twice as many."""
    inner, hidden = (layout.need(f"encoder/block_00/mlp/{name}/kernel", 2).shape for name in ("fc1", "fc2"))
    inner, hidden = (inner[1], hidden[0]) if layout.family == "own" else (inner[0], hidden[1])
    return hidden, inner == 2 * hidden


def _positions(layout: Layout) -> str:
    if layout.rotary:
        return ROTARY
    return "fixed" if layout.find("encoder/pos_embed") is None else "learned"


def _epsilon(layout: Layout, pre_norm: bool) -> float:
    """The epsilon of the norms: stated, or that of the code of CLIP and DINOv3, or of other ViTs."""
    stated = layout.saved.epsilon("norm_eps") or layout.config.epsilon("layer_norm_eps")
    return stated or (1e-5 if layout.rotary or pre_norm else ViTConfig.norm_eps)


def _image_size(layout: Layout, patch_size: int, registers: int) -> int:
    """Width of an image in pixels, from the number of positions; where none are learned, the stated one or 224."""
    positions = layout.find("encoder/pos_embed")
    if layout.rotary or (positions is None and layout.family == "own"):
        return layout.saved.count("image_size") or max(1, 224 // patch_size) * patch_size
    if positions is None:
        key = names.keys_of("encoder/pos_embed", layout.family)[0]
        eva = any(key.endswith(".gamma_1") for key in layout.arrays)  # timm's DINOv3 has no positions
        advice = "put the config.json of this model next to it" if eva else "use weights of a plain ViT"
        raise UserError(f"{layout.where}: {key} is missing; {advice}")
    positions = layout.need("encoder/pos_embed", 3)
    counts = [positions.shape[-2] - extra for extra in (0, 1, 1 + registers)]
    patches = next((n for n in counts if round(max(n, 0) ** 0.5) ** 2 == n > 0), 0)
    if not patches:
        raise UserError(
            f"{layout.where}: {count(positions.shape[-2], 'position does', 'positions do')} not fit a square image; "
            "use weights for square images"
        )
    return round(patches**0.5) * patch_size


def _heads(layout: Layout, width: int) -> tuple[int, bool]:
    """The number of attention heads, which no array shows, and whether a file or the user states it."""
    config = layout.config
    stated = layout.saved.count("heads") or config.count("num_attention_heads")
    stated = stated or config.section("model_args").count("num_heads")
    size = re.match(r"(?:vit|deit3?)_(\w+?)_", str(config.get("architecture", "")))
    if not stated and size and vit.SIZES.get(size[1], (0,))[0] == width:
        stated = vit.SIZES[size[1]][2]
    usual = {1280: 16, 1408: 16, 1664: 16}.get(width, max(1, width // 64))  # ViT-H and CLIP's ViT-g and ViT-G
    if layout.rotary:
        usual = {4096: 32}.get(width, max(1, width // 64))
    if width == 384 and ("base_encoder" in layout.prefix or "momentum_encoder" in layout.prefix):
        usual = 12  # MoCo v3's ViT-S
    heads = int(stated or layout.heads or usual)
    if heads < 1 or width % heads or width % 4 or (layout.rotary and width // heads % 4):
        raise UserError(
            f"{layout.where}: {count(heads, 'head does', 'heads do')} not fit {width} features (which must be a "
            "multiple of 4 and of the number of heads); set --heads"
        )
    return heads, bool(stated or layout.heads)


def _decoder(layout: Layout) -> tuple[int, int]:
    """Features and heads of the decoder; 0 without one."""
    if layout.find("decoder/embed/kernel") is None:
        return 0, 0
    width = layout.need("decoder/embed/kernel", 2).shape[1 if layout.family == "own" else 0]
    heads = layout.saved.count("decoder_heads") or layout.config.count("decoder_num_attention_heads")
    heads = heads or max(1, width // 32)
    if width % heads:
        raise UserError(f"{layout.where}: {heads} heads do not divide the decoder's {width} features")
    return width, heads


def _blocks(layout: Layout, part: str) -> int:
    for depth in range(MOST_BLOCKS + 1):
        if layout.find(f"{part}/block_{depth:02d}/norm1/scale") is None:
            return depth
    raise UserError(f"{layout.where} has more than {MOST_BLOCKS} blocks; use weights of a plain ViT")


def _pool(layout: Layout, width: int) -> str:
    """What the head reads: a mean of the patch tokens has its own norm, and both are twice as wide."""
    if layout.find("fc_norm/scale") is not None:
        return "mean"
    head: np.ndarray | None = layout.find("head/kernel")
    inputs = 0 if head is None or head.ndim != 2 else head.shape[0 if layout.family == "own" else 1]
    return "both" if inputs == 2 * width else "cls"
