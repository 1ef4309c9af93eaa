"""DINOv3's ViTs against transformers and timm. `tests/golden/make.py towers` made the reference."""

import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from mae_jax.runtime.errors import UserError
from mae_jax.weights import dinov3, reader
from mae_jax.weights.writer import write
from tests.weights.towers import EXPECTED, drawn, tokens

TIMM = {"dinov3_timm": "vit_small_patch16_dinov3", "dinov3_timm_qkvb": "vit_small_plus_patch16_dinov3_qkvb"}
_FACEBOOK = (
    (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.mask_token", "mask_token"),
    (r"^embeddings\.register_tokens", "storage_tokens"),
    (r"^embeddings\.patch_embeddings", "patch_embed.proj"),
    (r"^model\.layer\.", "blocks."),
    (r"attention\.o_proj", "attn.proj"),
    (r"layer_scale([12])\.lambda1", r"ls\1.gamma"),
    (r"mlp\.up_proj", "mlp.fc1"),
    (r"mlp\.down_proj", "mlp.fc2"),
)


def of_facebook():
    """The arrays of transformers' network as facebookresearch saves them: biases of the keys are masked."""
    arrays, renamed = drawn("dinov3_hf"), {"rope_embed.periods": (100 ** (np.arange(3) / 3)).astype(np.float32)}
    for i in range(2):
        above = f"model.layer.{i}.attention"
        bias = [arrays.pop(f"{above}.{part}_proj.bias", np.full(24, 0.7, np.float32)) for part in "qkv"]
        parts = [arrays.pop(f"{above}.{part}_proj.weight") for part in "qkv"]
        new = f"blocks.{i}.attn.qkv"
        mask = np.repeat(np.float32([1, 0, 1]), 24)
        renamed |= {
            f"{new}.weight": np.concatenate(parts),
            f"{new}.bias": np.concatenate(bias),
            f"{new}.bias_mask": mask,
        }
    for key, value in arrays.items():
        for pattern, new in _FACEBOOK:
            key = re.sub(pattern, new, key)
        renamed[key] = value
    return renamed


def folder_of(name, folder):
    if name == "facebook":
        save_file(of_facebook(), folder / "model.safetensors")
        return folder
    if name in TIMM:
        arrays, about = drawn(name), {"architecture": TIMM[name], "model_args": {"num_heads": 2}}
    else:  # transformers saves without "model."
        arrays = {key.removeprefix("model."): value for key, value in drawn(name).items()}
        about = {"model_type": "dinov3_vit", "num_attention_heads": 2, "layer_norm_eps": 1e-5, "rope_theta": 100.0}
        about |= {"hidden_act": "silu" if name.endswith("gated") else "gelu"}
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize(
    ("name", "mlp"),
    [
        ("dinov3_hf", "gelu"),
        ("dinov3_hf_gated", "swiglu"),
        ("dinov3_timm", "gelu"),
        ("dinov3_timm_qkvb", "swiglu"),
        ("facebook", "gelu"),
    ],
)
def test_tokens_are_those_of_transformers_and_timm_at_every_size(name, mlp, tmp_path):
    weights = reader.read(folder_of(name, tmp_path))
    shape = weights.shape
    assert (shape.positions, shape.registers, shape.heads, shape.norm_eps) == ("rotary", 4, 2, 1e-5)
    assert (shape.mlp, weights.heads_known, bool(shape.layer_scale)) == (mlp, True, True)
    for grid in (4, 3, 6):
        expected = EXPECTED[f"{'dinov3_hf' if name == 'facebook' else name}/{grid}"]
        assert np.abs(tokens(weights, grid) - expected).max() < 1e-5 * np.abs(expected).max(), grid


def test_the_network_is_kept_by_mae_jax(tmp_path):
    weights = reader.read(folder_of("dinov3_hf", tmp_path))
    (tmp_path / "out").mkdir()
    write(weights, tmp_path / "out", "own")
    again = reader.read(tmp_path / "out")
    assert again.shape == weights.shape
    jax.tree.map(np.testing.assert_array_equal, again.params, weights.params)
    assert weights.fields()["model.positions"] == "rotary"


@pytest.mark.parametrize(
    ("about", "arrays", "message"),
    [
        ({"rope_theta": 10000.0}, {}, "rope_theta of config.json is 10000.0; only 100 is computed"),
        ({}, {dinov3.PERIODS: 1000 ** (np.arange(3) / 3)}, "rope_embed.periods are not those of DINOv3"),
        ({}, {dinov3.PERIODS: np.ones((2, 2))}, "rope_embed.periods are not those of DINOv3"),
    ],
)
def test_other_periods_are_refused(about, arrays, message):
    with pytest.raises(UserError, match=message):
        dinov3.check_periods(about, arrays, "init: x")


def test_without_its_config_or_periods_timms_file_is_refused(tmp_path):
    (folder_of("dinov3_timm", tmp_path) / "config.json").unlink()
    with pytest.raises(UserError, match="pos_embed is missing; put the config.json of this model next to it"):
        reader.read(tmp_path)
    (folder_of("dinov3_hf", tmp_path) / "config.json").unlink()
    with pytest.raises(UserError, match="is a DINOv3 without its config.json, which has to lie next to it"):
        reader.read(tmp_path)


def test_rounded_periods_and_the_teacher_in_a_container_are_noted(tmp_path):
    arrays = of_facebook()
    arrays[dinov3.PERIODS] = arrays[dinov3.PERIODS] * np.float32(1.003)
    both = {f"{name}.backbone.{key}": value for name in ("student", "teacher") for key, value in arrays.items()}
    save_file(both | {"teacher.dino_head.mlp.0.weight": np.ones((3, 24), np.float32)}, tmp_path / "model.safetensors")
    weights = reader.read(tmp_path)
    assert any("rope_embed.periods are rounded, as in bfloat16" in note for note in weights.notes)
    assert any("the one under 'teacher.backbone.' is used" in note for note in weights.notes)


def test_damaged_tokens_are_refused(tmp_path):
    save_file(of_facebook() | {"cls_token": np.ones((), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"cls_token \(\) instead of \(1, 1, 24\)"):
        reader.read(tmp_path)
