"""The tasks without updates, logistic regression and nearest neighbors on frozen features: data and results."""

import dataclasses
import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from mae_jax.config.fields import COMPUTED, RunConfig
from mae_jax.config.schedule import resolve
from mae_jax.data import labeled_sets, splits, subsets
from mae_jax.data.sources import Source
from mae_jax.evaluation import feature_files, probes
from mae_jax.evaluation.feature_cache import Features
from mae_jax.evaluation.feature_files import Joined
from mae_jax.evaluation.hand_made_features import Computed
from mae_jax.models import Params
from mae_jax.models.params import digest
from mae_jax.rundir import contents
from mae_jax.step import sharding
from mae_jax.step.eval_step import feature_step
from mae_jax.step.from_config import spec_of
from mae_jax.step.objectives.no_network import NoNetwork
from mae_jax.step.spec import StepSpec
from mae_jax.train import labeling
from mae_jax.train.finetune import describe_data, write_predictions_and_score
from mae_jax.train.task import Task, predictor
from mae_jax.weights import initial_weights

Of = Callable[[Source, Int[np.ndarray, " _"]], Float[np.ndarray, "n d"]]  # features of the images with these indices


def probe(
    config: RunConfig, mesh: Mesh, on_progress: labeled_sets.OnProgress | None, cache: splits.DataCache | None
) -> Task:
    """Builds a task that fits a classifier (`Traits.fit`) to features of the images, without training steps.

    Features are those of the frozen encoder, for images cropped as in evaluation, or are computed without a network, or
    are read from a file. All runs that share `cache` compute or read them only once. Raises UserError.
    """
    module, _, function = config.traits.fit.partition(":")
    fit = getattr(importlib.import_module(module), function)
    cache = cache or splits.DataCache()
    first = initial_weights.first_weights(config, cache) if config.has_network else None
    data = splits.labeled(config.data, on_progress, cache, select=labeling.selector(config, mesh, cache))
    classes, p = data.train.classes, config.probe
    resolved = dataclasses.replace(resolve(config, len(data.train_idx), mesh.size), steps=0, warmup_steps=0)
    spec = spec_of(config, resolved, mesh, len(classes))
    if first is None:
        spec = dataclasses.replace(spec, objective=NoNetwork())
        given = of_images(config, data, cache)
        features_of = partial(_without_network, given)
    else:
        features_of = partial(_of_encoder, config, spec, first, cache.features(Features))

    def finish(params: Params, step: int, workdir: Path) -> dict[str, Any]:
        features, origin = features_of(params)
        labels = data.train.labels
        train = features(data.train, data.train_idx), labels[data.train_idx], len(classes)
        if p.folds:
            groups = [data.train.groups[i] for i in data.train_idx]
            fold = subsets.folds(labels[data.train_idx], groups, p.folds, config.data.val_seed)
            validation: probes.Apart | probes.Folds = probes.Folds(fold)
        else:
            validation = probes.Apart(features(data.train, data.val_idx), labels[data.val_idx])
        candidates = (getattr(p, name) for name in config.traits.chooses)
        classifier, chosen = fit(*train, *candidates, validation)

        def predict(source: Source, indices: Int[np.ndarray, " _"]) -> Float[np.ndarray, "n classes"]:
            return classifier.probabilities(features(source, indices))

        results = write_predictions_and_score(data, predict, workdir)
        if jax.process_index() == 0:
            probes.save(workdir / contents.PROBE, classifier, origin(), train[0])
        return results | {"chosen": chosen}

    more = describe_data(config, data, cache)
    return Task(config, spec, resolved, evaluate=lambda params, step, workdir: iter(()), finish=finish, **more)


def of_images(config: RunConfig, data: splits.Labeled, cache: splits.DataCache) -> Computed | Joined:
    """The features of all images of a run without a network. Raises UserError if those in files do not fit.

    Runs that share `cache` read files, and compute features, once.
    """
    if config.init in COMPUTED:
        return Computed(config.init, config.data.threads, cache.features(Features))
    sources = [data.train, data.test, *data.external.values()]
    place, field = config.init_from, "init_from"
    file = cache.once(("features", place), lambda: feature_files.read(place, field))
    key = ("joined", place, *(source.fingerprint for source in sources))
    return cache.once(key, lambda: feature_files.joined(file, sources, field))


def _without_network(given: Computed | Joined, params: Params) -> tuple[Of, Callable[[], str]]:
    """A function that returns the features of images, and one that returns their digest."""
    return given.of, lambda: given.digest


def _of_encoder(
    config: RunConfig,
    spec: StepSpec,
    first: Callable[[StepSpec, Params], Params],
    cached: Features,
    params: Params,
) -> tuple[Of, Callable[[], str]]:
    """A function that computes features that are not `cached`, and one that returns the digest of the encoder."""
    # Loaded weights do not depend on the seed, and the head is not used.
    seed = config.seed if config.init == "scratch" else None
    encoder = (config.init, config.init_from, seed, spec.shape, spec.mean, spec.std)
    loaded: list[Params] = []  # the encoder, loaded only if a feature is not cached

    def encode(source: Source, indices: Int[np.ndarray, " _"]) -> Float[np.ndarray, "n d"]:
        if not loaded:
            loaded.append(first(spec, params))
            cached.digests[encoder] = digest(jax.tree.map(sharding.to_host, loaded[0]["encoder"]))
        return predictor(config, spec)(loaded[0], source, indices, step=feature_step)["features"]

    return lambda source, indices: cached.of(encoder, source, indices, encode), lambda: cached.digests[encoder]
