"""Reads arrays from weight files without running code that the files may contain.

safetensors files hold only arrays. `.pth` files are pickles, which can run code when they are opened. They are opened
only with PyTorch's weights-only reader, which builds nothing but arrays and plain values.
"""

import argparse
import errno
import json
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.config.fields import WEIGHTS
from mae_jax.runtime.disk import entries, exists, is_dir, is_file, read_bytes, read_text
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.files import load_arrays
from mae_jax.runtime.places import hub_advice

DIMENSIONS = 8  # maximum per array; NumPy allows at most 64
PICKLES = set(WEIGHTS) - {".safetensors", ".npz"}
# Parts of training checkpoints that hold no network.
_NO_NETWORK = re.compile(
    r".*(optim|sched|scaler|callback|loop|hyper_?param|args|config|loss|rng|sampler).*", re.IGNORECASE
)
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_DEEPEST = 6  # dictionaries within each other in a training checkpoint
MOST_BYTES = 2**35  # maximum size of a file; the largest plain ViTs need a quarter of it
EXPANSION = 20  # a packed file may unpack to this many times its size, or to 256 MB
_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def read_arrays(path: Path, field: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All arrays of a weight file or folder, by key, and the contents of its config.json ({} if there is none).

    Raises UserError that names `field` and the file if something is missing, damaged or not safe to open, and OSError
    if the storage fails.
    """
    arrays: dict[str, np.ndarray] = {}
    for file in files_of(path, field):
        _refuse_bomb(file, field)
        arrays |= _READERS[".pth" if file.suffix in PICKLES else file.suffix](file, field)
    if not arrays:
        raise UserError(f"{field}: {path} holds no arrays; name a file or folder of weights")
    return arrays, read_config(path, field)


def read_config(path: Path, field: str, name: str = "config.json") -> dict[str, Any]:
    """The JSON object in `name` in a folder, or in the folder of a file; {} if there is none.

    Raises UserError that names `field` if it is not a JSON object.
    """
    file = (path if is_dir(path) else path.parent) / name
    if not is_file(file):
        return {}
    try:
        saved = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{field}: {file} is not valid JSON ({error}); download it again") from None
    if not isinstance(saved, dict):
        raise UserError(f"{field}: {file} holds a {type(saved).__name__} instead of a JSON object; download it again")
    return saved


def holds_weights(folder: Path) -> bool:
    """True if a file in the folder is one of weights by its name, or lists some."""
    return any(path.suffix in WEIGHTS or path.name in _INDEXES for path in entries(folder))


def files_of(path: Path, field: str) -> list[Path]:
    """The weight files of `path`, a file or a folder. Opens none of them, only an index that lists them.

    Raises UserError that names `field` if there are none, or several that no index lists.
    """
    if not exists(path):
        advice = hub_advice(path) or "name a file or folder of weights, or a run directory"
        raise UserError(f"{field}={path} does not exist; {advice}")
    if is_file(path):
        if path.suffix not in WEIGHTS:
            ending = f"files ending in {path.suffix}" if path.suffix else "files without an extension"
            raise UserError(f"{field}={path}: {ending} are not supported; use {', '.join(WEIGHTS)}")
        return [path]
    if not is_dir(path):
        raise UserError(f"{field}={path} is neither a file nor a folder; name a file or folder of weights")
    for index in _INDEXES:
        shards = read_config(path, field, index).get("weight_map", {})
        names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
        for name in names:
            if Path(name).name != name or Path(name).suffix not in WEIGHTS:
                raise UserError(
                    f"{field}: {path / index} names {name!r}, which is not a weight file in its folder; download it "
                    "again"
                )
            if not is_file(path / name):
                raise UserError(f"{field}: {path / name} is missing, though {index} names it; download it")
        if names:
            return [path / name for name in names]
    for name in ("model.safetensors", "pytorch_model.bin", "weights.npz"):
        if is_file(path / name):
            return [path / name]
    files = sorted(p for p in entries(path) if p.suffix in WEIGHTS and (p.suffix != ".tar" or ".pt" in p.stem))
    if not files:
        raise UserError(f"{field}={path} has no file of weights ({', '.join(WEIGHTS)}); choose another path")
    if len(files) > 1:
        several = f"{len(files)} of them ({', '.join(p.name for p in files[:5])})"
        raise UserError(f"{field}={path} should hold one weight file and has {several}; name the file itself")
    return files


def _safetensors(file: Path, field: str) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, deserialize

    try:
        parts = deserialize(read_bytes(file))
    except SafetensorError as error:
        raise UserError(f"{field}: {file} cannot be read as safetensors ({error}); download it again") from None
    too_deep = [name for name, part in parts if len(part["shape"]) > DIMENSIONS]
    if too_deep:
        raise UserError(
            f"{field}: {file}: {too_deep[0]!r} has more than {DIMENSIONS} dimensions, so the file is damaged or holds "
            "something else; download it again"
        )
    arrays = {}
    for key, part in parts:
        if part["dtype"] not in _TYPES:
            raise UserError(f"{field}: {file}: {key} has the unsupported type {part['dtype']}; save it as float32")
        try:
            array = np.frombuffer(part["data"], _TYPES[part["dtype"]]).reshape(part["shape"])
        except (ValueError, OverflowError) as error:  # an axis of 0 hides that the product of the others overflows
            raise UserError(
                f"{field}: {file}: {key!r} cannot have the shape {part['shape']} ({error}); download it again"
            ) from None
        if part["dtype"] == "BF16":
            array = np.asarray(array.astype(np.uint32) << 16).view(np.float32)  # without an axis, << gives a scalar
        arrays[key] = array
    return arrays


def _pickle(file: Path, field: str) -> dict[str, np.ndarray]:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"{field}: {file} is a PyTorch file, which needs PyTorch to be read safely; install 'mae_jax[peers]', or "
            f"convert it on a machine that has PyTorch: mae-jax convert import {file} OUT"
        ) from None
    try:
        # Training scripts store their arguments and scores next to the weights; these types are safe to load.
        with torch.serialization.safe_globals([argparse.Namespace, *_scalars()]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the checks below report what is wrong
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(
            f"{field}: {file} is refused: it holds more than arrays and plain values"
            f"{f' ({what[1]})' if what else ''}, and opening it could run code. If you trust it, save only its "
            f"state_dict, as safetensors"
        ) from None
    except Exception as error:  # torch raises many types for a damaged file
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if "TorchScript" in line:
            raise UserError(f"{field}: {file} is a TorchScript program; save only its state_dict") from None
        raise UserError(f"{field}: {file} cannot be read by PyTorch ({line}); download it again") from None
    tensors = _tensors(loaded, torch.Tensor, f"{field}: {file}") if isinstance(loaded, dict) else {}
    if not tensors:
        kinds = sorted({f"{k}: {type(v).__name__}" for k, v in loaded.items()})[:5] if isinstance(loaded, dict) else []
        raise UserError(
            f"{field}: {file} holds no dictionary of arrays ({', '.join(kinds) or type(loaded).__name__}); save the "
            f"model's state_dict"
        )
    arrays = {}
    dense = [value for value in tensors.values() if value.layout == torch.strided and not value.is_meta]
    _refuse_expansion(file, field, sum(value.numel() * value.element_size() for value in dense))
    for key, value in tensors.items():
        try:
            arrays[key] = _to_numpy(value)
        except Exception as error:  # sparse, quantized, without storage ...
            line = str(error).partition(".")[0][:200]
            raise UserError(
                f"{field}: {file}: {key} is not a dense array ({line}); save it dense, as float32"
            ) from None
    return arrays


def _scalars() -> list[Any]:
    """NumPy's scalars, as PyTorch's reader must know them: the function that builds them, and their types."""
    from numpy._core.multiarray import scalar

    kinds = (np.float64, np.float32, np.float16, np.int64, np.int32, np.bool_)
    return [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, *(type(np.dtype(kind)) for kind in kinds)]


def _tensors(loaded: dict[Any, Any], tensor: type, where: str) -> dict[str, Any]:
    """All tensors in dictionaries within each other, by their keys joined with ".".

    Optimizer states and other parts that hold no network are left out. Raises UserError if two have the same key.
    """
    tensors: dict[str, Any] = {}

    def walk(part: dict[Any, Any], above: str, depth: int) -> None:
        for key, value in part.items():
            if isinstance(value, tensor):
                if tensors.setdefault(f"{above}{key}", value) is not value:
                    raise UserError(f"{where} holds two arrays of the name {above}{key}; save only one of them")
            elif isinstance(value, dict) and depth < _DEEPEST and not _NO_NETWORK.fullmatch(str(key)):
                walk(value, f"{above}{key}.", depth + 1)

    walk(loaded, "", 1)
    return tensors


def _refuse_bomb(file: Path, field: str) -> None:
    """Refuses files far too large for a ViT, packed or unpacked.

    .npz files, and .pth files since PyTorch 1.6, are zip archives.
    """
    if not is_file(file) or file.stat().st_size > MOST_BYTES:
        raise UserError(
            f"{field}: {file} is refused: it is not a regular file, or is larger than {MOST_BYTES / 1e9:.0f} GB"
        )
    if zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as archive:
                size = sum(part.file_size for part in archive.infolist())
        except (zipfile.BadZipFile, NotImplementedError):
            return  # the file's reader reports what is wrong
        _refuse_expansion(file, field, size)


def _refuse_expansion(file: Path, field: str, size: int) -> None:
    """Refuses a file that unpacks to far more than its size.

    `size` is in bytes. Zip archives and tensors that repeat a few values (`expand`) can unpack to any size.
    """
    if size > max(EXPANSION * file.stat().st_size, 2**28):
        raise UserError(
            f"{field}: {file} is refused: its {file.stat().st_size / 1e6:.1f} MB unpack to {size / 1e9:.1f} GB, but "
            f"real weights hardly compress; download it again"
        )


def _to_numpy(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _npz(file: Path, field: str) -> dict[str, np.ndarray]:
    try:
        arrays = load_arrays(file)
    except (ValueError, MemoryError) as error:  # a damaged shape may need any memory
        line = str(error)[:200]
        if "pickle" in line:
            line = "it holds Python objects, and opening them could run code"
        raise UserError(f"{field}: {file} is refused: {line}; save plain arrays") from None
    for key, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise UserError(
                f"{field}: {file}: {key!r} is not an array of numbers (type {array.dtype}); save plain arrays"
            )
    return arrays


_READERS = {".safetensors": _safetensors, ".pth": _pickle, ".npz": _npz}
