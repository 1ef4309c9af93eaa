"""Writes networks as folders that other code opens: Hugging Face's ViTs, timm's ViT, or mae_jax.

Each folder holds `model.safetensors` and `config.json`. Features that the other code lacks are refused.
"""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from mae_jax.config.run_fields import ROTARY
from mae_jax.models.layers import hidden_features
from mae_jax.models.params import map_paths
from mae_jax.models.patches import position_embedding
from mae_jax.models.vit import ViTConfig
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.weights import names
from mae_jax.weights.reader import Weights


def write(weights: Weights, folder: Path, form: str, training: dict[str, Any] | None = None) -> list[str]:
    """Writes `weights` into the existing `folder` in the format `form`. Returns notes for the user.

    `form` is hf, timm, or own for mae_jax's names. `training` holds `mask_ratio` and `norm_pix_loss` of an autoencoder,
    for Hugging Face's format. Raises UserError if the other code cannot compute the network, or a file cannot be
    written.
    """
    shape, notes = weights.shape, []
    if form != "own" and (shape.pre_norm or shape.mlp == "quick_gelu" or shape.positions == ROTARY):
        raise UserError(
            f"{weights.origin} has a norm before the first block, quick GELU or rotary positions, which are not "
            f"written for {'transformers' if form == 'hf' else 'timm'}; use --format mae_jax or onnx"
        )
    model_type = hugging_face_class(weights)[0] if form == "hf" else form
    if form == "hf":
        config = _hugging_face(weights, training or {})
        if weights.kind == "mae" and model_type != "vit_mae":
            notes.append("only the encoder is written, because transformers' ViTMAE has no registers or layer scale")
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
    encoder_only = model_type not in ("vit_mae", "own")

    def put(path: str, leaf: Any) -> None:
        if not (encoder_only and path.startswith("decoder/")) and path != "encoder/pos_embed":
            arrays.update(names.to_theirs(path, np.asarray(leaf), form, shape.patch_size))

    map_paths(put, weights.params)
    arrays.update(_positions(weights, form))
    if form == "hf":
        arrays = _of_model(arrays, weights, model_type)
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
    if form == "hf" and hugging_face_class(weights)[0] == "vit_mae":
        (key,) = names.keys_of("decoder/pos_embed", form)
        positions[key] = np.pad(position_embedding(shape.grid, shape.decoder_width), ((1, 0), (0, 0)))[None]
    return positions


def hugging_face_class(weights: Weights) -> tuple[str, str]:
    """The model type and class in transformers that compute this network.

    Only a BEiT has a norm after the mean of the patch tokens, and only a DINOv2 has registers. Raises UserError if no
    class computes it.
    """
    shape, classifier = weights.shape, weights.kind == "vit"
    if classifier and shape.pool == "mean":
        if shape.mlp == "swiglu":
            raise UserError(
                f"transformers has no ViT with SwiGLU and pool=mean, as {weights.origin} has; use --format timm or onnx"
            )
        if shape.registers:
            raise UserError(
                f"transformers has no ViT with registers and pool=mean, as {weights.origin} has; use --format timm or "
                "onnx"
            )
        return "beit", "BeitForImageClassification" if shape.n_classes else "BeitModel"
    head = "ForImageClassification" if classifier and shape.n_classes else "Model"
    if shape.registers or shape.layer_scale or shape.mlp == "swiglu" or (classifier and shape.pool == "both"):
        if not _dinov2_ratio(shape):
            raise UserError(
                f"transformers' DINOv2 takes a whole number for model.mlp_ratio, which is {shape.mlp_ratio:g} in "
                f"{weights.origin}; use --format timm or onnx"
            )
        return (
            ("dinov2_with_registers", f"Dinov2WithRegisters{head}") if shape.registers else ("dinov2", f"Dinov2{head}")
        )
    return ("vit", f"ViT{head}") if classifier else ("vit_mae", "ViTMAEForPreTraining")


def _dinov2_ratio(shape: ViTConfig) -> int:
    """The mlp_ratio with which transformers' DINOv2 has this network's MLP; 0 if there is none.

    Its SwiGLU has two thirds of the hidden features, rounded up to a multiple of 8.
    """
    hidden = hidden_features(shape.width, shape.mlp_ratio)
    for ratio in range(1, 65):
        theirs = ratio * shape.width
        if (theirs if shape.mlp == "gelu" else (int(theirs * 2 / 3) + 7) // 8 * 8) == hidden:
            return ratio
    return 0


def _of_model(arrays: dict[str, np.ndarray], weights: Weights, model_type: str) -> dict[str, np.ndarray]:
    """The arrays of a ViT as those of `model_type`, with parameters that only this model has."""
    if model_type == "beit":  # its keys have no bias, which would add a constant to each row before the softmax
        arrays = {key: array for key, array in arrays.items() if not key.endswith("attention.key.bias")}
    if model_type.startswith("dinov2"):
        width = weights.shape.width
        arrays["vit.embeddings.mask_token"] = np.zeros((1, width), np.float32)  # used only in pre-training
        (kernel,) = names.keys_of("head/kernel", "hf")
        if (
            kernel in arrays and weights.shape.pool != "both"
        ):  # it reads the class token and the mean of the patch tokens
            arrays[kernel] = np.pad(arrays[kernel], ((0, 0), (0, width)))
        if not weights.shape.layer_scale:
            for i in range(weights.shape.depth):
                for name in ("ls1", "ls2"):
                    (key,) = names.keys_of(f"encoder/block_{i:02d}/{name}/gamma", "hf")
                    arrays[key] = np.ones(width, np.float32)
    renamed = {names.of_model(key, model_type, weights.shape.mlp == "swiglu"): array for key, array in arrays.items()}
    if not model_type.startswith("vit") and "classifier.bias" not in arrays:  # a model without a head has no prefix
        renamed = {key.removeprefix(f"{model_type}."): array for key, array in renamed.items()}
    return renamed


def _hugging_face(weights: Weights, training: dict[str, Any]) -> dict[str, Any]:
    shape = weights.shape
    model_type, architecture = hugging_face_class(weights)
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "intermediate_size": hidden_features(shape.width, shape.mlp_ratio),
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
    if model_type == "vit_mae":
        decoder = {
            "decoder_hidden_size": shape.decoder_width,
            "decoder_num_hidden_layers": shape.decoder_depth,
            "decoder_num_attention_heads": shape.decoder_heads,
            "decoder_intermediate_size": hidden_features(shape.decoder_width, shape.mlp_ratio),
        }
        return config | decoder | training
    if model_type == "beit":
        config |= {"use_absolute_position_embeddings": True, "use_mean_pooling": True, "drop_path_rate": 0.0}
        config |= {"layer_scale_init_value": float(shape.layer_scale)}
    if model_type.startswith("dinov2"):
        config |= {"mlp_ratio": _dinov2_ratio(shape), "use_swiglu_ffn": shape.mlp == "swiglu"}
        config |= {"layerscale_value": shape.layer_scale or 1.0}
        config |= {"num_register_tokens": shape.registers} if shape.registers else {}
    if weights.kind == "mae" or not shape.n_classes:
        return config
    classes = weights.classes or tuple(f"LABEL_{i}" for i in range(shape.n_classes))
    labels: dict[str, Any] = {"id2label": {str(i): name for i, name in enumerate(classes)}}
    return config | labels | {"label2id": {name: i for i, name in enumerate(classes)}}


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
    if weights.kind == "vit" and shape.pool == "both":
        raise UserError(f"timm has no head for pool=both, as {weights.origin} has; use --format hf or onnx")
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
    gated = shape.mlp == "swiglu"
    if gated:  # timm's ratio counts gates and values; it rounds down, so half a feature is added
        arguments["mlp_ratio"] = (2 * hidden_features(shape.width, shape.mlp_ratio) + 0.5) / shape.width
        arguments["init_values"] = None
    if shape.registers:
        arguments |= {"reg_tokens": shape.registers, "no_embed_class": True}
    if shape.layer_scale:
        arguments["init_values"] = shape.layer_scale
    n_classes = shape.n_classes if weights.kind == "vit" else 0
    return {
        # A model known to timm, as a base; `model_args` override everything else that defines the network.
        "architecture": "vit_giant_patch14_dinov2" if gated else "vit_base_patch16_224",
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
    if shape.positions == "learned":
        about["interpolation"] = weights.interpolation
    if shape.positions == ROTARY:
        about["positions"] = shape.positions
    if shape.mlp == "quick_gelu":
        about["mlp"] = shape.mlp
    about |= {"mean": list(weights.mean), "std": list(weights.std), "classes": list(weights.classes)}
    return about | {"source": weights.origin, "notes": list(weights.notes)}
