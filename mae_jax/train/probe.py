"""The tasks without updates, logistic regression and nearest neighbors on a frozen encoder: data and results."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from mae_jax.config.fields import RunConfig
from mae_jax.config.schedule import resolve
from mae_jax.data import labelled_sets, splits, subsets
from mae_jax.data.sources import Source
from mae_jax.evaluation import probes
from mae_jax.evaluation.feature_cache import Features
from mae_jax.models import Params
from mae_jax.models.params import digest
from mae_jax.rundir import contents
from mae_jax.step import sharding
from mae_jax.step.eval_step import feature_step
from mae_jax.step.from_config import spec_of
from mae_jax.train.finetune import describe_data, write_predictions_and_score
from mae_jax.train.task import Task, predictor
from mae_jax.weights import initial_weights


def probe(
    config: RunConfig, mesh: Mesh, on_progress: labelled_sets.OnProgress | None, cache: splits.DataCache | None
) -> Task:
    """Builds a task that fits a classifier (`Traits.fit`) to features of the frozen encoder, without training steps.

    Images are cropped as in evaluation. All runs that share `cache` compute the features of an encoder and image only
    once. Raises UserError.
    """
    module, _, function = config.traits.fit.partition(":")
    fit = getattr(importlib.import_module(module), function)
    first = initial_weights.first_weights(config)
    data = splits.labelled(config.data, on_progress, cache)
    classes, p = data.train.classes, config.probe
    resolved = dataclasses.replace(resolve(config, len(data.train_idx), mesh.size), steps=0, warmup_steps=0)
    spec = spec_of(config, resolved, mesh, len(classes))
    cached = (cache or splits.DataCache()).features(Features)
    # Loaded weights do not depend on the seed, and the head is not used.
    seed = config.seed if config.init == "scratch" else None
    encoder = (config.init, config.init_from, seed, spec.shape, spec.mean, spec.std)

    def finish(params: Params, workdir: Path) -> dict[str, Any]:
        loaded: list[Params] = []  # the encoder, loaded only if a feature is not cached

        def encode(source: Source, indices: Int[np.ndarray, " _"]) -> Float[np.ndarray, "n d"]:
            if not loaded:
                loaded.append(first(spec, params))
                cached.digests[encoder] = digest(jax.tree.map(sharding.to_host, loaded[0]["encoder"]))
            return predictor(config, spec)(loaded[0], source, indices, step=feature_step)["features"]

        def features(source: Source, indices: Int[np.ndarray, " _"]) -> Float[np.ndarray, "n d"]:
            return cached.of(encoder, source, indices, encode)

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
            probes.save(workdir / contents.PROBE, classifier, cached.digests[encoder], train[0])
        return results | {"chosen": chosen}

    more = describe_data(config, data, cache)
    return Task(config, spec, resolved, evaluate=lambda params: iter(()), finish=finish, **more)
