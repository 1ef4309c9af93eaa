"""Exports a finished run: as a bundle, an ONNX file, or a folder for other code. Command: `mae-jax convert export`."""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np

from mae_jax.config.fields import RunConfig
from mae_jax.evaluation.probes import Logistic
from mae_jax.predict import bundle, loading
from mae_jax.predict.model import Model
from mae_jax.rundir import contents, saved_runs
from mae_jax.runtime import files
from mae_jax.runtime.command import refuse_old_file
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.places import local
from mae_jax.step import sharding
from mae_jax.weights import export as folders
from mae_jax.weights import model_card, onnx_graph, own_run
from mae_jax.weights.reader import Weights


def export(run_dir: Path, out: Path, form: str) -> list[str]:
    """Writes the model of a finished run to the new folder or file `out`. Returns notes for the user.

    `form` is hf, timm, onnx or mae_jax. Raises UserError if the run is not finished, `out` exists or has the wrong
    extension, or the other code cannot compute the network.
    """
    run_dir, out = local(run_dir, "RUN_DIR"), local(out, "OUT")
    if form == "mae_jax":
        return export_bundle(run_dir, out)
    if form == "onnx":
        refuse_old_file(out, "OUT", ".onnx")
    weights, config = network_of(run_dir)
    if weights.shape.family != "vit":
        raise UserError(
            f"RUN_DIR={run_dir} holds a network of model.family={weights.shape.family}, which is written as a bundle "
            f"alone; use --format mae_jax"
        )
    if form == "onnx":
        return _export_onnx(run_dir, weights, config, out)
    return folders.write_folder(run_dir, weights, config, out, form)


def network_of(run_dir: Path) -> tuple[Weights, RunConfig]:
    """The network of a finished run, with a linear probe as its head, and the run's config.

    Batch norm and the standardization of features are folded into the head. Raises UserError if the run is not
    finished, or is a nearest-neighbor classifier, which has no head.
    """
    config = saved_runs.config_of(run_dir, "RUN_DIR")
    if config.traits.updates:
        return own_run.load(run_dir)
    model = loading.of_run(run_dir, "RUN_DIR")
    if not isinstance(model.probe, Logistic):
        raise UserError(
            f"RUN_DIR={run_dir} classifies by nearest neighbors, which other code does not compute; use --format "
            "mae_jax, or a logistic regression (task lbfgs)"
        )
    kernel, bias = (values.astype(np.float32) for values in model.probe.folded())
    weights = _probed(model, config)
    return dataclasses.replace(weights, params=weights.params | {"head": {"kernel": kernel, "bias": bias}}), config


def _probed(model: Model, config: RunConfig) -> Weights:
    """The network that a probe was fitted on; the head has random weights."""
    scale = tuple(config.data.mean), tuple(config.data.std)
    return Weights(model.params, model.spec.shape, "vit", model.origin, *scale, model.classes)


def export_bundle(run_dir: Path, out: Path) -> list[str]:
    """Writes the model of a finished run to the new folder `out`. Returns notes for the user.

    A probe's bundle includes the encoder. Raises UserError if the run is not finished or `out` exists.
    """
    config = saved_runs.config_of(run_dir, "RUN_DIR")
    probe = None
    if not config.traits.updates:
        model = loading.of_run(run_dir, "RUN_DIR")
        probe = run_dir / contents.PROBE
        weights = _probed(model, config)
    else:
        weights, config = own_run.load(run_dir, fold=False)
    about, notes = _about(run_dir, weights, config)
    about["initial_weights"] = model_card.initial_weights(config)
    partial = folders.new_folder(out)
    try:
        card = folders.card_of(run_dir, weights, config, "mae_jax", notes)
        bundle.write(partial, jax.tree.map(sharding.to_host, weights.params), config, about, probe, card)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    folders.put_in_place(partial, out)
    return notes


def _about(run_dir: Path, weights: Weights, config: RunConfig) -> tuple[dict, list[str]]:
    """Task, classes, temperature and name of a run, and a note if the temperature is not known."""
    temperature = loading.temperature_of(run_dir, weights.classes)
    unknown = "the temperature is not known, so probabilities are not calibrated"
    about = {
        "task": config.task,
        "classes": list(weights.classes),
        "temperature": temperature,
        "run": run_dir.resolve().name,
    }
    return about, [] if temperature or weights.kind == "mae" else [unknown]


def _export_onnx(run_dir: Path, weights: Weights, config: RunConfig, out: Path) -> list[str]:
    """Writes one .onnx file with labels, preprocessing and temperature in its metadata. Returns notes for the user.

    Raises UserError if `out` cannot be written, or the package onnx is missing.
    """
    about, notes = _about(run_dir, weights, config)
    devices = str(contents.read_object(run_dir / contents.RUN).get("devices", ""))
    if config.model.dtype == "bfloat16" or (config.model.dtype == "auto" and "cpu" not in devices):
        notes.append(
            f"the ONNX file computes in float32, and the run on {devices} may have computed in bfloat16; probabilities "
            "may differ slightly from predictions.csv"
        )
    if weights.kind == "mae":
        notes.append("only the encoder is written; the file computes embeddings")
    about["preprocessing"] = bundle.preprocessing(weights.shape.image_size, weights.mean, weights.std) | {
        "scale": "divide by 255; the network itself subtracts mean and divides by std",
        "layout": "RGB, float32, (batch, channel, row, column)",
    }
    card = folders.card_of(run_dir, weights, config, "onnx", notes)
    model = onnx_graph.build(weights, about, card, about["temperature"])
    try:
        files.write(out, model.SerializeToString())
    except OSError as error:
        raise UserError(f"OUT={out} cannot be written: {error.strerror}; choose another") from None
    return notes
