"""Takes the parameters of a network from the arrays of a weight file. Every key is accounted for."""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np

from mae_jax import models
from mae_jax.models import Params
from mae_jax.models.params import map_paths
from mae_jax.models.vit import ViTConfig
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import some
from mae_jax.weights import names, refusals
from mae_jax.weights.layout import Layout

# Keys that the forward pass of an encoder or classifier does not use.
_UNUSED: dict[str, tuple[str, ...]] = {
    "timm": ("mask_token", "decoder_pos_embed"),
    "resnet": (),
    "own": ("batch_norm/mean", "batch_norm/variance"),
    "hf": (
        "vit.embeddings.mask_token",
        "vit.pooler.dense.weight",
        "vit.pooler.dense.bias",
        "decoder.decoder_pos_embed",
    ),
}
_WITHOUT_NOTE = ("pos_embed", "num_batches_tracked")


@dataclasses.dataclass
class _Misfits:
    """Keys that stop the import, by what is wrong with them."""

    missing: list[str] = dataclasses.field(default_factory=list)
    unexpected: list[str] = dataclasses.field(default_factory=list)
    unusable: list[str] = dataclasses.field(default_factory=list)


def take(layout: Layout, shape: ViTConfig, kind: str) -> tuple[Params, list[str]]:
    """Takes every parameter of `shape` from the arrays. Returns them and notes.

    Raises UserError that lists all misfits.
    """
    like = jax.eval_shape(partial(models.init, kind, shape), jax.random.key(0))
    if kind == "vit" and not shape.n_classes:
        like.pop("head")
    arrays, notes = _with_biases(layout, shape, kind)
    misfits, used = _Misfits(), set()

    def of(ours: str, leaf: jax.ShapeDtypeStruct) -> Any:
        keys = names.keys_of(ours, layout.family)
        shapes = names.shape_theirs(ours, leaf.shape, layout.family, shape.patch_size)
        if ours == "encoder/pos_embed" and keys[0] in arrays:
            shapes = [(1, arrays[keys[0]].shape[-2], shape.width)]  # may also have rows for class token and registers
        used.update(keys)
        misfits.missing += [key for key in keys if key not in arrays]
        if not all(key in arrays for key in keys):
            return None
        parts = [arrays[key] for key in keys]
        for key, array, expected in zip(keys, parts, shapes, strict=True):
            fault = _fault(array, expected)
            if not fault and ours.endswith("/variance") and np.any(array < 0):
                fault = "has negative variances"
            if fault:
                misfits.unusable.append(f"{key} {fault}")
                return None
        return names.to_ours(ours, [array.astype(np.float32) for array in parts], layout.family)

    params = map_paths(of, like)
    known = {*_UNUSED[layout.family], *(key for key in arrays if key.endswith("num_batches_tracked"))}
    misfits.unexpected = sorted(set(arrays) - used - known)
    _refuse(misfits, layout)
    unused = [key for key in sorted(set(arrays) & known - used) if not key.endswith(_WITHOUT_NOTE)]
    return params, [*notes, *(f"{key} is not used" for key in unused)]


def _with_biases(layout: Layout, shape: ViTConfig, kind: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays, with zeros for biases that the network does without; and notes.

    BEiT's and DINOv3's keys have none; adding a constant to each row before the softmax would change nothing. CLIP's
    patches have none.
    """
    arrays, notes = dict(layout.arrays), []
    if layout.is_resnet:
        return arrays, notes
    paths = [f"encoder/block_{i:02d}/attn/qkv/bias" for i in range(shape.depth)]
    biases = [key for path in paths for key in names.keys_of(path, layout.family)]
    if kind == "vit" and not any(key in arrays for key in biases):
        notes.append("queries, keys and values have no bias in the file; their biases are set to 0")
        size = 3 * shape.width // max(1, len(biases) // max(1, len(paths)))
        arrays |= {key: np.zeros(size, np.float32) for key in biases}
    elif layout.family == "hf" and not any(key in arrays for key in biases[1::3]):
        pairs = zip(biases[::3], biases[1::3], strict=True)
        arrays |= {key: np.zeros_like(arrays[query]) for query, key in pairs if query in arrays}
    (patch_bias,) = names.keys_of("encoder/patch_embed/proj/bias", layout.family)
    if shape.pre_norm and patch_bias not in arrays:
        notes.append("the patch embedding has no bias in the file; its bias is set to 0")
        arrays[patch_bias] = np.zeros(shape.width, np.float32)
    return arrays, notes


def _fault(array: np.ndarray, expected: tuple[int, ...]) -> str:
    if array.shape != expected:
        return f"{array.shape} instead of {expected}"
    if not np.issubdtype(array.dtype, np.floating):
        return f"is {array.dtype} instead of a floating-point type"
    return "" if np.isfinite(array).all() else "is not finite"


def _refuse(misfits: _Misfits, layout: Layout) -> None:
    problems = [
        f"{len(keys)} {what} ({some(sorted(keys))})" for what, keys in dataclasses.asdict(misfits).items() if keys
    ]
    if not problems:
        return
    words, path = "" if layout.is_resnet else refusals.of_keys(layout.arrays), layout.config.path
    what = "ResNet-18" if layout.is_resnet else "ViT"
    only_unexpected = not misfits.missing and not misfits.unusable
    leave = f"; mae-jax convert import {path} OUT --leave REGEX leaves keys out" if only_unexpected else ""
    raise UserError(
        f"{layout.config.field}: the keys of {path} are not those of a plain {what}"
        f"{f' (it is {words})' if words else ''}: {'; '.join(problems)}{leave}"
    )
