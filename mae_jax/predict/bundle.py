"""A bundle: one folder with everything needed to use a model on another machine.

    model.safetensors   the parameters, by path; for a probe also the encoder's
    config.json         the run's config, classes, temperature and origin
    probe.npz           the fitted classifier (logistic regression and nearest neighbors only)
    README.md           the model card

Bundles are read without pickle, so an untrusted bundle cannot run code. `init=PATH` also accepts one as weights.
"""

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mae_jax.config.fields import RunConfig
from mae_jax.config.loading import as_json
from mae_jax.config.tasks import TASKS
from mae_jax.evaluation import probes
from mae_jax.models import Params
from mae_jax.models.params import digest, map_paths
from mae_jax.models.vit import ViTConfig
from mae_jax.rundir import contents
from mae_jax.runtime import files
from mae_jax.runtime.errors import UserError
from mae_jax.step import from_config
from mae_jax.weights.own_run import transferable

FORMAT, KEY, ARRAYS = 1, contents.BUNDLE, "model.safetensors"


@dataclasses.dataclass(frozen=True)
class Bundle:
    """Contents of a bundle."""

    config: RunConfig
    shape: ViTConfig
    params: Params
    classes: tuple[str, ...]
    temperature: float | None
    probe: probes.Logistic | probes.Neighbours | None


def write(
    folder: Path, params: Params, config: RunConfig, about: dict[str, Any], probe: Path | None, card: str
) -> None:
    """Writes a bundle into the existing, empty `folder`.

    `about` holds classes, temperature (None if unknown) and further information for config.json. `probe` is the run's
    probe.npz. Raises UserError if the arrays cannot be written, and OSError for the other files.
    """
    arrays: dict[str, np.ndarray] = {}
    map_paths(lambda path, leaf: arrays.setdefault(path, np.ascontiguousarray(leaf)), params)
    try:
        save_file(arrays, folder / ARRAYS)
    except SafetensorError as error:
        free = shutil.disk_usage(folder).free
        raise UserError(
            f"{folder / ARRAYS} cannot be written: {error} ({free} bytes free on its disk); make room"
        ) from None
    if probe is not None:
        shutil.copyfile(probe, folder / contents.PROBE)
    shape = from_config.shape_of(config, len(about["classes"]))
    network = {name: getattr(shape, name) for name in ("image_size", "norm_eps", "heads")}
    network |= {"decoder_heads": shape.decoder_heads} if config.traits.decoder else {}
    network |= {name: list(getattr(config.data, name)) for name in ("mean", "std")} | {"classes": about["classes"]}
    prepared = preprocessing(shape.image_size, config.data.mean, config.data.std)
    saved = {KEY: FORMAT, **about, "preprocessing": prepared, "mae_jax": network, "config": _shared(config)}
    contents.write_json(folder / contents.CONFIG, saved)
    files.write(folder / "README.md", card)


def preprocessing(image_size: int, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """How images are prepared for the network, in words and numbers."""
    return {
        "image_size": image_size,
        "resize": "the shorter side to image_size, bicubic (Pillow)",
        "crop": "the centered square",
        "scale": "divide by 255, subtract mean, divide by std",
        "mean": list(mean),
        "std": list(std),
    }


def _shared(config: RunConfig) -> dict[str, Any]:
    """The config with paths of this machine shortened to their last part."""
    saved = as_json(config)
    data = saved["data"]
    for place in (data, saved):
        for name in ("dir", "labels", "prepared_dir", "init_from"):
            if place.get(name):
                place[name] = ",".join(os.path.basename(part.rstrip("/")) for part in place[name].split(","))
    data["external"] = ""
    return saved


def read(folder: Path, field: str) -> Bundle:
    """Reads a bundle. Raises UserError that names `field` if a file is missing, damaged or does not fit the others."""
    path = folder / contents.CONFIG
    saved = contents.peek_object(folder / contents.CONFIG)
    if saved.get(KEY) != FORMAT:
        raise UserError(
            f"{field}: {path}: {KEY} is {saved.get(KEY)!r}; this version of mae_jax reads {FORMAT}: update mae_jax"
        )
    config = _config(path, saved, field)
    classes = saved.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{field}: {path}: classes is {classes!r}; it should be a list of names")
    temperature = saved.get("temperature")
    if temperature is not None and (type(temperature) not in (int, float) or not 0 < temperature < float("inf")):
        raise UserError(f"{field}: {path}: temperature is {temperature!r}; it should be a number above 0, or null")
    shape = from_config.shape_of(config, len(classes))
    like = from_config.parameter_shapes(config, shape)
    params = _params(folder / ARRAYS, like if config.traits.labeled else transferable(like), field)
    probe = None
    if not config.traits.updates:
        probe, expected = probes.load(folder / contents.PROBE, field, len(classes))
        if digest(params["encoder"]) != expected:
            raise UserError(
                f"{field}: {folder / contents.PROBE} was not fitted on the encoder in {ARRAYS}; export the run again"
            )
    return Bundle(config, shape, params, tuple(classes), temperature, probe)


def _config(path: Path, saved: dict[str, Any], field: str) -> RunConfig:
    config = saved.get("config")
    if not isinstance(config, dict) or config.get("task") not in tuple(TASKS):
        raise UserError(f"{field}: {path} contains no config of a run; export the run again")
    return contents.run_config(saved, f"{field}: {path}: ")


def _params(path: Path, like: Params, field: str) -> Params:
    try:
        arrays = load_file(path)
    except (FileNotFoundError, SafetensorError, ValueError) as error:
        raise UserError(f"{field}: {path} cannot be read ({error}); restore it or export the run again") from None
    expected: dict[str, tuple[int, ...]] = {}
    map_paths(lambda name, leaf: expected.setdefault(name, leaf.shape), like)
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != expected:
        wrong = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
        listed = ", ".join(f"{name} {shapes.get(name, 'missing')}" for name in wrong[:4])
        raise UserError(f"{field}: {path} does not fit the config next to it: {listed}; export the run again")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise UserError(f"{field}: {path} contains numbers that are not finite; export the run again")
    return map_paths(lambda name, leaf: arrays[name], like)
