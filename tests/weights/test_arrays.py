"""Arrays of weight files: exact values of every type, and what is refused."""

import builtins
import errno
import io
import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from mae_jax.runtime.errors import UserError
from mae_jax.weights import arrays


def test_arrays_and_config_of_a_folder_are_read_as_they_were_written(tmp_path):
    given = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1, 2], np.int64), "c": np.float16([0.5])}
    save_file(given, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"heads": 3}))
    for place in (tmp_path, tmp_path / "model.safetensors"):
        arrays_read, config = arrays.read_arrays(place, "SRC")
        assert config == {"heads": 3} and arrays_read.keys() == given.keys()
        for name, array in given.items():
            assert arrays_read[name].dtype == array.dtype
            np.testing.assert_array_equal(arrays_read[name], array)


def test_bfloat16_is_widened_exactly(tmp_path):
    bits = np.array([0x3F80, 0xC020, 0x0000, 0x7F80], np.uint16)  # 1, -2.5, 0, infinity
    header = json.dumps({"x": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes())
    arrays_read, _ = arrays.read_arrays(tmp_path / "m.safetensors", "SRC")
    np.testing.assert_array_equal(arrays_read["x"], np.array([1, -2.5, 0, np.inf], np.float32))
    assert arrays_read["x"].dtype == np.float32


def test_npz_files_hold_numbers_alone(tmp_path):
    np.savez(tmp_path / "good.npz", a=np.eye(2))
    arrays_read, config = arrays.read_arrays(tmp_path / "good.npz", "SRC")
    np.testing.assert_array_equal(arrays_read["a"], np.eye(2))
    assert config == {}
    np.savez(tmp_path / "text.npz", a=np.array(["x"]))
    with pytest.raises(UserError, match=r"SRC: .*text\.npz: 'a' is not an array of numbers \(type <U1\); save plain"):
        arrays.read_arrays(tmp_path / "text.npz", "SRC")
    np.savez(tmp_path / "object.npz", a=np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match="it holds Python objects, and opening them could run code; save plain arrays"):
        arrays.read_arrays(tmp_path / "object.npz", "SRC")


def test_damage_and_other_files_are_named_with_their_field(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"\x10")
    with pytest.raises(UserError, match=r"init: .*m\.safetensors cannot be read as safetensors"):
        arrays.read_arrays(tmp_path / "m.safetensors", "init")
    with pytest.raises(UserError, match="init=.*none does not exist; name a file or folder of weights"):
        arrays.read_arrays(tmp_path / "none", "init")
    for text, message in (
        ("{", "is not valid JSON"),
        ("[]", "holds a list instead of a JSON object; download it again"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=message):
            arrays.read_config(tmp_path, "init")
    assert arrays.read_config(tmp_path, "init", "other.json") == {}


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES])
@pytest.mark.parametrize("name", ["w.npz", "w.safetensors", "config.json"])
def test_a_storage_error_is_not_taken_for_a_damaged_file(tmp_path, monkeypatch, number, name):
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    (tmp_path / "config.json").write_text("{}")
    opened = io.open

    def failing(file, *args, **options):
        if str(file) == str(tmp_path / name):
            raise OSError(number, os.strerror(number), str(file))
        return opened(file, *args, **options)

    monkeypatch.setattr(io, "open", failing)
    monkeypatch.setattr(builtins, "open", failing)
    with pytest.raises(OSError, match=f"{os.strerror(number)}.*{name}"):
        arrays.read_arrays(tmp_path / ("w.npz" if name == "config.json" else name), "init_from")
