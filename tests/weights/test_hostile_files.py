"""Weight files, JSON and CSV files that are changed at random are read, or refused with one line."""

import io
import json
import os
import struct
import zipfile
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mae_jax.models.params import map_paths
from mae_jax.rundir import contents, predictions, saved_runs
from mae_jax.runtime.errors import UserError
from mae_jax.study import overview
from mae_jax.weights import arrays, names, reader

SIZES = st.one_of(st.integers(0, 20), st.sampled_from([2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]))
SPECIAL = [b"", b"0", b"-1", b"NaN", b"1e999", b"null", b"[]", b"{}", b'"', b",", b"\n", b"\x00", b"\xff", b"9" * 5000]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", 25)),  # more find more: FUZZ_EXAMPLES=5000
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def read_or_refused(read, *args) -> None:
    try:
        read(*args)
    except UserError as error:
        assert "\n" not in str(error) and str(error)


@st.composite
def changed(draw, original: bytes) -> bytes:
    """Bytes of a valid file with a few places replaced, removed or repeated."""
    data = original
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 12)))
        data = data[:at] + draw(st.sampled_from(SPECIAL) | st.binary(max_size=4)) + data[end:]
    return data


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def timm_like() -> dict[str, np.ndarray]:
    from tests.weights.conftest import timm_arrays

    return timm_arrays(np.random.default_rng(0), depth=1, classes=3)


def npz(members: dict[str, np.ndarray | bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, value in members.items():
            content = io.BytesIO()
            np.save(content, value, allow_pickle=True) if isinstance(value, np.ndarray) else content.write(value)
            archive.writestr(name, content.getvalue())
    return stream.getvalue()


@pytest.mark.parametrize("shape", [[0, 2**40, 2**40], [0, 2**63], [2**40, 0, 2**40], [0, 2**64 - 1]])
def test_a_shape_whose_product_overflows_is_refused(tmp_path, shape):
    file = tmp_path / "w.safetensors"
    file.write_bytes(safetensors({"x": ("F32", shape, b"")}))
    with pytest.raises(UserError, match=r"init_from: .*w.safetensors.*; download it again"):
        arrays.read_arrays(file, "init_from")


def test_a_bfloat16_number_without_axes_is_an_array(tmp_path):
    file = tmp_path / "w.safetensors"
    file.write_bytes(safetensors({"x": ("BF16", [], struct.pack("<H", 0x3FC0))}))
    read, _ = arrays.read_arrays(file, "init_from")
    assert isinstance(read["x"], np.ndarray) and read["x"].shape == () and read["x"] == np.float32(1.5)


@pytest.mark.parametrize(
    "member",
    [b"some text", b"", np.array(["text"]), np.zeros(2, "M8[s]"), np.zeros(2, [("a", "f4")]), np.array([1j])],
    ids=["text", "empty", "strings", "dates", "records", "complex"],
)
def test_a_member_that_is_not_an_array_of_numbers_is_refused(tmp_path, member):
    file = tmp_path / "w.npz"
    file.write_bytes(npz({"patch_embed.proj.weight": member}))
    with pytest.raises(UserError, match=r"w.npz.*: 'patch_embed.proj.weight' is not an array"):
        arrays.read_arrays(file, "init_from")


@FUZZ
@given(st.data())
def test_any_safetensors_header_is_read_or_refused(tmp_path, data):
    file, tensors = tmp_path / "w.safetensors", {}
    for name in data.draw(st.lists(st.sampled_from(sorted(timm_like())), min_size=1, max_size=4, unique=True)):
        dtype = data.draw(st.sampled_from([*arrays._TYPES, "F8_E4M3", "X", ""]))
        tensors[name] = dtype, data.draw(st.lists(SIZES, max_size=10)), data.draw(st.binary(max_size=16))
    file.write_bytes(safetensors(tensors))
    read_or_refused(reader.read, file)


def augreg() -> dict[str, np.ndarray]:
    """A block under the names of Google's .npz files."""
    arrays = {"embedding/kernel": (8, 8, 3, 16), "embedding/bias": (16,), "cls": (1, 1, 16)}
    block = "Transformer/encoderblock_0"
    for name in ("Transformer/encoder_norm", f"{block}/LayerNorm_0", f"{block}/LayerNorm_2"):
        arrays |= {f"{name}/scale": (16,), f"{name}/bias": (16,)}
    for name in ("query", "key", "value"):
        attention = f"{block}/MultiHeadDotProductAttention_1/{name}"
        arrays |= {f"{attention}/kernel": (16, 2, 8), f"{attention}/bias": (2, 8)}
    arrays |= {f"{block}/MultiHeadDotProductAttention_1/out/kernel": (2, 8, 16)}
    arrays |= {f"{block}/MlpBlock_3/Dense_0/kernel": (16, 64), f"{block}/MlpBlock_3/Dense_1/kernel": (64, 16)}
    return {name: np.zeros(shape, np.float32) for name, shape in arrays.items()}


@lru_cache
def layouts() -> dict[str, dict[str, np.ndarray]]:
    """Small networks under the names of other code."""
    from tests.weights.conftest import timm_arrays

    rng = np.random.default_rng(0)
    plain = timm_arrays(rng, depth=1, classes=3, learned=True)
    registers = timm_arrays(rng, depth=1, registers=2, layer_scale=True)
    bias = registers.pop("blocks.0.attn.qkv.bias")
    with_periods = registers | {"rope_embed.periods": 100 ** (np.arange(2, dtype=np.float32) / 2)}
    with_periods |= {"blocks.0.attn.q_bias": bias[:16], "blocks.0.attn.v_bias": bias[32:]}
    masked = with_periods | {"blocks.0.attn.qkv.bias": bias, "blocks.0.attn.qkv.bias_mask": np.ones_like(bias)}
    renamed = {
        "cls_token": "class_embedding",
        "pos_embed": "positional_embedding",
        "patch_embed.proj.weight": "conv1.weight",
    }
    resnet = {"conv1.weight": (64, 3, 7, 7), "layer1.0.conv1.weight": (64, 64, 3, 3), "fc.weight": (3, 512)}
    resnet |= {"fc.bias": (3,), **dict.fromkeys(("bn1.weight", "bn1.bias", "bn1.running_mean"), (64,))}
    with TemporaryDirectory() as folder:
        file = Path(folder, "w.npz")
        file.write_bytes(npz({f"{name}.npy": value for name, value in plain.items()}))
        ours, theirs = {}, {}
        params = reader.read(file).params
        map_paths(lambda path, leaf: ours.update({path: np.asarray(leaf)}), params)
        map_paths(lambda path, leaf: theirs.update(names.to_theirs(path, leaf, "hf", 8)), params)
    return {
        "timm": plain,
        "facebookresearch": timm_arrays(rng, depth=1, decoder=1),
        "dinov3 of timm": with_periods,
        "dinov3 of facebookresearch": masked,
        "open_clip": {renamed.get(name, name): value for name, value in plain.items()},
        "resnet": {name: np.zeros(shape, np.float32) for name, shape in resnet.items()},
        "augreg": augreg(),
        "transformers": theirs,
        "mae_jax": ours,
    }


def write(folder: Path, given_arrays: dict[str, np.ndarray]) -> Path:
    about = {"model_cfg": {"vision_cfg": {"width": 16, "head_width": 8}}}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    file = folder / "w.npz"
    file.write_bytes(npz({f"{key}.npy": value for key, value in given_arrays.items()}))
    return file


ATTENTION = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1"


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        ("timm", "head.bias", ()),
        ("augreg", f"{ATTENTION}/key/bias", (3, 1)),
        ("augreg", f"{ATTENTION}/query/kernel", (0, 0)),
        ("dinov3 of timm", "blocks.0.attn.q_bias", ()),
        ("dinov3 of facebookresearch", "cls_token", ()),
        ("facebookresearch", "decoder_pos_embed", ()),
        ("facebookresearch", "decoder_pos_embed", (0,)),
    ],
)
def test_arrays_with_other_axes_than_those_they_are_joined_with_are_no_fault_of_ours(tmp_path, name, key, shape):
    assert key in layouts()[name]
    read_or_refused(reader.read, write(tmp_path, layouts()[name] | {key: np.zeros(shape, np.float32)}))


@pytest.mark.parametrize("name", layouts())
@settings(FUZZ, max_examples=int(os.environ.get("FUZZ_EXAMPLES", 8)))
@given(st.data())
def test_weights_of_every_layout_with_any_shapes_are_read_or_refused(tmp_path, name, data):
    given_arrays = dict(layouts()[name])
    for key in data.draw(st.lists(st.sampled_from(sorted(given_arrays)), min_size=1, max_size=2, unique=True)):
        shape = data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 8, 16, 48]), max_size=5))
        given_arrays[key] = np.zeros(shape, np.float32)
    read_or_refused(reader.read, write(tmp_path, given_arrays))


@FUZZ
@given(st.data())
def test_weights_of_any_shape_and_type_are_read_or_refused(tmp_path, data):
    file, given_arrays = tmp_path / "w.npz", timm_like()
    for name in data.draw(st.lists(st.sampled_from(sorted(given_arrays)), min_size=1, max_size=3, unique=True)):
        shape = data.draw(st.lists(st.integers(0, 18), max_size=5))
        given_arrays[name] = np.zeros(shape, data.draw(st.sampled_from(["f4", "f8", "f2", "i4", "u1", "?"])))
    file.write_bytes(npz({f"{name}.npy": value for name, value in given_arrays.items()}))
    read_or_refused(reader.read, file)


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@FUZZ
@given(st.data())
def test_damaged_weight_files_are_read_or_refused(tmp_path, ending, data):
    some = {name: timm_like()[name] for name in ("patch_embed.proj.bias", "norm.weight", "cls_token")}
    if ending == ".npz":
        original = npz({f"{name}.npy": value for name, value in some.items()})
    else:
        original = safetensors({name: ("F32", list(value.shape), value.tobytes()) for name, value in some.items()})
    file = tmp_path / f"w{ending}"
    file.write_bytes(data.draw(changed(original)))
    read_or_refused(arrays.read_arrays, file, "init_from")


FIELDS = (
    "num_attention_heads architecture model_args id2label layer_norm_eps image_size mae_jax pretrained_cfg mean std"
)
MORE = "model_type num_heads hidden_act use_swiglu_ffn num_register_tokens norm_pix_loss global_pool qkv_bias"


@FUZZ
@given(st.dictionaries(st.sampled_from([*FIELDS.split(), *MORE.split()]), JSON, max_size=5))
def test_any_config_of_weights_is_read_or_refused(tmp_path, fields):
    np.savez(tmp_path / "weights.npz", **timm_like())
    (tmp_path / "config.json").write_text(json.dumps(fields))
    read_or_refused(reader.read, tmp_path)


PREDICTIONS = (
    b"image,label,prediction,confidence,group,p_a,p_b\r\nx.png,a,a,0.75,g1,0.75,0.25\r\ny.png,b,a,0.6,,0.6,0.4\r\n"
)


@FUZZ
@given(changed(PREDICTIONS))
def test_damaged_predictions_are_read_or_refused(tmp_path, content):
    file = tmp_path / "predictions.csv"
    file.write_bytes(content)
    read_or_refused(predictions.read_predictions, file, ("a", "b"))


RUN_CONFIG = json.dumps({"format": 2, "config": {"task": "finetune", "seed": 0}, "resolved": {"steps": 3}}).encode()


@FUZZ
@given(changed(RUN_CONFIG))
def test_damaged_configs_and_run_files_are_read_or_refused(tmp_path, content):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    read_or_refused(contents.read_config, file)
    read_or_refused(contents.read_object, file)


def read_info(folder: Path) -> None:
    from mae_jax.report import runs

    runs.read_runs([folder])


RUN = {
    "task": "finetune", "init": "scratch", "fraction": 1.0, "seed": 0, "classes": ["a", "b"], "steps": 3, "n_train": 4,
    "select": "last", "name": "x",
}  # fmt: skip


@FUZZ
@given(st.dictionaries(st.sampled_from(sorted(RUN)), JSON, min_size=1, max_size=2))
def test_any_value_in_run_json_is_read_or_refused(tmp_path, fields):
    (tmp_path / "predictions.csv").write_bytes(PREDICTIONS)
    (tmp_path / "run.json").write_text(json.dumps(RUN | fields))
    read_or_refused(read_info, tmp_path)


PARTS = "task seed init init_from data model train optim eval probe mae log checkpoint pretrain finetune a.b __class__"
INNER = "label_count fraction mean std size width image_size batch_size new a.b __class__ items"
CONFIGS = st.dictionaries(
    st.sampled_from(PARTS.split()),
    JSON | st.dictionaries(st.sampled_from(INNER.split()), JSON, max_size=3),
    max_size=4,
)


@FUZZ
@given(CONFIGS, st.sampled_from(["finetune", "pretrain", "knn", "study", "sweep"]), st.booleans())
def test_any_config_of_a_run_is_read_or_refused(tmp_path, fields, task, keep):
    for name in (contents.CONFIG, contents.STUDY):
        (tmp_path / contents.CONFIG).unlink(missing_ok=True)
        (tmp_path / contents.STUDY).unlink(missing_ok=True)
        config = {"task": task} | fields if keep else fields | {"task": task}
        (tmp_path / name).write_text(json.dumps({"format": 2, "version": "9.1", "config": config}))
        read_or_refused(saved_runs.config_of, tmp_path, "RUN_DIR")
        read_or_refused(lambda: overview.table(overview.find(tmp_path), tmp_path))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": {"__class__": 1}}, "config.json: model.__class__ is not a field"),
        ({"model": {"__class__": {}}}, "config.json is damaged"),
        ({"a.b": 1}, "config.json: a.b is not a field"),
        ({"model.size": "tiny"}, "config.json is damaged"),
        ({"model": {"regs": 1}}, r"model.regs is not a field .*, but the file was written by mae_jax 9\.1; update"),
    ],
)
def test_fields_that_no_config_has_are_named_with_their_writer(tmp_path, config, message):
    saved = {"version": "9.1", "config": {"task": "finetune"} | config}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match=message):
        saved_runs.config_of(tmp_path, "RUN_DIR")


def test_a_hint_is_the_name_of_a_field_alone(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": {"task": "finetune", "model": {"register": 1}}}))
    with pytest.raises(UserError, match=r"model.register is not a field of the config; did you mean model.registers\?"):
        saved_runs.config_of(tmp_path, "RUN_DIR")
