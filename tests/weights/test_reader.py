import argparse
import builtins
import dataclasses
import json
import os
import zipfile

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mae_jax import models
from mae_jax.runtime.errors import UserError
from mae_jax.weights import reader
from mae_jax.weights.arrays import read_arrays

apply = jax.jit(models.apply, static_argnums=(0, 1))


def test_every_key_of_a_plain_vit_is_taken(timm_file):
    weights = reader.read(timm_file(classes=3))
    shape = weights.shape
    assert (shape.width, shape.depth, shape.heads, shape.patch_size, shape.image_size) == (16, 2, 2, 8, 16)
    assert (shape.n_classes, shape.pool, shape.positions, shape.mlp_ratio) == (3, "cls", "fixed", 4.0)
    assert weights.kind == "vit" and weights.heads_known and weights.notes == ()
    kernel = weights.params["encoder"]["block_01"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_array_equal(kernel, load_file(weights.origin)["blocks.1.mlp.fc1.weight"].T)
    logits = apply("vit", shape, weights.params, np.ones((1, 16, 16, 3), np.float32))
    assert logits.shape == (1, 3) and np.isfinite(logits).all()


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ({"decoder": 1}, {"decoder_depth": 1, "decoder_width": 8, "n_classes": 0}),
        ({"pool": "mean", "classes": 3}, {"pool": "mean"}),
        ({"learned": True}, {"positions": "learned"}),
        ({"learned": True, "registers": 4, "layer_scale": True}, {"registers": 4, "layer_scale": 1e-5}),
    ],
)
def test_the_shape_follows_from_the_keys(timm_file, kinds, expected):
    weights = reader.read(timm_file(**kinds))
    assert {name: getattr(weights.shape, name) for name in expected} == expected
    assert weights.kind == ("mae" if "decoder" in kinds else "vit")


def test_the_class_tokens_position_is_added_to_it(timm_file):
    weights = reader.read(timm_file(learned=True))
    arrays = load_file(weights.origin)
    np.testing.assert_array_equal(
        weights.params["encoder"]["cls_token"][0], arrays["cls_token"][0] + arrays["pos_embed"][0, :1]
    )
    assert weights.params["encoder"]["pos_embed"].shape == (1, 4, 16)
    assert "part of these tokens" in weights.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("blocks.1.mlp.fc2.bias"), "1 missing (blocks.1.mlp.fc2.bias)"),
        (lambda a: a.update({"blocks.0.attn.q_norm.weight": a["norm.bias"]}), "1 unexpected (blocks.0.attn.q_norm"),
        (lambda a: a.update({"norm.bias": a["norm.bias"][:3]}), "1 unusable (norm.bias (3,) instead of (16,))"),
        (lambda a: a.update({"norm.bias": a["norm.bias"] * np.nan}), "norm.bias is not finite"),
        (lambda a: a.update({"norm.bias": a["norm.bias"].astype(np.int32)}), "norm.bias is int32"),
        (lambda a: a.pop("pos_embed"), "pos_embed is missing"),
        (lambda a: a.pop("cls_token"), "1 missing (cls_token)"),
        (lambda a: a.pop("patch_embed.proj.weight"), "no patch embedding under the names"),
        (lambda a: a.update(pos_embed=a["pos_embed"][:, :4]), ""),
        (lambda a: a.update(pos_embed=a["pos_embed"][:, :3]), "3 positions do not fit a square image"),
    ],
)
def test_missing_unexpected_and_unusable_keys_stop_the_import(timm_file, change, message):
    path = timm_file(change, classes=3)
    if not message:  # positions of the patches alone are allowed
        reader.read(path)
        return
    with pytest.raises(UserError) as error:
        reader.read(path, "init_from")
    assert message in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
        ({"architecture": "vit_base_patch16_clip_224"}, "a vision tower of CLIP: timm's vit_base_patch16_clip_224"),
        ({"architecture": "deit_base_distilled_patch16_224"}, "a distilled ViT"),
        ({"model_type": "dinov3_vit"}, "a ViT with rotary positions .*its model_type is 'dinov3_vit'"),
        ({"model_type": "unheard"}, "another network: its model_type is 'unheard'"),
        ({"model_args": {"act_layer": "quick_gelu"}}, "model_args.act_layer of config.json is 'quick_gelu'"),
        ({"model_args": {"num_heads": 2, "rope_theta": 100}}, "model_args.rope_theta of config.json is 100"),
        ({"model_args": {"qk_norm": True}}, "model_args.qk_norm of config.json is True"),
        ({"model_args": {"num_heads": 3}}, "3 heads do not fit 16"),
    ],
)
def test_a_network_that_computes_something_else_is_refused(timm_file, about, message):
    with pytest.raises(UserError, match=message):
        reader.read(timm_file(about=about))


def test_a_decoder_with_other_positions_is_ignored(timm_file):
    weights = reader.read(timm_file(lambda a: a.update(decoder_pos_embed=a["decoder_pos_embed"] * 0), decoder=1))
    assert weights.kind == "vit" and set(weights.params) == {"encoder"} and weights.shape.decoder_width == 0
    assert weights.notes == ("the decoder is ignored, because its positions are not the fixed sine-cosine ones",)


def test_an_unknown_number_of_heads_is_assumed_and_noted(timm_file):
    weights = reader.read(timm_file(about={}))
    assert weights.shape.heads == 1 and not weights.heads_known and "1 attention head is assumed" in weights.notes[0]
    assert reader.read(timm_file(about={}), heads=4).shape.heads == 4
    weights = dataclasses.replace(weights, shape=dataclasses.replace(weights.shape, width=384, heads=6, depth=12))
    assert {k: v for k, v in weights.model_fields().items() if k in ("size", "width")} == {"size": "small", "width": 0}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("dist_token",), "it is a distilled ViT"),
        (("rope.periods",), "it is a ViT with rotary positions"),
        (("blocks.0.attn.rel_pos_bias.relative_position_bias_table",), "it is a ViT with relative positions"),
        (("attn_pool.q.weight",), "it is a ViT with attention pooling"),
        (("blocks.0.attn.q_norm.weight",), "it is a ViT that normalizes queries and keys"),
    ],
)
def test_a_refusal_names_the_network_and_mentions_leave(timm_file, keys, message):
    path = timm_file(lambda a: a.update(dict.fromkeys(keys, np.zeros((1, 16), np.float32))))
    with pytest.raises(UserError) as error:
        reader.read(path)
    assert message in str(error.value) and f"mae-jax convert import {path} OUT --leave REGEX" in str(error.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"head.mlp.0.weight": (4, 16)},
            "the head 'head' (1 key) is not a linear layer on the features; it is ignored",
        ),
        ({"head.weight": (3, 5), "head.bias": (3,)}, "the head 'head' (2 keys) is not a linear layer"),
        ({"pre_logits.fc.weight": (9, 16)}, "the head 'pre_logits' (1 key)"),
    ],
)
def test_heads_of_another_shape_are_ignored_and_noted(timm_file, keys, message):
    weights = reader.read(timm_file(lambda a: a.update({key: np.ones(s, np.float32) for key, s in keys.items()})))
    assert (
        any(message in note for note in weights.notes) and "head" not in weights.params and not weights.shape.n_classes
    )


def test_an_encoder_whose_last_norm_follows_the_mean_sets_the_pool(timm_file):
    weights = reader.read(timm_file(pool="mean", classes=3))
    assert weights.fields()["model.pool"] == "mean" and "so model.pool is mean" in weights.notes[-1]
    assert "model.pool" not in reader.read(timm_file(classes=3)).fields()


def test_what_no_file_states_is_noted(timm_file):
    notes = reader.read(timm_file(decoder=1, about={"model_args": {"num_heads": 2}})).notes
    assert "no file states the images' mean and standard deviation; ImageNet's is assumed" in notes[-1]
    assert "1 attention head is assumed in the decoder, the usual number for 8 features" in notes
    older = {"architecture": "vit_tiny_patch8", "num_classes": 0, "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.5, 0.5]}
    weights = reader.read(timm_file(about=older))
    assert weights.mean == (0.5, 0.4, 0.3) and not any("ImageNet" in note for note in weights.notes)


def test_half_precision_and_wrapped_keys_are_read(timm_file):
    exact = reader.read(timm_file())
    half = reader.read(timm_file(lambda a: a.update({k: v.astype(np.float16) for k, v in a.items()})))
    assert half.shape == exact.shape  # also the rounded positions are the fixed ones
    assert half.params["encoder"]["norm"]["scale"].dtype == np.float32

    def wrap(arrays):
        for key in list(arrays):
            arrays[f"module.backbone.{key}"] = arrays.pop(key)

    wrapped = reader.read(timm_file(wrap))
    assert wrapped.shape == exact.shape and wrapped.notes == ("the prefix 'module.backbone.' is removed from the keys",)


def test_of_two_networks_in_one_file_the_teacher_is_taken(timm_file):
    def twice(arrays):
        for key in list(arrays):
            arrays[f"teacher.{key}"] = arrays.pop(key)
            arrays[f"student.{key}"] = arrays[f"teacher.{key}"] + 1

    path = timm_file(twice)
    weights = reader.read(path)
    norm = load_file(path)["teacher.norm.weight"]
    np.testing.assert_array_equal(weights.params["encoder"]["norm"]["scale"], norm)
    assert "the one under 'teacher.' is used, 'student.' is ignored" in weights.notes[1]
    assert reader.read(path, leave=r"^student\.").notes[-1] == "the prefix 'teacher.' is removed from the keys"
    student = reader.read(path, leave=r"^teacher\.")
    np.testing.assert_array_equal(student.params["encoder"]["norm"]["scale"], norm + 1)


def test_keys_that_match_leave_are_ignored(timm_file):
    def more(arrays):
        arrays |= {f"backbone.{key}": arrays.pop(key) for key in list(arrays)}
        arrays["backbone.adapter.weight"] = arrays["backbone.norm.weight"]

    path = timm_file(more)
    with pytest.raises(UserError, match=r"1 unexpected \(adapter.weight\)"):
        reader.read(path)
    for pattern in (r"^adapter\.", r"^backbone\.adapter\."):
        assert "1 key is ignored, as requested (" in reader.read(path, leave=pattern).notes[0]
    with pytest.raises(UserError, match="matches no key"):
        reader.read(path, leave="decoder")
    with pytest.raises(UserError, match="not a valid regular expression"):
        reader.read(path, leave="(")
    with pytest.raises(UserError, match=r"1 missing \(norm.bias\)"):
        reader.read(path, leave="adapter|norm.bias$")


def test_bfloat16_is_read(tmp_path):
    raw = np.array([1.0, -2.5, 3.140625], np.float32)
    header = json.dumps({"x": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}).encode()
    bits = (raw.view(np.uint32) >> 16).astype("<u2").tobytes()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bits)
    arrays, _ = read_arrays(tmp_path / "x.safetensors", "init_from")
    np.testing.assert_array_equal(arrays["x"], raw)


def test_a_folder_of_shards_is_read_and_its_index_cannot_point_outside(timm_file, tmp_path):
    one_file = timm_file()
    arrays = load_file(one_file)
    folder = tmp_path / "shards"
    folder.mkdir()
    keys = sorted(arrays)
    files = {key: f"model-{i % 2}.safetensors" for i, key in enumerate(keys)}
    for file in set(files.values()):
        save_file({k: arrays[k] for k in keys if files[k] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    assert reader.read(folder).shape.depth == 2
    index.write_text(json.dumps({"weight_map": files | {"norm.bias": "../timm/model.safetensors"}}))
    with pytest.raises(UserError, match="not a weight file in its folder"):
        reader.read(folder)
    index.write_text(json.dumps({"weight_map": files | {"norm.bias": "model-2.safetensors"}}))
    with pytest.raises(UserError, match="is missing, though"):
        reader.read(folder)


def test_files_that_cannot_be_read_are_named(tmp_path):
    for name, content, message in (
        ("a.safetensors", b"no header", "cannot be read as safetensors"),
        ("a.npz", b"PK no zip", "is refused"),
        ("a.onnx", b"", "files ending in .onnx are not supported; use .safetensors"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            reader.read(tmp_path / name, "init_from")
    with pytest.raises(UserError, match="init_from=.*does not exist"):
        reader.read(tmp_path / "nothing.safetensors", "init_from")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="should hold one weight file and has none"):
        reader.read(tmp_path / "empty", "init_from")


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as part:
        for _ in range(300):
            part.write(bytes(2**20))
    assert (tmp_path / "a.npz").stat().st_size < 1e6
    with pytest.raises(UserError, match=r"its 0.3 MB unpack to 0.3 GB"):
        reader.read(tmp_path / "a.npz", "init_from")


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_an_npz_with_objects_is_refused_and_runs_no_code(tmp_path):
    harm = tmp_path / "harm"
    np.savez(tmp_path / "a.npz", x=np.array([Payload(harm)], object), allow_pickle=True)
    with pytest.raises(UserError, match="holds Python objects"):
        reader.read(tmp_path / "a.npz", "init_from")
    assert not harm.exists()
    np.load(tmp_path / "a.npz", allow_pickle=True)["x"]  # the payload is a real one
    assert harm.exists()


def test_a_pth_with_a_payload_is_refused_and_runs_no_code(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is an extra")
    harm = tmp_path / "harm"
    torch.save({"model": {"norm.weight": torch.ones(2)}, "extra": Payload(harm)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a.pth is refused: .*could run code"):
        reader.read(tmp_path / "a.pth", "init_from")
    assert not harm.exists()
    torch.load(tmp_path / "a.pth", weights_only=False)  # the payload is a real one
    assert harm.exists()


def test_a_pth_of_tensors_that_repeat_a_few_values_is_refused(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is an extra")
    for dtype in (torch.float32, torch.float16):
        torch.save({"a": torch.zeros(1, dtype=dtype).expand(10**11)}, tmp_path / "a.pth")
        assert (tmp_path / "a.pth").stat().st_size < 10_000
        with pytest.raises(UserError, match=r"a\.pth is refused: its 0.0 MB unpack to [24]00.0 GB"):
            read_arrays(tmp_path / "a.pth", "init_from")


def test_a_pth_without_pytorch_is_refused_in_one_line(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "torch":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "a.pth").write_bytes(b"")
    with pytest.raises(UserError, match="needs PyTorch to be read safely; install 'mae_jax"):
        reader.read(tmp_path / "a.pth", "init_from")


def test_a_training_checkpoint_of_the_papers_code_is_read(timm_file, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is an extra")
    arrays = load_file(timm_file(decoder=1))
    saved = {"model": {k: torch.from_numpy(v) for k, v in arrays.items()}, "epoch": 3, "optimizer": {"state": {}}}
    torch.save(saved | {"args": argparse.Namespace(lr=1e-3, model="mae_vit_base_patch16")}, tmp_path / "a.pth")
    weights = reader.read(tmp_path / "a.pth")
    assert weights.kind == "mae" and weights.shape.decoder_depth == 1
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:1000])
    with pytest.raises(UserError, match="b.pth cannot be read by PyTorch"):
        reader.read(tmp_path / "b.pth")
    with zipfile.ZipFile(tmp_path / "d.pt", "w") as archive:  # what marks a TorchScript archive
        archive.writestr("d/constants.pkl", b"")
        archive.writestr("d/version", b"6")
    with pytest.raises(UserError, match=r"d.pt is a TorchScript program; save only its state_dict"):
        reader.read(tmp_path / "d.pt")
    torch.save([torch.ones(1)], tmp_path / "c.pth")
    with pytest.raises(UserError, match="holds no dictionary of arrays"):
        reader.read(tmp_path / "c.pth")


HOSTILE = [
    ({"num_attention_heads": "two"}, "num_attention_heads is 'two'; it should be a whole number above 0"),
    ({"num_attention_heads": float("nan")}, "num_attention_heads is nan"),
    ({"num_attention_heads": float("inf")}, "num_attention_heads is inf"),
    ({"num_attention_heads": -2}, "num_attention_heads is -2"),
    ({"num_attention_heads": 10**18}, "num_attention_heads is 1000000000000000000"),
    ({"num_attention_heads": [2]}, r"num_attention_heads is [2]"),
    ({"num_attention_heads": True}, "num_attention_heads is True"),
    ({"model_args": [1]}, "model_args is [1]; it should be an object"),
    ({"layer_norm_eps": "x"}, "layer_norm_eps is 'x'; it should be a number between 0 and 1"),
    ({"layer_norm_eps": -1}, "layer_norm_eps is -1"),
    ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
    ({"pretrained_cfg": 5}, "pretrained_cfg is 5"),
    ({"pretrained_cfg": {"mean": [float("nan"), 0, 0]}}, "image_mean is [nan, 0, 0]; it should be three numbers"),
    ({"pretrained_cfg": {"std": [0, 1, 1]}}, "image_std is [0, 1, 1]; it should be three numbers above 0"),
    ({"pretrained_cfg": {"mean": "grey"}}, "image_mean is 'grey'"),
    ({"id2label": ["a"]}, "id2label is ['a']; it should be an object"),
    ([1], "holds a list instead of a JSON object"),
]


@pytest.mark.parametrize(("about", "message"), HOSTILE)
def test_a_hostile_config_is_refused_and_the_field_named(timm_file, about, message):
    with pytest.raises(UserError) as error:
        reader.read(timm_file(about=about, classes=3), "init")
    assert message in str(error.value) and str(error.value).startswith("init: ")


def test_a_config_nested_a_hundred_thousand_levels_deep_is_refused(timm_file):
    path = timm_file()
    (path.parent / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(UserError, match="not valid JSON"):
        reader.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.update({"patch_embed.proj.weight": np.zeros((16, 3, 0, 0), np.float32)}),
            "has shape (16, 3, 0, 0)",
        ),
        (lambda a: a.update({"blocks.0.mlp.fc1.weight": np.zeros((0, 16), np.float32)}), "has shape (0, 16)"),
        (lambda a: a.update({"pos_embed": np.zeros(5, np.float32)}), "pos_embed has shape (5,)"),
        (
            lambda a: a.update({"decoder_embed.weight": np.zeros(8, np.float32)}),
            "decoder_embed.weight has shape (8,)",
        ),
        (
            lambda a: a.update({f"blocks.{i}.norm1.weight": np.ones(1, np.float32) for i in range(2, 200)}),
            "more than 100 blocks",
        ),
    ],
)
def test_arrays_of_impossible_shapes_are_refused(timm_file, change, message):
    with pytest.raises(UserError) as error:
        reader.read(timm_file(change))
    assert message in str(error.value)


def test_a_fifo_and_a_far_too_large_file_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        reader.read(tmp_path / "x.safetensors")
    large = tmp_path / "large" / "model.safetensors"
    large.parent.mkdir()
    large.touch()
    os.truncate(large, 2**40)
    with pytest.raises(UserError, match="is larger than 34 GB"):
        reader.read(large.parent)


def test_a_wrong_header_is_refused(timm_file):
    path = timm_file()
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    for change in (
        lambda h: h["cls_token"].update(shape=[2**40, 2**20, 1]),
        lambda h: h["cls_token"].update(data_offsets=h["norm.bias"]["data_offsets"]),
        lambda h: h["cls_token"].update(data_offsets=[0, 10**12]),
    ):
        header = json.loads(data[8 : 8 + size])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
        with pytest.raises(UserError, match="cannot be read as safetensors"):
            reader.read(path)


def test_an_array_with_too_many_dimensions_is_refused(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1] * 500, "data_offsets": [0, 4]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(UserError, match="'a' has more than 8 dimensions"):
        reader.read(tmp_path / "x.safetensors")
