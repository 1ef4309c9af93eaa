"""`Task`: the data, network, objective and evaluation of a run, as the training loop sees them.

Each task (pretrain, finetune, linear_probe, lbfgs, knn) builds a `Task` in its own module; the loop treats all alike.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from mae_jax.config.fields import RunConfig
from mae_jax.config.schedule import Schedule
from mae_jax.data import loaders
from mae_jax.data.augment import RandAugment, RandomErasing
from mae_jax.data.sources import Source
from mae_jax.data.transforms import Decode, RandomFlip, RandomResizedCrop
from mae_jax.evaluation import per_image
from mae_jax.models import Params
from mae_jax.rundir.metrics_log import MetricsLog
from mae_jax.runtime import processes
from mae_jax.step.spec import StepSpec
from mae_jax.step.state import TrainState


@dataclasses.dataclass
class Task:
    """All that the training loop needs to know about a run."""

    config: RunConfig
    spec: StepSpec
    resolved: Schedule
    sources: tuple[Source, ...]
    indices: tuple[Int[np.ndarray, " _"], ...]
    about: dict[str, Any]  # lines to print at the start of the run
    evaluate: Callable[[Params, int, Path], Iterator[tuple[str, float]]]  # validation scores after a number of updates
    finish: Callable[[Params, int, Path], dict[str, Any]]  # writes the results of the tested step and returns them
    show: Callable[[Params, int, MetricsLog], None] = lambda params, step, metrics: None
    initialize: Callable[[TrainState], TrainState] = lambda state: state
    classes: tuple[str, ...] = ()
    subset: dict[str, Any] | None = None  # content of subset.json
    mixture: tuple[str, ...] = ()  # names of the sources, if there are several
    leaks: dict[str, Any] = dataclasses.field(default_factory=dict)  # images that each test set shares with training
    seen_before: dict[str, Any] = dataclasses.field(default_factory=dict)  # and with pre-training
    tests: dict[str, Source] = dataclasses.field(default_factory=dict)  # the test sets, by name
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)  # further fields of run.json about the data
    score: Callable[[Params], dict[str, Any]] | None = None  # of a classifier: its scores on the test images alone
    folds: int = 0  # number of models to train before this one, each without one fold of its images

    def batches(self, start: int) -> Generator[dict[str, np.ndarray], None, None]:
        """The rows of this process in the endless stream of batches, from batch `start` on."""
        d = self.config.data
        real = range(self.resolved.batch_size)[processes.local_rows(self.resolved.rows)]
        transforms = [
            Decode(),
            RandomResizedCrop(self.spec.shape.image_size, d.crop_scale, d.crop_ratio),
        ]
        if d.flips:
            transforms.append(RandomFlip())
        if d.randaugment:
            transforms.append(RandAugment(d.randaugment, d.randaugment_colour))
        if d.random_erasing:
            transforms.append(RandomErasing(d.random_erasing))
        stream = loaders.train_batches(
            self.sources,
            self.indices,
            transforms,
            rows=real,
            start=start,
            threads=d.threads,
            workers=d.workers,
            prefetch=d.prefetch,
            balance=self.config.train.balance == "sampler",
            **self._order(),
        )
        missing = self.resolved.rows // jax.process_count() - len(real)
        with contextlib.closing(stream):
            for batch in stream:
                batch = {k: batch[k] for k in ("image", "label", "index")}
                batch["mask"] = np.ones(len(real), np.float32)
                yield {k: np.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1)) for k, v in batch.items()}

    def _order(self) -> dict[str, Any]:
        return {
            "batch_size": self.resolved.batch_size,
            "seed": self.config.seed,
            "weights": tuple(self.config.data.weights),
        }

    def epoch_images(self, step: int) -> dict[str, float]:
        """Images seen from each source in the epoch that ends at `step`; {} unless there are several sources."""
        if not self.mixture:
            return {}
        sizes, batch = [len(chosen) for chosen in self.indices], self.resolved.batch_size
        start = max(0, step - self.resolved.steps_per_epoch)
        counts = loaders.drawn(sizes, tuple(self.config.data.weights), start * batch, step * batch)
        return {f"epoch_images/{name}": float(n) for name, n in zip(self.mixture, counts, strict=True)}

    def position(self, step: int) -> dict[str, Any]:
        """The position in the stream of batches after `step` updates, and fingerprints of its data."""
        tests = {name: source.fingerprint for name, source in self.tests.items()}
        return loaders.position(step, self.sources, self.indices, **self._order()) | {"tests": tests}

    def skipped_files(self) -> dict[str, dict[str, int]]:
        """{source or test set: {reason: number of files that were not used}}."""
        return {name: source.counts for name, source in self._all_sources().items() if source.counts}

    def assumed(self) -> dict[str, dict[str, int]]:
        """{source or test set: {assumption: number of images read with it}}."""
        return {name: source.assumed for name, source in self._all_sources().items() if source.assumed}

    def stain(self) -> dict[str, str]:
        """{source or test set: how `mae-jax prepare` normalized its stain, or ""}; {} if none was normalized."""
        stains = {name: source.stain for name, source in self._all_sources().items()}
        return stains if any(stains.values()) else {}

    def _all_sources(self) -> dict[str, Source]:
        names = self.mixture or ("train",)
        return dict(zip(names, self.sources, strict=True)) | self.tests


def predictor(config: RunConfig, spec: StepSpec) -> Callable[..., dict[str, np.ndarray]]:
    """`evaluation.per_image.per_image` as a function of (params, source, indices)."""
    options = {"batch_size": config.eval.batch_size, "threads": config.data.threads, "seed": config.eval.mask_seed}
    return partial(per_image.per_image, spec, **options)
