"""`Model`: a trained network that predicts classes and computes embeddings, one batch at a time."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from mae_jax.data import loaders
from mae_jax.data.transforms import CenterResize, Decode
from mae_jax.evaluation.probes import Logistic, Neighbours
from mae_jax.models import Params
from mae_jax.predict import images as reading
from mae_jax.report import stats
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count, some
from mae_jax.step import sharding
from mae_jax.step.eval_step import embed_step, eval_step, feature_step
from mae_jax.step.spec import StepSpec

FEW = 8  # up to this many images use a batch of this size: faster, but the last digits may differ
POOLS = ("cls", "mean", "both")


@dataclasses.dataclass(frozen=True)
class Batch:
    """Results for the next images, in order. Images that cannot be read are omitted."""

    indices: Int[np.ndarray, " b"]  # of the images in their source
    probabilities: Float[np.ndarray, "b classes"] | None
    embeddings: Float[np.ndarray, "b d"] | None


@dataclasses.dataclass(frozen=True)
class Result:
    """Predictions for images, in order. `skipped` maps the names of skipped images to the reasons."""

    names: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: Float[np.ndarray, "n classes"]
    temperature: float | None  # None: not known
    skipped: dict[str, str]

    @property
    def indices(self) -> Int[np.ndarray, " n"]:
        """The index of each image's predicted class."""
        return self.probabilities.argmax(1)

    @property
    def predictions(self) -> list[str]:
        """The name of each image's predicted class."""
        return [self.classes[i] for i in self.indices]

    @property
    def confidence(self) -> Float[np.ndarray, " n"]:
        """The probability of each image's predicted class."""
        return self.probabilities.max(1, initial=0)

    @property
    def calibrated(self) -> Float[np.ndarray, "n classes"]:
        """Probabilities after temperature scaling (Guo et al. 2017). Raises UserError if the temperature is unknown."""
        if self.temperature is None:
            raise UserError(
                "calibrated: the temperature is not known, because the run has no validation predictions; use "
                "`probabilities`"
            )
        return stats.scale(self.probabilities.astype(np.float64), self.temperature)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        counts = np.bincount(self.indices, minlength=len(self.classes)) if len(self) else [0] * len(self.classes)
        summary = ", ".join(f"{name} {n}" for name, n in zip(self.classes, counts, strict=True) if n)
        skipped = f"; {len(self.skipped)} skipped" if self.skipped else ""
        return f"<Result: {count(len(self), 'image')}{': ' if summary else ''}{summary}{skipped}>"


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A network with its preprocessing, classes and temperature, as loaded by `mae_jax.load`.

    The classifier is the network's own head, or `probe` on the frozen encoder. The temperature was fitted on the run's
    validation predictions.
    """

    origin: str
    task: str  # of the run; "" for weights of other code
    spec: StepSpec
    params: Params
    classes: tuple[str, ...] = ()  # () for an encoder without classifier
    temperature: float | None = None  # None: not known
    probe: Logistic | Neighbours | None = None
    batch_size: int = 128  # the same as in the run, so that predictions are bit-identical
    threads: int = 8
    notes: tuple[str, ...] = ()

    def predict(self, images: reading.Images, *, bad_images: str = reading.STOP) -> Result:
        """Classifies images: a uint8 array (b h w 3), a list of arrays of any size, file names, a folder or a table.

        `bad_images="stop"` raises UserError for the first file that cannot be read; "skip" skips such files. Raises
        UserError if the model has no classifier.
        """
        reader = reading.Reader(reading.given(images), bad_images, "bad_images")
        batches = list(self.batches(reader))
        shape = (0, len(self.classes))
        parts = [batch.probabilities for batch in batches if batch.probabilities is not None]
        names = reader.source.names
        return Result(
            tuple(names[int(i)] for batch in batches for i in batch.indices),
            self.classes,
            np.concatenate([np.zeros(shape, np.float32), *parts]),
            self.temperature,
            {names[i]: reason for i, reason in sorted(reader.bad.items())},
        )

    def embed(
        self, images: reading.Images, *, pool: str = "", bad_images: str = reading.STOP
    ) -> Float[np.ndarray, "n d"]:
        """Embeddings of images, float32, in order. `pool` is that of `batches`, `images` that of `predict`."""
        reader = reading.Reader(reading.given(images), bad_images, "bad_images")
        batches = self.batches(reader, classify=False, embed=True, pool=pool)
        parts = [batch.embeddings for batch in batches if batch.embeddings is not None]
        return np.concatenate([np.zeros((0, self.width(pool)), np.float32), *parts])

    def width(self, pool: str = "") -> int:
        """The number of features of an embedding."""
        return self.spec.shape.width * (2 if self.pooling(pool) == "both" else 1)

    def pooling(self, pool: str = "") -> str:
        """`pool`, or if it is empty the pooling of the network's own head.

        Raises UserError if `pool` is not one of POOLS, or the network has no norm for it.
        """
        head_pool = self.spec.shape.pool
        if pool and pool not in POOLS:
            raise UserError(f"pool={pool!r} is not allowed; use one of {', '.join(POOLS)}")
        if head_pool == "mean" and pool in ("cls", "both"):
            raise UserError(
                f"pool={pool}: {self.origin} was trained on the mean of the patch tokens and has no norm for the class "
                f"token; use pool=mean"
            )
        return pool or head_pool

    def batches(
        self, reader: reading.Reader, *, classify: bool = True, embed: bool = False, pool: str = ""
    ) -> Iterator[Batch]:
        """Probabilities, embeddings or both of all images, in order, one batch at a time.

        `pool` is "cls", "mean" or "both" (see `step.eval_step.embed_step`); "" gives the input of the network's own
        head. Raises UserError, before any image is read, if the network has no classifier or cannot pool this way.
        """
        if classify and not self.classes:
            raise UserError(
                f"{self.origin} has no classifier{f' (task {self.task})' if self.task else ''}, only an encoder; use "
                f"embed, or name a fine-tuned or probed run"
            )
        pool, head_pool = self.pooling(pool), self.spec.shape.pool
        devices = self.spec.mesh.size
        batch_size = min(self.batch_size, FEW) if len(reader.source) <= FEW else self.batch_size
        rows = -(-batch_size // devices) * devices
        transforms = [Decode(), CenterResize(self.spec.shape.image_size)]
        stream = loaders.eval_batches(reader.source, None, transforms, batch_size=rows, threads=self.threads)
        start = 0
        for batch in stream:
            n = int(batch["mask"].sum())
            on_device = sharding.put_batch(batch, self.spec.mesh)
            features = probabilities = None
            if (embed and pool == head_pool) or (classify and self.probe is not None):
                features = np.asarray(feature_step(self.spec, self.params, on_device, np.int32(0))["features"])[:n]
                if classify and self.probe is not None:
                    probabilities = self.probe.probabilities(features)
            if classify and self.probe is None:
                values = eval_step(self.spec, self.params, on_device, np.int32(0))
                probabilities = np.asarray(values["probabilities"])[:n]
            if embed and pool != head_pool:
                features = np.asarray(embed_step(self.spec, self.params, on_device, pool))[:n]
            good = np.asarray([i for i in range(n) if start + i not in reader.bad], int)
            yield Batch(
                start + good,
                None if probabilities is None else probabilities[good],
                features[good] if embed and features is not None else None,
            )
            start += n

    def __repr__(self) -> str:
        head = (
            f"{len(self.classes)} classes ({some(self.classes, 6)})" if self.classes else "encoder without classifier"
        )
        temperature = f"temperature {self.temperature:.3g}" if self.temperature else "temperature not known"
        return (
            f"<Model of {self.origin}: {self.task or 'imported weights'}, {self.spec.shape.words}, {head}"
            f"{f', {temperature}' if self.classes else ''}>"
        )
