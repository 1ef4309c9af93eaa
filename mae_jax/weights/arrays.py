"""Arrays out of files of weights, without running anything that stands in them.

safetensors hold arrays and nothing else. `.pth` files are pickles, which can run code when they are opened:
PyTorch's weights-only reader, which builds arrays and plain values alone, opens them, or nothing does.
"""

import argparse
import json
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.config.fields import WEIGHTS
from mae_jax.runtime.errors import UserError

DIMENSIONS = 8  # of an array; NumPy makes none of more than 64
PICKLES = set(WEIGHTS) - {".safetensors", ".npz"}
_WRAPPERS = ("model", "state_dict", "module")  # what training scripts keep the weights under
MOST_BYTES = 2**35  # of a file; the largest plain ViTs have a quarter of that
EXPANSION = 20  # times its size is what a packed file may unpack to, or 256 MB
_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def read_arrays(path: Path, field: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All arrays of a file, or of a folder's files, by key, and what its config.json says ({} without one).

    Raises UserError that names `field` and the file.
    """
    if not path.exists():
        raise UserError(f"{field}={path} does not exist; name a file or folder of weights, or a run directory")
    arrays: dict[str, np.ndarray] = {}
    for file in _files_of(path, field):
        _refuse_bomb(file, field)
        arrays |= _READERS[".pth" if file.suffix in PICKLES else file.suffix](file, field)
    if not arrays:
        raise UserError(f"{field}: {path} holds no arrays")
    return arrays, read_config(path, field)


def read_config(path: Path, field: str, name: str = "config.json") -> dict[str, Any]:
    """The config.json of a folder, or of the folder around a file; {} without one."""
    file = (path if path.is_dir() else path.parent) / name
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{field}: {file} is not valid JSON ({error}); fetch it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{field}: {file} holds no JSON object, but a {type(found).__name__}; fetch it again")
    return found


def _files_of(path: Path, field: str) -> list[Path]:
    if path.is_file():
        if path.suffix not in WEIGHTS:
            raise UserError(f"{field}={path}: {path.suffix or 'no ending'} is not read; use {', '.join(WEIGHTS)}")
        return [path]
    if not path.is_dir():
        raise UserError(f"{field}={path} is neither a file nor a folder; name a file or folder of weights")
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        shards = read_config(path, field, index).get("weight_map", {})
        names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
        for name in names:
            if Path(name).name != name or Path(name).suffix not in WEIGHTS:
                raise UserError(f"{field}: {path / index} names {name!r}, which is no file of its folder")
            if not (path / name).is_file():
                raise UserError(f"{field}: {path / name} is missing, though {index} names it; fetch it again")
        if names:
            return [path / name for name in names]
    for name in ("model.safetensors", "pytorch_model.bin", "weights.npz"):
        if (path / name).is_file():
            return [path / name]
    found = sorted(p for p in path.iterdir() if p.suffix in WEIGHTS)
    if len(found) != 1:
        several = f"several of them ({', '.join(p.name for p in found[:5])})" if found else "none"
        raise UserError(f"{field}={path} should hold one file of weights and has {several}; name the file itself")
    return found


def _safetensors(file: Path, field: str) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, deserialize

    try:
        parts = deserialize(file.read_bytes())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{field}: {file} cannot be read as safetensors ({error}); fetch it again") from None
    many = [name for name, part in parts if len(part["shape"]) > DIMENSIONS]
    if many:
        raise UserError(f"{field}: {file}: {many[0]!r} has more than {DIMENSIONS} dimensions; no weights have so many")
    arrays = {}
    for key, part in parts:
        if part["dtype"] not in _TYPES:
            raise UserError(f"{field}: {file}: {key} is of type {part['dtype']}, which is not read; save it as float32")
        array = np.frombuffer(part["data"], _TYPES[part["dtype"]]).reshape(part["shape"])
        if part["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        arrays[key] = array
    return arrays


def _pickle(file: Path, field: str) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{field}: {file} is a PyTorch file, which needs PyTorch to be read safely; install "
            f"'mae_jax[peers]', or convert it where PyTorch is: mae-jax convert import {file} OUT"
        ) from None
    try:
        # Training scripts keep their arguments beside the weights; a namespace holds values and does nothing.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with a file is said below
            found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(
            f"{field}: {file} is refused: it holds more than arrays and plain values"
            f"{f' ({what[1]})' if what else ''}, and opening that could run code. If you trust it, save its "
            f"state_dict alone, as safetensors"
        ) from None
    except Exception as error:  # torch raises many kinds for a damaged file
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if "TorchScript" in line:
            raise UserError(f"{field}: {file} is a TorchScript program; save its state_dict alone") from None
        raise UserError(f"{field}: {file} cannot be read by PyTorch ({line}); fetch it again") from None
    for _ in range(2):
        inner = [found[name] for name in _WRAPPERS if isinstance(found, dict) and isinstance(found.get(name), dict)]
        found = inner[0] if inner else found
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        kinds = sorted({f"{k}: {type(v).__name__}" for k, v in found.items()})[:5] if isinstance(found, dict) else []
        raise UserError(
            f"{field}: {file} holds no dictionary of arrays, nor one under {', '.join(_WRAPPERS)} "
            f"({', '.join(kinds) or type(found).__name__}); save the model's state_dict"
        )
    arrays = {}
    plain = [value for value in found.values() if value.layout == torch.strided and not value.is_meta]
    _refuse_expansion(file, field, sum(value.numel() * value.element_size() for value in plain))
    for key, value in found.items():
        try:
            arrays[str(key)] = _to_numpy(value)
        except Exception as error:  # sparse, quantised, without memory of its own ...
            line = str(error).partition(".")[0][:200]
            raise UserError(f"{field}: {file}: {key} is no plain array ({line}); save it dense, as float32") from None
    return arrays


def _refuse_bomb(file: Path, field: str) -> None:
    """Refuses what is far too large for a ViT, packed or not; .npz, and .pth since PyTorch 1.6, are zip archives."""
    if not file.is_file() or file.stat().st_size > MOST_BYTES:
        raise UserError(f"{field}: {file} is refused: no regular file, or one of more than {MOST_BYTES / 1e9:.0f} GB")
    if zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as archive:
                size = sum(part.file_size for part in archive.infolist())
        except (zipfile.BadZipFile, NotImplementedError):
            return  # its reader says what is wrong
        _refuse_expansion(file, field, size)


def _refuse_expansion(file: Path, field: str, size: int) -> None:
    """`size`: bytes that the file unpacks to, as a zip archive or as tensors that repeat a few values (`expand`)."""
    if size > max(EXPANSION * file.stat().st_size, 2**28):
        raise UserError(
            f"{field}: {file} is refused: {file.stat().st_size / 1e6:.1f} MB that unpack to {size / 1e9:.1f} GB; "
            f"weights hardly shrink when they are packed"
        )


def _to_numpy(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _npz(file: Path, field: str) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as found:
            return {key: found[key] for key in found.files}
    except Exception as error:  # zipfile, zlib and NumPy each raise their own
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if "pickle" in line:
            line = "it holds Python objects, and opening those could run code"
        raise UserError(f"{field}: {file} is refused: {line}; save plain arrays") from None


_READERS = {".safetensors": _safetensors, ".pth": _pickle, ".npz": _npz}
