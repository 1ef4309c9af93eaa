"""`mae-jax convert`: weights in, and runs out."""

import numpy as np
import pytest

from mae_jax.__main__ import dispatch
from mae_jax.models.vit import ViTConfig
from mae_jax.predict import exporting
from mae_jax.runtime.errors import UserError
from mae_jax.weights import reader, writer


def test_weights_are_read_written_to_a_new_folder_and_described(record, tmp_path, capsys):
    shape = ViTConfig(224, 16, 768, 12, 12, registers=4)
    params = {"encoder": {"a": np.zeros((2, 600)), "b": np.zeros(3)}}
    weights = reader.Weights(params, shape, "vit", "there", notes=("heads are assumed",))
    read = record(reader, "read", weights)

    def write(given, folder, form):
        assert given is weights and form == "own"
        (folder / "model.safetensors").write_bytes(b"")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(writer, "write", write)
        assert dispatch(["convert", "import", "src.pth", str(tmp_path / "out"), "--heads=6", "--leave=^x"]) == 0
    assert [str(value) for value in read[0][0]] == ["src.pth", "SRC", "6", "^x"]
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "encoder: 1,203 values in 2 arrays, all accounted for"
    assert lines[1].startswith("network: ViT with 12 blocks of width 768, 224 px in patches of 16, 12 heads, ")
    assert "4 registers, no layer scale" in lines[1]
    assert lines[2:] == ["note: heads are assumed", f"written: {tmp_path / 'out'}"]


def test_a_run_is_exported_in_the_format_asked_for(record, capsys):
    calls = record(exporting, "export", ["only the encoder is written"])
    assert dispatch(["convert", "export", "run", "out.onnx", "--format", "onnx"]) == 0
    assert [str(value) for value in calls[0][0]] == ["run", "out.onnx", "onnx"]
    assert capsys.readouterr().out.splitlines() == ["note: only the encoder is written", "written: out.onnx"]
    with pytest.raises(UserError, match="argument --format: invalid choice: 'tf'"):
        dispatch(["convert", "export", "run", "out", "--format", "tf"])
    for place, form, message in (
        ("run", "hf", "OUT=run exists and is not empty; choose another"),
        ("out", "onnx", "OUT=out is not allowed; name a new file ending in .onnx"),
        ("l.csv", "onnx", "OUT=l.csv exists; name a new file ending in .onnx"),
    ):
        with pytest.raises(UserError, match=message):
            dispatch(["convert", "export", "run", place, "--format", form])
    assert len(calls) == 1
