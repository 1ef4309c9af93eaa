import argparse
import builtins
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


def test_the_class_tokens_position_is_added_to_it(timm_file):
    weights = reader.read(timm_file(learned=True))
    arrays = load_file(weights.origin)
    np.testing.assert_array_equal(
        weights.params["encoder"]["cls_token"][0], arrays["cls_token"][0] + arrays["pos_embed"][0, :1]
    )
    assert weights.params["encoder"]["pos_embed"].shape == (1, 4, 16)
    assert "part of these tokens" in weights.notes[0]


def test_a_decoder_with_other_positions_is_ignored(timm_file):
    weights = reader.read(timm_file(lambda a: a.update(decoder_pos_embed=a["decoder_pos_embed"] * 0), decoder=1))
    assert weights.kind == "vit" and set(weights.params) == {"encoder"} and weights.shape.decoder_width == 0
    assert weights.notes == ("the decoder is ignored, because its positions are not the fixed sine-cosine ones",)


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
    with pytest.raises(UserError, match="has no file of weights"):
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
