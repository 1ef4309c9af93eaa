"""Names and layouts of parameters in Hugging Face's, timm's and facebookresearch/mae's files, in both directions.

A path such as "encoder/block_03/attn/qkv/kernel" has one key in their files. Hugging Face's have three for the fused
projection: query, key and value. A PyTorch weight is (outputs, inputs), ours is the transpose. A convolution's weight
is (outputs, channels, rows, columns), ours is (rows x columns x channels, outputs).
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mae_jax.weights import resnet18

_TIMM = {
    "encoder/patch_embed/proj": "patch_embed.proj",
    "encoder/cls_token": "cls_token",
    "encoder/reg_token": "reg_token",
    "encoder/pos_embed": "pos_embed",
    "encoder/norm_pre": "norm_pre",
    "encoder/norm": "norm",
    "fc_norm": "fc_norm",
    "head": "head",
    "decoder/embed": "decoder_embed",
    "decoder/mask_token": "mask_token",
    "decoder/pos_embed": "decoder_pos_embed",
    "decoder/norm": "decoder_norm",
    "decoder/pred": "decoder_pred",
}
_HF = {
    "encoder/patch_embed/proj": "vit.embeddings.patch_embeddings.projection",
    "encoder/cls_token": "vit.embeddings.cls_token",
    "encoder/reg_token": "vit.embeddings.register_tokens",
    "encoder/pos_embed": "vit.embeddings.position_embeddings",
    "encoder/norm_pre": "vit.layernorm_pre",  # only CLIP has it
    "encoder/norm": "vit.layernorm",
    "fc_norm": "vit.pooler.layernorm",  # only BEiT has it
    "head": "classifier",
    "decoder/embed": "decoder.decoder_embed",
    "decoder/mask_token": "decoder.mask_token",
    "decoder/pos_embed": "decoder.decoder_pos_embed",
    "decoder/norm": "decoder.decoder_norm",
    "decoder/pred": "decoder.decoder_pred",
}
_HF_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn/proj": "attention.output.dense",
    "mlp/fc1": "intermediate.dense",
    "mlp/fc2": "output.dense",
    "ls1": "layer_scale1",
    "ls2": "layer_scale2",
}
# Patterns that rename keys of other versions and models to those above.
_ALIASES = [
    (r"^(vit|dinov2|dinov2_with_registers|beit)\.", "vit."),
    (r"^(embeddings|encoder\.layer|layers|layernorm|pooler)\.", r"vit.\1."),
    (r"^vit\.layers\.", "vit.encoder.layer."),
    (r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),
    (r"attention\.q_proj\.", "attention.attention.query."),
    (r"attention\.k_proj\.", "attention.attention.key."),
    (r"attention\.v_proj\.", "attention.attention.value."),
    (r"attention\.o_proj\.", "attention.output.dense."),
    (r"(layer|layers)\.(\d+)\.mlp\.fc1\.", r"\1.\2.intermediate.dense."),
    (r"(layer|layers)\.(\d+)\.mlp\.fc2\.", r"\1.\2.output.dense."),
    (r"(layer|layers)\.(\d+)\.mlp\.weights_in\.", r"\1.\2.intermediate.dense."),
    (r"(layer|layers)\.(\d+)\.mlp\.weights_out\.", r"\1.\2.output.dense."),
    (r"(layer|layers)\.(\d+)\.norm1\.", r"\1.\2.layernorm_before."),
    (r"(layer|layers)\.(\d+)\.norm2\.", r"\1.\2.layernorm_after."),
    (r"(layer|layers)\.(\d+)\.lambda_([12])$", r"\1.\2.layer_scale\3.lambda1"),
]
_TIMM_ALIASES = [
    (r"^register_tokens$", "reg_token"),  # facebookresearch/dinov2
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # its blocks in chunks; the second number counts all blocks
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
]
# A SwiGLU whose gates and values are layers of their own: theirs, and the packed layers that `canonical` renames.
_SEPARATE = [
    (("gate_proj", "up_proj", "down_proj"), ("weights_in", "weights_out")),  # transformers
    (("w1", "w2", "w3"), ("w12", "w3")),  # facebookresearch
    (("fc1_g", "fc1_x", "fc2"), ("fc1", "fc2")),  # timm
]
# Patterns that rename the keys of Hugging Face's ViT to those of its other models.
_DINOV2 = [
    (r"layer\.(\d+)\.intermediate\.dense\.", r"layer.\1.mlp.fc1."),
    (r"layer\.(\d+)\.output\.dense\.", r"layer.\1.mlp.fc2."),
    (r"layer\.(\d+)\.layernorm_before\.", r"layer.\1.norm1."),
    (r"layer\.(\d+)\.layernorm_after\.", r"layer.\1.norm2."),
]
_MODELS = {
    "vit": [],
    "vit_mae": [],
    "dinov2": [(r"^vit\.", "dinov2."), *_DINOV2],
    "dinov2_with_registers": [(r"^vit\.", "dinov2_with_registers."), *_DINOV2],
    "beit": [(r"^vit\.", "beit."), (r"layer\.(\d+)\.layer_scale([12])\.lambda1$", r"layer.\1.lambda_\2")],
}
_GATED = [(r"\.mlp\.fc1\.", ".mlp.weights_in."), (r"\.mlp\.fc2\.", ".mlp.weights_out.")]
# Patterns that rename the paths of Google's .npz files; a block's first norm is before the attention.
_AUGREG = [
    (r"^embedding/", "patch_embed.proj/"),
    (r"^cls$", "cls_token"),
    (r"^Transformer/posembed_input/pos_embedding$", "pos_embed"),
    (r"^Transformer/encoder_norm/", "norm/"),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
    (r"^(blocks\.\d+\.)LayerNorm_0/", r"\1norm1/"),
    (r"^(blocks\.\d+\.)LayerNorm_[12]/", r"\1norm2/"),
    (r"^(blocks\.\d+\.)MlpBlock_\d/Dense_0/", r"\1mlp.fc1/"),
    (r"^(blocks\.\d+\.)MlpBlock_\d/Dense_1/", r"\1mlp.fc2/"),
    (r"^(blocks\.\d+\.)MultiHeadDotProductAttention_\d/", r"\1attn/"),
]
_LEAVES = {"kernel": ".weight", "scale": ".weight", "bias": ".bias", "gamma": ".gamma"}


def family_of(keys: Sequence[str]) -> str | None:
    """The naming scheme of `keys`, or None if it is unknown.

    It is "hf", "timm" (also facebookresearch/mae), "resnet" (a ResNet, see `resnet18`) or "own" (mae_jax).
    """
    if "encoder/patch_embed/proj/kernel" in keys or resnet18.OURS in keys:
        return "own"
    if resnet18.FIRST in map(resnet18.canonical, keys):
        return "resnet"
    if "patch_embed.proj.weight" in keys:
        return "timm"
    if any(key.endswith("embeddings.patch_embeddings.projection.weight") for key in keys):
        return "hf"
    return None


def canonical(key: str, family: str) -> str:
    """Renames a key of another version of the same family to the name that `keys_of` returns."""
    if family == "resnet":
        return resnet18.canonical(key)
    for pattern, name in {"hf": _ALIASES, "timm": _TIMM_ALIASES}.get(family, []):
        key = re.sub(pattern, name, key)
    return key


def packed(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`arrays` with the gates and values of each SwiGLU joined into one layer."""
    arrays = dict(arrays)
    for (gate, value, last), (first, second) in _SEPARATE:
        for key in [key for key in arrays if f".mlp.{gate}." in key]:
            other = key.replace(f".mlp.{gate}.", f".mlp.{value}.")
            if other in arrays and arrays[key].shape == arrays[other].shape:
                joined = np.concatenate([arrays.pop(key), arrays.pop(other)])
                arrays[key.replace(f".mlp.{gate}.", f".mlp.{first}.")] = joined
                key = key.replace(f".mlp.{gate}.", f".mlp.{last}.")
                if last != second and key in arrays:
                    arrays[key.replace(f".mlp.{last}.", f".mlp.{second}.")] = arrays.pop(key)
    return arrays


def is_augreg(keys: Iterable[str]) -> bool:
    """True for the keys of a ViT in Google's .npz files (vision_transformer and big_vision)."""
    return any(key.endswith("Transformer/encoder_norm/scale") for key in keys)


def of_augreg(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """A ViT's arrays from Google's .npz file in timm's names and layouts, and its number of attention heads.

    Keys that have no counterpart are kept, so that they are reported.
    """
    (above,) = {key.removesuffix("Transformer/encoder_norm/scale") for key in arrays if is_augreg([key])}
    new, heads = {}, 0
    for key, array in arrays.items():
        path = key.removeprefix(above)
        for pattern, name in _AUGREG:
            path = re.sub(pattern, name, path)
        part = re.fullmatch(r"(.*\.attn)/(query|key|value|out)/(kernel|bias)", path)
        if part and array.ndim > 1 and array.size:
            if part[3] == "kernel":
                heads = array.shape[0 if part[2] == "out" else 1] if array.ndim == 3 else heads
                array = array.reshape(-1, array.shape[-1]) if part[2] == "out" else array.reshape(len(array), -1)
            else:
                array = array.reshape(-1)
        path = path.replace("/out/", ".proj/")
        stem, _, leaf = path.rpartition("/")
        if leaf == "kernel":
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        new[f"{stem}.{ {'kernel': 'weight', 'scale': 'weight'}.get(leaf, leaf) }" if stem else path] = array
    for key in [key for key in new if key.endswith((".attn/query.weight", ".attn/query.bias"))]:
        parts = [key.replace("/query.", f"/{name}.") for name in ("query", "key", "value")]
        shapes = {new[part].shape if part in new else () for part in parts}
        if len(shapes) == 1 and shapes != {()}:
            new[key.replace("/query.", ".qkv.")] = np.concatenate([new.pop(part) for part in parts])
    return new, heads


def of_model(key: str, model_type: str, gated: bool = False) -> str:
    """Renames a key of Hugging Face's ViT to that of its model `model_type`; the inverse of `canonical`.

    `gated` is for an MLP that is a SwiGLU.
    """
    for pattern, name in _MODELS[model_type] + (_GATED if gated else []):
        key = re.sub(pattern, name, key)
    return key


def keys_of(path: str, family: str) -> tuple[str, ...]:
    """The keys of the parameter `path` in files of `family`: three for Hugging Face's fused projection, else one."""
    if family == "own":
        return (path,)
    if family == "resnet":
        return (resnet18.key_of(path),)
    stem, _, leaf = path.rpartition("/")
    if leaf not in _LEAVES:  # tokens and positions are single arrays
        stem, ending = path, ""
    else:
        ending = _LEAVES[leaf]
    part, _, inside = stem.partition("/")
    block = re.match(r"block_(\d+)/(.*)", inside)
    if block is None:
        return ((_TIMM if family == "timm" else _HF)[stem] + ending,)
    number, piece = int(block[1]), block[2]
    if family == "timm":
        blocks = "blocks" if part == "encoder" else "decoder_blocks"
        return (f"{blocks}.{number}.{piece.replace('/', '.')}{ending}",)
    layer = f"{'vit.encoder.layer' if part == 'encoder' else 'decoder.decoder_layers'}.{number}."
    if piece == "attn/qkv":
        return tuple(f"{layer}attention.attention.{name}{ending}" for name in ("query", "key", "value"))
    return (layer + _HF_BLOCK[piece] + (".lambda1" if leaf == "gamma" else ending),)


def to_ours(path: str, arrays: Sequence[np.ndarray], family: str) -> Float[np.ndarray, "..."]:
    """Converts arrays of `family`, in the order of `keys_of`, to our parameter `path`."""
    if family == "own":
        return arrays[0]
    array = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    if family == "resnet" and array.ndim == 4:
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    if path.endswith("patch_embed/proj/kernel"):
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0]))
    return np.ascontiguousarray(array.T) if path.endswith("/kernel") else array


def to_theirs(path: str, array: Any, family: str, patch_size: int) -> dict[str, Float[np.ndarray, "..."]]:
    """Converts our parameter `path` to float32 arrays of `family`, by key."""
    array = np.asarray(array, np.float32)
    if family == "own":
        return {path: array}
    keys = keys_of(path, family)
    if path.endswith("patch_embed/proj/kernel"):
        array = array.reshape(patch_size, patch_size, 3, -1).transpose(3, 2, 0, 1)
    elif path.endswith("/kernel"):
        array = array.T
    return {key: np.ascontiguousarray(part) for key, part in zip(keys, np.split(array, len(keys)), strict=True)}


def shape_theirs(path: str, shape: tuple[int, ...], family: str, patch_size: int) -> list[tuple[int, ...]]:
    """Shapes of the arrays of `family` for our parameter `path` of this `shape`, in the order of `keys_of`."""
    if family == "own":
        return [shape]
    if family == "resnet" and len(shape) == 4:
        return [(shape[3], shape[2], *shape[:2])]
    if path.endswith("patch_embed/proj/kernel"):
        return [(shape[1], 3, patch_size, patch_size)]
    if path.endswith("/kernel"):
        shape = shape[::-1]
    n = len(keys_of(path, family))
    return [(shape[0] // n, *shape[1:])] * n
