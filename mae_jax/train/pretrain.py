"""Self-supervised pre-training on unlabeled images: data, evaluation and results of any objective without labels."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mae_jax.config.fields import RunConfig
from mae_jax.config.schedule import resolve
from mae_jax.data import findings, labeled_sets, loaders, splits
from mae_jax.evaluation import per_image, reconstruction_sheets
from mae_jax.models import Params
from mae_jax.rundir.metrics_log import MetricsLog
from mae_jax.step.from_config import spec_of
from mae_jax.train import stains
from mae_jax.train.task import Task, predictor
from mae_jax.weights import initial_weights


def pretrain(
    config: RunConfig, mesh: Mesh, on_progress: labeled_sets.OnProgress | None, cache: splits.DataCache | None
) -> Task:
    """Builds a task without labels. An autoencoder also shows reconstructions. Raises UserError."""
    first = initial_weights.first_weights(config, cache)
    data = splits.unlabeled(config.data, on_progress, cache)
    sizes, weights = [len(i) for i in data.train_idx], tuple(config.data.weights)
    resolved = resolve(config, sum(sizes), mesh.size, config.train.epoch_images or data.available)
    changes = stains.augmentation(config, data.sources, data.train_idx)
    spec = spec_of(config, resolved, mesh, stain=changes)
    predict = predictor(config, spec)
    expected = loaders.epoch_counts(sizes, weights)

    held = list(zip(data.sources, data.val_idx, strict=True))

    def held_out(params: Params) -> dict[str, np.ndarray]:
        parts = [predict(params, source, indices) for source, indices in held if len(indices)]
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]} if parts else {}

    def evaluators(params: Params, step: int, workdir: Path) -> Iterator[tuple[str, float]]:
        values = held_out(params)
        if values:
            yield from ((f"val/{name}", value) for name, value in per_image.means(values, spec.objective.measures))

    def show(params: Params, step: int, metrics: MetricsLog) -> None:
        if config.traits.decoder and any(map(len, data.val_idx)):
            rows = reconstruction_sheets.rows(spec, params, held, config.eval.images, config.eval.mask_seed)
            metrics.images(step, "reconstruction", rows)

    def finish(params: Params, step: int, workdir: Path) -> dict[str, Any]:
        if config.traits.decoder:
            reconstruction_sheets.finish(spec, params, held, config, workdir, jax.process_index() == 0)
        return {**dict(evaluators(params, step, workdir)), "n_train": resolved.n_train}

    about = {
        "images": f"{resolved.n_train} for training, {sum(map(len, data.val_idx))} held out",
        "images per epoch and source": ", ".join(f"{k} {n:.0f}" for k, n in zip(data.names, expected, strict=True)),
    }
    about |= {"mask ratio": config.mae.mask_ratio} if config.traits.decoder else {}
    names = data.names if len(data.names) > 1 else ("",)
    about |= findings.about_files(dict(zip(names, data.sources, strict=True)), config.model.image_size, labeled=False)
    return Task(
        config,
        spec,
        resolved,
        data.sources,
        data.train_idx,
        about,
        evaluators,
        finish,
        show,
        initialize=lambda state: dataclasses.replace(state, params=first(spec, state.params)),
        mixture=data.names if len(data.names) > 1 else (),
    )
