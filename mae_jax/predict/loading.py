"""Loads a run directory, a bundle, or weights of other code as a `Model`."""

import dataclasses
import os
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from mae_jax.config.fields import RunConfig, changed, defaults
from mae_jax.config.validation import validate
from mae_jax.data.splits import DataCache
from mae_jax.evaluation import probes
from mae_jax.models import Params, vit
from mae_jax.models.params import digest
from mae_jax.predict import bundle, kinds
from mae_jax.predict.model import Model
from mae_jax.report import stats
from mae_jax.rundir import contents, saved_runs
from mae_jax.rundir.predictions import read_predictions
from mae_jax.runtime import machine
from mae_jax.runtime.disk import exists, is_file
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.places import local
from mae_jax.step import from_config, sharding
from mae_jax.step.objectives.classification import Classification
from mae_jax.step.optimizer import Optimizer
from mae_jax.step.spec import StepSpec
from mae_jax.step.state import init_state
from mae_jax.weights import initial_weights, own_run, reader


def load(path: str | os.PathLike, field: str = "load", cache: DataCache | None = None) -> Model:
    """Loads the model of a finished run, of a bundle, or of weights that `weights.read` opens.

    A run's model is the one that made its predictions.csv. Pre-training runs and encoders of other code have only
    `embed`; classifiers of other code also predict. Models loaded with one `cache` print once which encoder they share.
    Raises UserError that names `field` if there is no model, or `path` is a study with several runs.
    """
    place = local(path, field)
    kind = kinds.kind_of_model(place, field)
    if kind == kinds.RUN:
        return of_run(place, field, cache)
    return of_bundle(place, field) if kind == kinds.BUNDLE else of_weights(place, field)


def of_run(run_dir: Path, field: str = "RUN_DIR", cache: DataCache | None = None) -> Model:
    """The model of a finished run. Raises UserError that names `field` if it is not finished or incomplete."""
    config = saved_runs.config_of(run_dir, field)
    if not config.traits.updates:
        return _of_probe(run_dir, config, field, cache)
    weights, config = own_run.load(run_dir, field, fold=False)
    spec = spec_of(config, weights.shape)
    params = weights.params
    if not config.traits.labeled:
        spec, params = _encoder(spec, params)
    return Model(
        origin=str(run_dir),
        task=config.task,
        spec=spec,
        params=params,
        classes=weights.classes,
        temperature=temperature_of(run_dir, weights.classes),
        batch_size=config.eval.batch_size,
        threads=config.data.threads,
    )


def _of_probe(run_dir: Path, config: RunConfig, field: str, cache: DataCache | None) -> Model:
    """The classifier saved in a probe's run directory, on the encoder the probe started from."""
    saved_runs.refuse_unfinished(run_dir, field)
    if not config.has_network:
        raise UserError(
            f"{field}={run_dir} classifies {config.features_in_words}, and has no network that computes features of "
            f"other images; its results are in {contents.PREDICTIONS} and in reports"
        )
    classes = own_run.class_names(run_dir, contents.read_object(run_dir / contents.RUN), field)
    head, expected = probes.load(run_dir / contents.PROBE, field, len(classes))
    advice = ", or load a bundle of this run (mae-jax convert export --format mae_jax), which includes the encoder"
    config, spec, params = _before_training(run_dir, config, len(classes), field, advice, cache)
    if digest(jax.tree.map(sharding.to_host, params["encoder"])) != expected:
        raise UserError(
            f"{field}={run_dir}: the probe was not fitted on the encoder that is now in "
            f"{config.init_from or 'this version of mae_jax'}; restore the original, or delete "
            f"{run_dir / contents.RESULTS} and rerun the run's command to fit the probe again"
        )
    return Model(
        origin=str(run_dir),
        task=config.task,
        spec=spec,
        params=params,
        classes=classes,
        temperature=temperature_of(run_dir, classes),
        probe=head,
        batch_size=config.eval.batch_size,
        threads=config.data.threads,
    )


def frozen(run_dir: Path, field: str = "RUN_DIR") -> tuple[Model, str]:
    """The encoder that a classifier's run started from, before any training with labels, and the digest of its weights.

    Raises UserError that names `field` if the run has no network, or its encoder is missing.
    """
    config = saved_runs.config_of(run_dir, field)
    if not config.has_network:
        raise UserError(f"{field}={run_dir} classifies {config.features_in_words}, and has no network")
    classes = own_run.class_names(run_dir, contents.read_object(run_dir / contents.RUN), field)
    config, spec, params = _before_training(run_dir, config, len(classes), field)
    model = Model(
        origin=str(run_dir), task=config.task, spec=spec, params=params, batch_size=config.eval.batch_size,
        threads=config.data.threads,
    )  # fmt: skip
    key = digest(jax.tree.map(sharding.to_host, params["encoder"]))
    return model, f"{key} {spec.shape.pool} {spec.mean} {spec.std}"


def _before_training(
    run_dir: Path, config: RunConfig, n_classes: int, field: str, advice: str = "", cache: DataCache | None = None
) -> tuple[RunConfig, StepSpec, Params]:
    """The initial weights of a classifier's run, and its config with the place where they are now.

    Raises UserError that names `field` and ends with `advice` if they are missing.
    """
    here = contents.read_config(run_dir / contents.CONFIG).get("init_from_here")
    if config.init_from and here and exists(run_dir / here):
        config = changed(config, {"init_from": os.path.normpath(run_dir / here)})
    if config.init_from and not exists(Path(config.init_from)):
        what = "began with" if config.traits.updates else "is a probe of"
        raise UserError(
            f"{field}={run_dir} {what} the encoder in {config.init_from}, which is missing; restore it{advice}"
        )
    spec = spec_of(config, from_config.shape_of(config, n_classes))
    return config, spec, initial_weights.first_weights(config, cache)(spec, init_state(spec, config.seed).params)


def of_weights(path: Path, field: str) -> Model:
    """An encoder or classifier of other code. Raises UserError that names `field`."""
    weights = reader.read(path, field)
    shape = dataclasses.replace(weights.shape, dtype=machine.precision("auto"))
    config = changed(validate(defaults("finetune")), {"data.mean": weights.mean, "data.std": weights.std})
    classifier = weights.kind == "vit" and "head" in weights.params
    names = weights.classes or tuple(f"class {i}" for i in range(shape.n_classes))
    spec = spec_of(config, shape)
    params = weights.params
    if not classifier:
        spec, params = _encoder(spec, params)
    return Model(
        str(path), "", spec, _placed(params, spec.mesh), names if classifier else (), notes=weights.notes,
        batch_size=config.eval.batch_size,
    )  # fmt: skip


def of_bundle(folder: Path, field: str) -> Model:
    """The model of a bundle (see `bundle.write`). Raises UserError that names `field`."""
    saved = bundle.read(folder, field)
    config = saved.config
    spec = spec_of(config, saved.shape)
    params = saved.params
    if not config.traits.labeled:
        spec, params = _encoder(spec, params)
    return Model(
        origin=str(folder),
        task=config.task,
        spec=spec,
        params=_placed(params, spec.mesh),
        classes=saved.classes,
        temperature=saved.temperature,
        probe=saved.probe,
        batch_size=config.eval.batch_size,
        threads=config.data.threads,
    )


def temperature_of(run_dir: Path, classes: tuple[str, ...]) -> float | None:
    """The temperature fitted on a run's validation predictions; None if there are none.

    Raises UserError if their file is damaged.
    """
    path = run_dir / contents.VALIDATION
    if not classes or not is_file(path):
        return None
    predictions, _ = read_predictions(path, classes)
    if predictions.probabilities is None:
        return None
    return stats.fit_temperature(predictions.probabilities, predictions.labels)


def spec_of(config: RunConfig, shape: vit.ViTConfig) -> StepSpec:
    """The `StepSpec` of evaluation steps: the network and the normalization of images. Training fields are not used."""
    return StepSpec(
        objective=Classification(),
        shape=shape,
        optimizer=Optimizer(0.9, 0.999, 0.0, "", 0.0, 1.0),
        mean=config.data.mean,
        std=config.data.std,
        batch_size=config.eval.batch_size,
        accumulation=1,
        mesh=sharding.make_mesh(1),
    )


def _encoder(spec: StepSpec, params: Params) -> tuple[StepSpec, Params]:
    """Wraps an encoder as a classifier with an unused head, because the evaluation steps need a classifier."""
    pool = "cls" if "norm" in params["encoder"] else "mean"
    shape = dataclasses.replace(
        spec.shape, n_classes=1, pool=pool, batch_norm=False, decoder_width=0, decoder_depth=0, decoder_heads=0
    )
    head = {"kernel": np.zeros((shape.width, 1), np.float32), "bias": np.zeros(1, np.float32)}
    kept = {name: params[name] for name in ("encoder", "fc_norm") if name in params}
    return dataclasses.replace(spec, shape=shape), kept | {"head": head}


def _placed(params: Params, mesh: Mesh) -> Params:
    """The parameters, replicated on every device."""
    return jax.device_put(params, sharding.replicated(mesh))
