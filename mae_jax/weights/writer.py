"""Writes networks as folders that other code opens: Hugging Face's ViTMAE and ViT, timm's ViT, or mae_jax.

Each folder holds `model.safetensors` and `config.json`. Features that the other code lacks are refused.
"""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from mae_jax.models.params import map_paths
from mae_jax.models.patches import position_embedding
from mae_jax.models.vit import ViTConfig
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.weights import names
from mae_jax.weights.reader import Weights


def write(weights: Weights, folder: Path, form: str, training: dict[str, Any] | None = None) -> list[str]:
    """Writes `weights` into the existing `folder` in the format `form` (one of FORMATS). Returns notes for the user.

    `training` holds `mask_ratio` and `norm_pix_loss` of an autoencoder, for Hugging Face's format. Raises UserError if
    the other code cannot compute the network, or a file cannot be written.
    """
    shape, notes = weights.shape, []
    if form == "hf":
        config = _hugging_face(weights, training or {})
        contents.write_json(folder / "preprocessor_config.json", _preprocessor(weights))
    elif form == "timm":
        config = _timm(weights)
        if not math.isclose(shape.norm_eps, 1e-6):
            notes.append(f"timm's norms use an epsilon of 1e-06, but this network's is {shape.norm_eps:g}")
        if weights.kind == "mae":
            notes.append("only the encoder is written, because timm has no decoder")
    else:
        config = {"mae_jax": _own(weights)}
    arrays: dict[str, np.ndarray] = {}
    timm = form == "timm"

    def put(path: str, leaf: Any) -> None:
        if not (timm and path.startswith("decoder/")) and path != "encoder/pos_embed":
            arrays.update(names.to_theirs(path, np.asarray(leaf), form, shape.patch_size))

    map_paths(put, weights.params)
    arrays.update(_positions(weights, form))
    file = folder / "model.safetensors"
    try:
        save_file(arrays, file, metadata={"format": "pt"} if form != "own" else None)
    except SafetensorError as error:  # also raised for errors of the disk
        free = shutil.disk_usage(folder).free
        raise UserError(f"{file} cannot be written: {error} ({free} bytes free on its disk); make room") from None
    contents.write_json(folder / "config.json", config)
    return notes


def _positions(weights: Weights, form: str) -> dict[str, np.ndarray]:
    """Position embeddings as the format stores them: with a row for the class token, except in mae_jax's own format."""
    shape = weights.shape
    learned = np.asarray(weights.params["encoder"].get("pos_embed", np.zeros((1, 0, shape.width))), np.float32)
    if form == "own":
        return {"encoder/pos_embed": learned} if shape.positions == "learned" else {}
    rows = learned if shape.positions == "learned" else position_embedding(shape.grid, shape.width)[None]
    first = np.zeros((1, 0 if form == "timm" and shape.registers else 1, shape.width), np.float32)
    (key,) = names.keys_of("encoder/pos_embed", form)
    positions = {key: np.concatenate([first, rows], 1)}
    if form == "hf" and weights.kind == "mae":
        (key,) = names.keys_of("decoder/pos_embed", form)
        positions[key] = np.pad(position_embedding(shape.grid, shape.decoder_width), ((1, 0), (0, 0)))[None]
    return positions


def _hugging_face(weights: Weights, training: dict[str, Any]) -> dict[str, Any]:
    shape = weights.shape
    lacking = [name for name, value in (("registers", shape.registers), ("layer_scale", shape.layer_scale)) if value]
    lacking += ["pool=mean"] if weights.kind == "vit" and shape.pool == "mean" else []
    if lacking:
        raise UserError(
            f"transformers' ViT has no {' and no '.join(lacking)}, which {weights.origin} has; use --format timm"
        )
    config = {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "intermediate_size": int(shape.width * shape.mlp_ratio),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": shape.norm_eps,
        "image_size": shape.image_size,
        "patch_size": shape.patch_size,
        "num_channels": 3,
        "qkv_bias": True,
        "torch_dtype": "float32",
    }
    if weights.kind == "mae":
        decoder = {
            "decoder_hidden_size": shape.decoder_width,
            "decoder_num_hidden_layers": shape.decoder_depth,
            "decoder_num_attention_heads": shape.decoder_heads,
            "decoder_intermediate_size": int(shape.decoder_width * shape.mlp_ratio),
        }
        return config | decoder | training
    architecture = "ViTForImageClassification" if shape.n_classes else "ViTModel"
    classes = weights.classes or tuple(f"LABEL_{i}" for i in range(shape.n_classes))
    labels: dict[str, Any] = {"id2label": {str(i): name for i, name in enumerate(classes)}}
    labels["label2id"] = {name: i for i, name in enumerate(classes)}
    return config | {"architectures": [architecture], "model_type": "vit"} | (labels if shape.n_classes else {})


def _preprocessor(weights: Weights) -> dict[str, Any]:
    """Evaluation's preprocessing: resize the shorter side to the network's size (bicubic), then crop the center."""
    side = weights.shape.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(weights.mean),
        "image_std": list(weights.std),
    }


def _timm(weights: Weights) -> dict[str, Any]:
    shape = weights.shape
    pool = "avg" if weights.kind == "vit" and shape.pool == "mean" else "token"
    arguments: dict[str, Any] = {
        "img_size": shape.image_size,
        "patch_size": shape.patch_size,
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.heads,
        "mlp_ratio": shape.mlp_ratio,
        "global_pool": pool,
    }
    if shape.registers:
        arguments |= {"reg_tokens": shape.registers, "no_embed_class": True}
    if shape.layer_scale:
        arguments["init_values"] = shape.layer_scale
    n_classes = shape.n_classes if weights.kind == "vit" else 0
    return {
        # A model known to timm, as a base; `model_args` override everything that defines the network.
        "architecture": "vit_base_patch16_224",
        "num_classes": n_classes,
        "num_features": shape.width,
        "global_pool": pool,
        "label_names": list(weights.classes) if n_classes else None,
        "model_args": arguments,
        "pretrained_cfg": {
            "num_classes": n_classes,
            "input_size": [3, shape.image_size, shape.image_size],
            "fixed_input_size": True,
            "pool_size": None,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(weights.mean),
            "std": list(weights.std),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def _own(weights: Weights) -> dict[str, Any]:
    """The settings that cannot be read from the arrays."""
    shape: ViTConfig = weights.shape
    about: dict[str, Any] = {key: getattr(shape, key) for key in ("image_size", "norm_eps")}
    if weights.heads_known:
        about["heads"] = shape.heads
    if weights.kind == "mae":
        about["decoder_heads"] = shape.decoder_heads
    about |= {"mean": list(weights.mean), "std": list(weights.std), "classes": list(weights.classes)}
    return about | {"source": weights.origin, "notes": list(weights.notes)}
