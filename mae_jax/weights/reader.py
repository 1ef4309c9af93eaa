"""Converts the arrays of a weight file to parameters and infers the network's shape. Every key is accounted for."""

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mae_jax import models
from mae_jax.models import Params, vit
from mae_jax.models.params import map_paths
from mae_jax.models.patches import position_embedding
from mae_jax.models.vit import ViTConfig
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.places import local
from mae_jax.runtime.text import count, some
from mae_jax.weights import names, positions, prefixes, refusals
from mae_jax.weights.arrays import read_arrays, read_config
from mae_jax.weights.encoders import HALF, IMAGENET
from mae_jax.weights.prefixes import matching

MOST_BLOCKS = 100
# Keys that the forward pass of an encoder or classifier does not use.
_UNUSED: dict[str, tuple[str, ...]] = {
    "timm": ("mask_token", "decoder_pos_embed"),
    "own": ("batch_norm/mean", "batch_norm/variance"),
}
_HEADS = {  # beginnings of the keys of heads
    "timm": ("head", "dino_head", "ibot_head", "pre_logits", "predictor", "projector", "fc"),
    "hf": ("classifier",),
}
_UNUSED["hf"] = ("vit.embeddings.mask_token", "vit.pooler.dense.weight", "vit.pooler.dense.bias")
_UNUSED["hf"] += ("decoder.decoder_pos_embed",)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters of a network, for `models.apply(kind, shape, params, ...)`, and what is known about it."""

    params: Params
    shape: ViTConfig
    kind: str  # mae (with decoder) | vit
    origin: str
    mean: tuple[float, ...] = IMAGENET[0]  # of the expected images, in 0..1
    std: tuple[float, ...] = IMAGENET[1]
    classes: tuple[str, ...] = ()  # class names, if the file contains them
    heads_known: bool = True  # False: no file states the heads, so `shape.heads` is the usual number for the width
    notes: tuple[str, ...] = ()
    interpolation: str = positions.ANTIALIASED  # how positions are interpolated to another grid; see `positions`

    def model_fields(self) -> dict[str, Any]:
        """The fields `model.*` of a config whose network fits these weights."""
        s = self.shape
        size = next((k for k, v in vit.SIZES.items() if v == (s.width, s.depth, s.heads)), "custom")
        custom = size == "custom"  # otherwise the size implies width, depth and heads, and these are 0
        fields: dict[str, Any] = {"size": size, "patch_size": s.patch_size, "mlp_ratio": s.mlp_ratio, "mlp": s.mlp}
        fields |= {k: getattr(s, k) if custom else 0 for k in ("width", "depth", "heads")}
        if self.kind == "mae":
            fields |= {k: getattr(s, k) for k in ("decoder_width", "decoder_depth", "decoder_heads")}
        fields |= {"pool": "mean"} if s.pool == "mean" else {}  # such an encoder has no norm for the class token
        return fields | {k: getattr(s, k) for k in ("positions", "norm_eps", "registers", "layer_scale")}

    def fields(self) -> dict[str, Any]:
        """The fields of a run's config that follow from these weights, by their dotted names."""
        model = {f"model.{name}": value for name, value in self.model_fields().items()}
        if self.shape.pool == "mean" and "norm" not in self.params["encoder"]:
            model["model.pool"] = "mean"  # as in a fine-tuned MAE, whose only last norm follows the mean
        return model | {"data.mean": tuple(self.mean), "data.std": tuple(self.std)}


def read(path: str | Path, field: str = "weights", heads: int = 0, leave: str = "") -> Weights:
    """Reads a file (.safetensors, .pth, .npz) or folder with the weights of a plain ViT or masked autoencoder.

    `heads` is the number of attention heads if no config.json states it; 0 assumes the usual number for the width. Keys
    that match the regular expression `leave` are ignored. Raises UserError that names `field` if a key is missing,
    unexpected or of the wrong shape, or if the network is not a plain ViT.
    """
    path = local(path, field)
    where = f"{field}: {path}"
    arrays, about = read_arrays(path, field)
    ignored = matching(leave, arrays)
    augreg = names.is_augreg(arrays)
    if augreg:
        arrays, stated_heads = names.of_augreg({key: value for key, value in arrays.items() if key not in ignored})
        heads = heads or stated_heads
    arrays = prefixes.unwrapped({key: value for key, value in arrays.items() if key not in ignored}, where)
    arrays, prefix, prefix_notes = prefixes.select(arrays, where)
    family = names.family_of(list(arrays))
    if family is None:
        words = refusals.of_config(about) or refusals.of_keys(arrays)
        raise UserError(
            f"{where} is {words or 'not a plain ViT'}: it has no patch embedding under the names of Hugging Face, timm "
            f"or facebookresearch; its keys are {some(sorted(arrays))}"
        )
    arrays = prefixes.renamed(names.packed(arrays), partial(names.canonical, family=family), where)
    ignored += matching(leave, arrays)
    if leave and not ignored:
        raise UserError(f"--leave {leave!r} matches no key of {path}; its keys are {some(sorted(arrays))}")
    arrays = {key: value for key, value in arrays.items() if key not in ignored}
    if family == "hf":
        _simplify(arrays)
    prefix_notes += _drop_other_heads(arrays, family)
    about = _ConfigFile(about, path, field)
    saved = about.section("mae_jax") if family == "own" else _ConfigFile({}, path, field)
    moco = "base_encoder" in prefix or "momentum_encoder" in prefix
    shape, kind, known = _shape(arrays, family, about, saved, heads, path, field, moco)
    params, notes = _take(arrays, family, shape, kind, path, field)
    notes = [*prefix_notes, *notes]
    if kind == "vit" and shape.pool == "mean":
        notes.append("its last norm follows the mean of the patch tokens (fc_norm), so model.pool is mean")
    if ignored:
        notes.insert(0, f"{count(len(ignored), 'key is', 'keys are')} ignored, as requested ({some(sorted(ignored))})")
    half_sizes = {a.dtype.itemsize for a in arrays.values() if np.issubdtype(a.dtype, np.floating)} - {4, 8}
    tolerance = 5e-3 if half_sizes else 1e-5
    if kind == "mae" and not _plain_decoder(
        arrays.get(names.keys_of("decoder/pos_embed", family)[0]), shape, tolerance
    ):
        notes.append("the decoder is ignored, because its positions are not the fixed sine-cosine ones")
        kind, params = "vit", {"encoder": params["encoder"]}
        shape = dataclasses.replace(shape, decoder_width=0, decoder_depth=0, decoder_heads=0)
    if not known:
        heads_in_words = count(shape.heads, "attention head is", "attention heads are")
        notes.append(f"{heads_in_words} assumed, the usual number for {shape.width} features")
    if kind == "mae" and not (saved.count("decoder_heads") or about.count("decoder_num_attention_heads")):
        heads_in_words = count(shape.decoder_heads, "attention head is", "attention heads are")
        notes.append(f"{heads_in_words} assumed in the decoder, the usual number for {shape.decoder_width} features")
    if family == "hf" and not about.epsilon("layer_norm_eps"):
        notes.append(f"no config.json states the epsilon of the norms; {shape.norm_eps:g} is assumed")
    interpolation = _interpolation(arrays, family, about, saved, prefix)
    shape, params, more = _fixed_positions(shape, params, tolerance)
    mean, std, assumed = _scale(path, about, field, HALF if augreg else IMAGENET)
    notes += assumed
    labels = about.section("id2label").fields
    listed = saved.get("classes") or about.get("label_names")  # the latter in timm's folders
    classes = tuple(map(str, listed)) if isinstance(listed, list) else ()
    classes = classes or tuple(str(labels[k]) for k in sorted(labels, key=_number))
    known_names = classes if len(classes) == shape.n_classes else ()
    return Weights(params, shape, kind, str(path), mean, std, known_names, known, (*notes, *more), interpolation)


def _simplify(arrays: dict[str, np.ndarray]) -> None:
    """Removes from a DINOv2's `arrays`, in place, what does not change its outputs.

    Layer scales of 1 are removed, and the weights of a head for the mean of the patch tokens if all are 0.
    """
    scales = [key for key in arrays if key.endswith(".lambda1")]
    if all(np.array_equal(arrays[key], np.ones_like(arrays[key])) for key in scales):
        for key in scales:
            arrays.pop(key)
    (kernel,) = names.keys_of("head/kernel", "hf")
    norm = arrays.get(names.keys_of("encoder/norm/scale", "hf")[0])
    if norm is None or norm.ndim != 1 or kernel not in arrays or arrays[kernel].shape[1:] != (2 * len(norm),):
        return
    if not np.any(arrays[kernel][:, len(norm) :]):
        arrays[kernel] = arrays[kernel][:, : len(norm)]


def _drop_other_heads(arrays: dict[str, np.ndarray], family: str) -> list[str]:
    """Removes, in place, heads that are not one linear layer, such as projections. Returns a note on each.

    A head starts from random weights anyway, except where a file is used as the classifier that it is.
    """
    if family == "own":
        return []
    kernel, bias = (names.keys_of(f"head/{name}", family)[0] for name in ("kernel", "bias"))
    norm = next((arrays[key] for key in arrays if re.search(r"(^|\.)(norm1|layernorm_before)\.weight$", key)), None)
    width = norm.shape[0] if norm is not None and norm.ndim == 1 else 0
    fits = kernel in arrays and bias in arrays and arrays[kernel].ndim == 2
    fits = fits and arrays[kernel].shape in ((len(arrays[bias]), width), (len(arrays[bias]), 2 * width))
    notes = []
    for name in _HEADS[family]:
        keys = [key for key in arrays if key.startswith(f"{name}.")]
        if keys and not (fits and set(keys) == {kernel, bias}):
            for key in keys:
                arrays.pop(key)
            keys_in_words = count(len(keys), "key")
            notes.append(f"the head {name!r} ({keys_in_words}) is not a linear layer on the features; it is ignored")
    return notes


def _pool(fc_norm: np.ndarray | None, head: np.ndarray | None, width: int, family: str) -> str:
    """What the head reads: the mean of the patch tokens has a norm of its own, and both are twice as wide."""
    if fc_norm is not None:
        return "mean"
    inputs = 0 if head is None or head.ndim != 2 else head.shape[0 if family == "own" else 1]
    return "both" if inputs == 2 * width else "cls"


@dataclasses.dataclass(frozen=True)
class _ConfigFile:
    """Contents of an untrusted config.json. Each field is checked when it is read."""

    fields: dict[str, Any]
    path: Path
    field: str

    def get(self, name: str, default: Any = None) -> Any:
        return self.fields.get(name, default)

    def section(self, name: str) -> "_ConfigFile":
        """The object `name`; empty if it is missing."""
        return _ConfigFile(self._checked(name, lambda v: isinstance(v, dict), "an object") or {}, self.path, self.field)

    def count(self, name: str) -> int:
        """A positive integer; 0 if it is missing."""
        return self._checked(name, lambda v: type(v) is int and 0 < v < 2**31, "a whole number above 0") or 0

    def epsilon(self, name: str) -> float:
        """A number between 0 and 1; 0 if it is missing."""
        return float(self._checked(name, lambda v: _finite(v) and 0 < v < 1, "a number between 0 and 1") or 0)

    def _checked(self, name: str, fits: Callable[[Any], bool], words: str) -> Any:
        value = self.fields.get(name)
        if value is not None and not fits(value):
            shown = repr(value)[:100]
            raise UserError(f"{self.field}: the config.json of {self.path}: {name} is {shown}; it should be {words}")
        return value


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e30 < value < 1e30


def _number(text: str) -> tuple[int, str]:
    return (int(text), text) if str(text).isascii() and str(text).isdecimal() else (0, str(text))


def _shape(
    arrays: dict[str, np.ndarray],
    family: str,
    about: _ConfigFile,
    saved: _ConfigFile,
    heads: int,
    path: Path,
    field: str,
    moco: bool,
) -> tuple[ViTConfig, str, bool]:
    """The network's shape, its kind, and whether the number of heads is known. `moco`: the file is one of MoCo v3."""

    def find(ours: str) -> np.ndarray | None:
        return arrays.get(names.keys_of(ours, family)[0])

    def need(ours: str, axes: int) -> np.ndarray:
        array = find(ours)
        if array is None or array.ndim != axes or not array.size:
            fault = "is missing" if array is None else f"has shape {array.shape} instead of {axes} nonempty axes"
            raise UserError(f"{field}: {path}: {names.keys_of(ours, family)[0]} {fault}; use weights of a plain ViT")
        return array

    def blocks(part: str) -> int:
        depth = next((i for i in range(MOST_BLOCKS + 1) if find(f"{part}/block_{i:02d}/norm1/scale") is None), None)
        if depth is None:
            raise UserError(f"{field}: {path} has more than {MOST_BLOCKS} blocks; use weights of a plain ViT")
        return depth

    patch = need("encoder/patch_embed/proj/kernel", 2 if family == "own" else 4)
    if family == "own":
        patch_size, width = round((patch.shape[0] / 3) ** 0.5), patch.shape[1]
    else:
        patch_size, width = patch.shape[3], patch.shape[0]
        if patch.shape[1:3] != (3, patch_size):
            raise UserError(
                f"{field}: {path}: patches of shape {patch.shape[1:]} are not supported; use weights for square RGB "
                "patches"
            )
    inner, hidden = (need(f"encoder/block_00/mlp/{name}/kernel", 2).shape for name in ("fc1", "fc2"))
    inner, hidden = (inner[1], hidden[0]) if family == "own" else (inner[0], hidden[1])
    gated = inner == 2 * hidden
    refusals.refuse_config(about.fields, gated, f"{field}: {path}")
    registers = find("encoder/reg_token")
    registers = registers.shape[1] if registers is not None and registers.ndim == 3 else 0
    positions = find("encoder/pos_embed")
    if positions is None and family != "own":
        raise UserError(
            f"{field}: {path}: {names.keys_of('encoder/pos_embed', family)[0]} is missing; use weights of a plain ViT"
        )
    if positions is not None:
        positions = need("encoder/pos_embed", 3)
        counts = [positions.shape[-2] - extra for extra in (0, 1, 1 + registers)]
        patches = next((n for n in counts if round(max(n, 0) ** 0.5) ** 2 == n > 0), 0)
        if not patches:
            raise UserError(
                f"{field}: {path}: {count(positions.shape[-2], 'position does', 'positions do')} not fit a "
                "square image; use weights for square images"
            )
        image_size = round(patches**0.5) * patch_size
    else:
        image_size = saved.count("image_size") or max(1, 224 // patch_size) * patch_size
    stated = (
        saved.count("heads") or about.count("num_attention_heads") or about.section("model_args").count("num_heads")
    )
    usual = {1280: 16}.get(width, max(1, width // 64))
    if moco and width == 384:
        usual = 12  # MoCo v3's ViT-S
    size = re.match(r"(?:vit|deit3?)_(\w+?)_", str(about.get("architecture", "")))
    if not stated and size and vit.SIZES.get(size[1], (0,))[0] == width:
        stated = vit.SIZES[size[1]][2]
    n_heads = int(stated or heads or usual)
    if n_heads < 1 or width % n_heads or width % 4:
        raise UserError(
            f"{field}: {path}: {count(n_heads, 'head does', 'heads do')} not fit {width} features (which must "
            "be a multiple of 4 and of the number of heads); set --heads"
        )
    decoder = None if find("decoder/embed/kernel") is None else need("decoder/embed/kernel", 2)
    head = find("head/bias")
    decoder_width = 0
    if decoder is not None:
        decoder_width = decoder.shape[1] if family == "own" else decoder.shape[0]
    decoder_heads = saved.count("decoder_heads") or about.count("decoder_num_attention_heads")
    decoder_heads = decoder_heads or max(1, decoder_width // 32)
    if decoder is not None and decoder_width % decoder_heads:
        raise UserError(f"{field}: {path}: {decoder_heads} heads do not divide the decoder's {decoder_width} features")
    kind = "vit" if decoder is None else "mae"
    shape = ViTConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        depth=blocks("encoder"),
        heads=n_heads,
        mlp_ratio=hidden / width,
        mlp="swiglu" if gated else "gelu",
        decoder_width=decoder_width,
        decoder_depth=blocks("decoder") if decoder is not None else 0,
        decoder_heads=int(decoder_heads) if decoder is not None else 0,
        pool=_pool(find("fc_norm/scale"), find("head/kernel"), width, family),
        n_classes=0 if head is None or kind == "mae" else need("head/bias", 1).shape[0],
        positions="fixed" if positions is None else "learned",
        norm_eps=saved.epsilon("norm_eps") or about.epsilon("layer_norm_eps") or vit.ViTConfig.norm_eps,
        registers=registers,
        layer_scale=0.0 if find("encoder/block_00/ls1/gamma") is None else 1e-5,
    )
    return shape, kind, bool(stated or heads)


def _take(
    arrays: dict[str, np.ndarray], family: str, shape: ViTConfig, kind: str, path: Path, field: str
) -> tuple[Params, list[str]]:
    """Takes every parameter of `shape` from `arrays`. Returns them and notes. Raises UserError listing all misfits."""
    like = jax.eval_shape(partial(models.init, kind, shape), jax.random.key(0))
    if kind == "vit" and not shape.n_classes:
        like.pop("head")
    notes, missing, misshapen, used = [], [], [], set()
    prefixed = arrays.get(names.keys_of("encoder/pos_embed", family)[0])
    biases = [k for i in range(shape.depth) for k in names.keys_of(f"encoder/block_{i:02d}/attn/qkv/bias", family)]
    no_bias = kind == "vit" and not any(key in arrays for key in biases)
    # BEiT's keys have none; adding a constant to each row before the softmax would change nothing.
    no_key_bias = family == "hf" and not no_bias and not any(key in arrays for key in biases[1::3])
    if no_bias:
        notes.append("queries, keys and values have no bias in the file; their biases are set to 0")

    def take(ours: str, leaf: jax.ShapeDtypeStruct) -> Any:
        keys = names.keys_of(ours, family)
        shapes = names.shape_theirs(ours, leaf.shape, family, shape.patch_size)
        if no_bias and set(keys) <= set(biases):
            return np.zeros(leaf.shape, np.float32)
        if ours == "encoder/pos_embed" and prefixed is not None:
            shapes = [(1, prefixed.shape[-2], shape.width)]  # may also have rows for the class token and registers
        if no_key_bias and set(keys) <= set(biases) and keys[0] in arrays:
            arrays[keys[1]] = np.zeros_like(arrays[keys[0]])
        used.update(keys)
        absent = [key for key in keys if key not in arrays]
        missing.extend(absent)
        if absent:
            return None
        parts = [arrays[key] for key in keys]
        for key, array, expected in zip(keys, parts, shapes, strict=True):
            if array.shape != expected:
                misshapen.append(f"{key} {array.shape} instead of {expected}")
                return None
            if not np.issubdtype(array.dtype, np.floating):
                misshapen.append(f"{key} is {array.dtype} instead of a floating-point type")
                return None
            if not np.isfinite(array).all():
                misshapen.append(f"{key} is not finite")
                return None
        return names.to_ours(ours, [array.astype(np.float32) for array in parts], family)

    params = map_paths(take, like)
    unexpected = sorted(set(arrays) - used - set(_UNUSED[family]))
    problems = [
        f"{len(keys)} {what} ({some(sorted(keys))})"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("unusable", misshapen))
        if keys
    ]
    if problems:
        words = refusals.of_keys(arrays)
        leave = "" if missing or misshapen else f"; mae-jax convert import {path} OUT --leave REGEX leaves keys out"
        raise UserError(
            f"{field}: the keys of {path} are not those of a plain ViT{f' (it is {words})' if words else ''}: "
            f"{'; '.join(problems)}{leave}"
        )
    unused = [key for key in sorted(set(arrays) & set(_UNUSED[family]) - used) if not key.endswith("pos_embed")]
    return params, [*notes, *(f"{key} is not used" for key in unused)]


def _plain_decoder(positions: np.ndarray | None, shape: ViTConfig, tolerance: float) -> bool:
    """True if a decoder's positions are the fixed sine-cosine ones, the only ones supported."""
    if positions is None:
        return True
    expected = np.pad(position_embedding(shape.grid, shape.decoder_width), ((1, 0), (0, 0)))
    rows = positions.reshape(-1, positions.shape[-1])
    return rows.shape == expected.shape and bool(np.abs(rows - expected).max() < tolerance)


def _fixed_positions(shape: ViTConfig, params: Params, tolerance: float) -> tuple[ViTConfig, Params, list[str]]:
    """Adds the positions of class token and registers to these tokens, and drops fixed positions of patches."""
    encoder = dict(params["encoder"])
    positions = encoder.pop("pos_embed", None)
    if positions is None:
        return shape, params, []
    rows, notes = positions[0], []
    extra = len(rows) - shape.n_patches
    if extra:
        encoder["cls_token"] = encoder["cls_token"] + rows[:1]
        if extra > 1:
            encoder["reg_token"] = encoder["reg_token"] + rows[1:extra]
        if np.any(rows[:extra]):
            notes.append("the positions of the class token and registers are now part of these tokens")
    rows = rows[extra:]
    if np.abs(rows - position_embedding(shape.grid, shape.width)).max() < tolerance:
        return dataclasses.replace(shape, positions="fixed"), params | {"encoder": encoder}, notes
    return shape, params | {"encoder": encoder | {"pos_embed": rows[None]}}, notes


def _interpolation(
    arrays: dict[str, np.ndarray], family: str, about: _ConfigFile, saved: _ConfigFile, prefix: str
) -> str:
    """How the code that published the weights interpolates their positions; one of `positions.WAYS`."""
    stated = saved.get("interpolation")
    if stated in positions.WAYS:
        return str(stated)
    registers = names.keys_of("encoder/reg_token", family)[0] in arrays
    if family == "hf":
        return positions.ANTIALIASED if registers else positions.BICUBIC
    if family == "timm" and "architecture" not in about.fields:
        if names.keys_of("decoder/embed/kernel", family)[0] in arrays:
            return positions.BICUBIC  # facebookresearch/mae
        if "mask_token" in arrays or "teacher." in prefix:  # facebookresearch/dinov2, or dino
            return positions.ANTIALIASED if registers else positions.OFFSET
    return positions.ANTIALIASED


def _scale(
    path: Path, about: _ConfigFile, field: str, defaults: tuple[tuple[float, ...], tuple[float, ...]]
) -> tuple[tuple[float, ...], tuple[float, ...], list[str]]:
    """Mean and standard deviation of the images that the network expects, and notes on those that are assumed.

    They are `defaults` if no file states them. timm's older config.json has them at its top level.
    """
    preprocessor = read_config(path, field, "preprocessor_config.json")
    timm, saved = about.section("pretrained_cfg"), about.section("mae_jax")
    values, assumed = [], []
    for ours, theirs, default in zip(("mean", "std"), ("image_mean", "image_std"), defaults, strict=True):
        value = saved.get(ours) or preprocessor.get(theirs) or timm.get(ours) or about.get(ours)
        if not value:
            value = default
            assumed.append(ours)
        ok = isinstance(value, list | tuple) and len(value) == 3
        if not ok or not all(_finite(v) and (ours == "mean" or v > 0) for v in value):
            raise UserError(
                f"{field}: in the files next to {path}, {theirs} is {value!r}; it should be three "
                f"numbers{'' if ours == 'mean' else ' above 0'}. Correct it, or remove it and set data.{ours}"
            )
        values.append(tuple(float(v) for v in value))
    whose = "ImageNet's" if defaults == IMAGENET else "0.5, as in Google's code,"
    words = " and ".join({"mean": "mean", "std": "standard deviation"}[name] for name in assumed)
    notes = [f"no file states the images' {words}; {whose} is assumed, or set data.mean and data.std"] if words else []
    return values[0], values[1], notes
