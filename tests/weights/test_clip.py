"""Vision towers of CLIP against transformers and timm. `tests/golden/make.py towers` made the reference."""

import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from mae_jax.runtime.errors import UserError
from mae_jax.weights import clip, reader
from mae_jax.weights.encoders import CLIP
from mae_jax.weights.writer import write
from tests.weights.towers import EXPECTED, drawn, tokens

TIMM = {"clip_timm": "vit_base_patch16_clip_224", "clip_timm_quick": "vit_base_patch16_clip_quickgelu_224"}
_OPEN_CLIP = (
    (r"^embeddings\.class_embedding", "class_embedding"),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^embeddings\.patch_embedding", "conv1"),
    (r"^pre_layrnorm", "ln_pre"),
    (r"^post_layernorm", "ln_post"),
    (r"^encoder\.layers", "transformer.resblocks"),
    (r"layer_norm", "ln_"),
    (r"self_attn\.out_proj", "attn.out_proj"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
)


def of_open_clip(name):
    """The arrays of transformers' tower under open_clip's names, beside those of a text tower."""
    arrays, renamed = drawn(name), {}
    for i in range(2):
        above = f"encoder.layers.{i}.self_attn"
        for leaf in ("weight", "bias"):
            parts = [arrays.pop(f"{above}.{part}_proj.{leaf}") for part in "qkv"]
            renamed[f"visual.transformer.resblocks.{i}.attn.in_proj_{leaf}"] = np.concatenate(parts)
    for key, value in arrays.items():
        for pattern, new in _OPEN_CLIP:
            key = re.sub(pattern, new, key)
        renamed[f"visual.{key}"] = value
    text = {"transformer.resblocks.0.ln_1.weight": np.ones(8, np.float32), "logit_scale": np.ones((), np.float32)}
    return renamed | text | {"visual.proj": np.ones((24, 16), np.float32)}


def folder_of(name, folder):
    """A folder as the hub has it."""
    if name in TIMM:
        arrays, about = drawn(name), {"architecture": TIMM[name], "model_args": {"num_heads": 2}}
    elif name.startswith("open_clip"):
        arrays, about = of_open_clip(name.replace("open_", "")), None
        vision = {"width": 24, "head_width": 12, "layers": 2}
        given = {"model_cfg": {"quick_gelu": not name.endswith("gelu"), "vision_cfg": vision}}
        given["preprocess_cfg"] = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
        (folder / "open_clip_config.json").write_text(json.dumps(given))
    else:  # a CLIPModel, as PLIP is
        arrays = {f"vision_model.{key}": value for key, value in drawn(name).items()}
        arrays |= {"text_model.final_layer_norm.bias": np.ones(8, np.float32), "logit_scale": np.ones((), np.float32)}
        arrays |= {"vision_model.embeddings.position_ids": np.arange(17)[None]}
        vision = {"num_attention_heads": 2, "layer_norm_eps": 1e-5} | ({"hidden_act": "gelu"} if "gelu" in name else {})
        about = {"model_type": "clip", "vision_config": vision}
    save_file(arrays, folder / "model.safetensors")
    if about:
        (folder / "config.json").write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize(
    ("name", "mlp"),
    [
        ("clip_hf", "quick_gelu"),
        ("clip_hf_gelu", "gelu"),
        ("clip_timm", "gelu"),
        ("clip_timm_quick", "quick_gelu"),
        ("open_clip_hf", "quick_gelu"),
        ("open_clip_hf_gelu", "gelu"),
    ],
)
def test_tokens_are_those_of_transformers_and_timm_at_every_size(name, mlp, tmp_path):
    weights = reader.read(folder_of(name, tmp_path))
    shape = weights.shape
    assert (shape.mlp, shape.pre_norm, shape.heads, shape.grid, shape.norm_eps) == (mlp, True, 2, 4, 1e-5)
    assert weights.heads_known and "the patch embedding has no bias in the file; its bias is set to 0" in weights.notes
    for grid in (4, 3, 6):
        expected = EXPECTED[f"{name.replace('open_', '')}/{grid}"]
        if name.startswith("open_clip") and grid != 4:  # open_clip interpolates as timm does, not as transformers
            continue
        assert np.abs(tokens(weights, grid) - expected).max() < 1e-5 * np.abs(expected).max(), grid


def test_what_open_clip_states_is_read_and_the_projection_is_left_out(tmp_path):
    weights = reader.read(folder_of("open_clip_hf", tmp_path))
    assert (weights.mean, weights.std, weights.interpolation) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "antialiased")
    assert any("the head 'proj' (1 key) is not a linear layer" in note for note in weights.notes)
    (tmp_path / "open_clip_config.json").unlink()
    for about in ({}, {"architecture": ["x"]}):
        (tmp_path / "config.json").write_text(json.dumps(about))
        with pytest.raises(UserError, match="no file states whether its activation is GELU or quick GELU; put open_"):
            reader.read(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": [1]}))
    with pytest.raises(UserError, match=r"vision_config is \[1\]; it should be an object"):
        reader.read(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    with pytest.raises(UserError, match="a SigLIP with attention pooling: its model_type is 'siglip'"):
        reader.read(tmp_path)


def test_clips_mean_is_assumed_for_its_towers(tmp_path):
    weights = reader.read(folder_of("clip_hf", tmp_path))
    assert weights.mean == CLIP[0] and any("CLIP's is assumed" in note for note in weights.notes)


def test_the_tower_is_kept_by_mae_jax_and_not_written_for_other_code(tmp_path):
    weights = reader.read(folder_of("clip_hf", tmp_path))
    fields = {k: v for k, v in weights.model_fields().items() if k in ("mlp", "pre_norm", "positions", "size")}
    assert fields == {"mlp": "quick_gelu", "pre_norm": True, "positions": "learned", "size": "custom"}
    (tmp_path / "out").mkdir()
    write(weights, tmp_path / "out", "own")
    again = reader.read(tmp_path / "out")
    assert again.shape == weights.shape and again.interpolation == weights.interpolation == "bicubic"
    jax.tree.map(np.testing.assert_array_equal, again.params, weights.params)
    for form in ("hf", "timm"):
        with pytest.raises(UserError, match="a norm before the first block, quick GELU or rotary positions, which are"):
            write(weights, tmp_path / "out", form)


def test_keys_of_other_networks_are_no_tower():
    assert clip.is_tower(["embeddings.class_embedding"]) and clip.is_tower(["class_embedding"])
    assert not clip.is_tower(["cls_token", "layer1.0.conv1.weight"])
    assert clip.canonical("transformer.resblocks.3.attn.in_proj_weight") == "blocks.3.attn.qkv.weight"
