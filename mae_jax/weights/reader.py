"""Reads networks from weight files of other code: their parameters, their shape, and what the files say about them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.models import Params, vit
from mae_jax.models.vit import ViTConfig
from mae_jax.runtime.places import local
from mae_jax.runtime.text import count, some
from mae_jax.weights import config_file, parameters, positions, shapes
from mae_jax.weights.encoders import CLIP, HALF, IMAGENET
from mae_jax.weights.layout import Layout, read_layout


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
        if s.family != "vit":
            return {"family": s.family, "norm": s.norm}
        size = next((k for k, v in vit.SIZES.items() if v == (s.width, s.depth, s.heads)), "custom")
        custom = size == "custom"  # otherwise the size implies width, depth and heads, and these are 0
        fields: dict[str, Any] = {"size": size, "patch_size": s.patch_size, "mlp_ratio": s.mlp_ratio, "mlp": s.mlp}
        fields |= {k: getattr(s, k) if custom else 0 for k in ("width", "depth", "heads")}
        if self.kind == "mae":
            fields |= {k: getattr(s, k) for k in ("decoder_width", "decoder_depth", "decoder_heads")}
        fields |= {"pool": "mean"} if s.pool == "mean" else {}  # such an encoder has no norm for the class token
        return fields | {k: getattr(s, k) for k in ("positions", "pre_norm", "norm_eps", "registers", "layer_scale")}

    def fields(self) -> dict[str, Any]:
        """The fields of a run's config that follow from these weights, by their dotted names."""
        model = {f"model.{name}": value for name, value in self.model_fields().items()}
        if self.shape.family == "vit" and self.shape.pool == "mean" and "norm" not in self.params["encoder"]:
            model["model.pool"] = "mean"  # as in a fine-tuned MAE, whose only last norm follows the mean
        return model | {"data.mean": tuple(self.mean), "data.std": tuple(self.std)}


def read(path: str | Path, field: str = "weights", heads: int = 0, leave: str = "") -> Weights:
    """Reads a file (.safetensors, .pth, .npz) or folder with a plain ViT, masked autoencoder or ResNet-18.

    `heads` is the number of attention heads if no config.json states it; 0 assumes the usual number for the width. Keys
    that match the regular expression `leave` are ignored. Raises UserError that names `field` if a key is missing,
    unexpected or of the wrong shape, or if the network is another one.
    """
    path = local(path, field)
    layout = read_layout(path, field, heads, leave)
    shape, kind, heads_known = shapes.shape_of(layout)
    params, notes = parameters.take(layout, shape, kind)
    notes = [*layout.notes, *notes]
    if layout.ignored:
        keys = count(len(layout.ignored), "key is", "keys are")
        notes.insert(0, f"{keys} ignored, as requested ({some(sorted(layout.ignored))})")
    if kind == "vit" and shape.family == "vit" and shape.pool == "mean":
        notes.append("its last norm follows the mean of the patch tokens (fc_norm), so model.pool is mean")
    tolerance = _tolerance(layout)
    if kind == "mae" and not positions.plain_decoder(layout.find("decoder/pos_embed"), shape, tolerance):
        notes.append("the decoder is ignored, because its positions are not the fixed sine-cosine ones")
        kind, params = "vit", {"encoder": params["encoder"]}
        shape = dataclasses.replace(shape, decoder_width=0, decoder_depth=0, decoder_heads=0)
    notes += _assumptions(layout, shape, kind, heads_known)
    shape, params, position_notes = positions.without_fixed(shape, params, tolerance)
    usual = HALF if layout.augreg else CLIP if layout.tower else IMAGENET
    scale, scale_notes = config_file.scale(layout.config, usual)
    return Weights(
        params, shape, kind, str(path), *scale, config_file.class_names(layout.config, shape.n_classes), heads_known,
        (*notes, *scale_notes, *position_notes), positions.way_of(layout),
    )  # fmt: skip


def _tolerance(layout: Layout) -> float:
    """How far positions may be from the fixed ones that they are: half precision rounds them."""
    floating = {a.dtype.itemsize for a in layout.arrays.values() if np.issubdtype(a.dtype, np.floating)}
    return 5e-3 if floating - {4, 8} else 1e-5


def _assumptions(layout: Layout, shape: ViTConfig, kind: str, heads_known: bool) -> list[str]:
    """Notes on what neither the arrays nor the files next to them state."""
    notes = []
    if not heads_known:
        heads = count(shape.heads, "attention head is", "attention heads are")
        notes.append(f"{heads} assumed, the usual number for {shape.width} features")
    stated = layout.saved.count("decoder_heads") or layout.config.count("decoder_num_attention_heads")
    if kind == "mae" and not stated:
        heads = count(shape.decoder_heads, "attention head is", "attention heads are")
        notes.append(f"{heads} assumed in the decoder, the usual number for {shape.decoder_width} features")
    if layout.family == "hf" and not layout.config.epsilon("layer_norm_eps"):
        notes.append(f"no config.json states the epsilon of the norms; {shape.norm_eps:g} is assumed")
    return notes
