"""Attention maps and feature components of a finished run's encoder. Command: `mae-jax inspect`."""

import dataclasses
from pathlib import Path

import numpy as np

from mae_jax import models
from mae_jax.config.fields import RunConfig
from mae_jax.config.loading import hparams
from mae_jax.data import splits
from mae_jax.data.sources import Source
from mae_jax.data.transforms import CenterResize, Decode
from mae_jax.evaluation import attention_maps, reconstruction_sheets
from mae_jax.rundir import contents
from mae_jax.rundir.metrics_log import MetricsLog
from mae_jax.runtime import files
from mae_jax.runtime.command import say
from mae_jax.weights import export

PICTURE = "inspection"


def images_of(config: RunConfig, directory: str = "") -> list[tuple[Source, np.ndarray]]:
    """The images to draw: those in `directory`, or else the run's test images or a pre-training's held-out images.

    A pre-training without held-out images uses its training images.
    """
    if directory:
        data = dataclasses.replace(config.data, source="folder", dir=directory, weights=())
        sources = splits.unlabeled(data).sources
        return [(source, np.arange(len(source))) for source in sources]
    if not config.traits.labeled:
        split = splits.unlabeled(config.data)
        held = zip(split.sources, split.val_idx, split.train_idx, strict=True)
        return [(source, val if len(val) else train) for source, val, train in held]
    test = splits.labeled(config.data, search_leaks=False).test
    return [(test, np.arange(len(test)))]


def run(run_dir: Path, out: Path | None = None, *, directory: str = "", n: int = 8, block: int = -1) -> Path:
    """Draws `attention_maps.columns` of `n` images as one picture and returns its path.

    The picture is written to `out` (default: RUN_DIR/inspection.png) and to the run's TensorBoard files. Raises
    UserError if the run is not finished or `block` does not exist.
    """
    network, config = export.load(run_dir)
    block = models.block_index(network.shape, block, "--block")
    held = [(source, part[:: max(1, len(part) // n)]) for source, part in images_of(config, directory)]
    chosen = reconstruction_sheets.in_turn(held, n)
    transforms, images = [Decode(), CenterResize(network.shape.image_size)], []
    for source, index in chosen:
        element = source[index]
        for transform in transforms:
            element = transform(element)
        images.append(element["image"])
    columns = attention_maps.columns(network, np.stack(images), block)
    steps = contents.read_object(run_dir / contents.RUN).get("steps")
    steps = steps if type(steps) is int else 0
    writers = MetricsLog(run_dir, first_step=steps, evaluated=True, steps=steps, tensorboard=True, profile=False)
    try:
        writers.hparams(hparams(config))
        writers.images(steps, PICTURE, np.concatenate([part for _, part in columns], axis=2))
    finally:
        writers.close()
    names = ", ".join(source.names[index] for source, index in chosen)
    lines = [
        f"{network.origin}, block {block}. Colors of components mean the same in all pictures;",
        "each attention map is scaled to its own maximum.",
    ]
    out = out or run_dir / f"{PICTURE}.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    files.save_picture(out, reconstruction_sheets.sheet(columns, lines))
    say(f"images from top to bottom: {names}")
    return out
