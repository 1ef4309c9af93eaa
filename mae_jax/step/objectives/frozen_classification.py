"""Linear probing as in MAE: classification by a head on batch-normalized features of a frozen encoder."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from mae_jax import models
from mae_jax.models import Params, layers
from mae_jax.step.batches import micro_batches, to_float
from mae_jax.step.objectives.classification import Classification
from mae_jax.step.spec import Batch, StepSpec

MOMENTUM = 0.1  # of batch norm's running statistics, as in PyTorch


@dataclasses.dataclass(frozen=True)
class FrozenClassification(Classification):
    """Cross-entropy in nats, of a head on features."""

    accumulates: ClassVar[bool] = False

    def prepare(
        self,
        spec: StepSpec,
        params: Params,
        batch: Batch,
        seed: Int[Array, ""],
        step: Int[Array, ""],
        running: dict[str, Array],
    ) -> tuple[Params, Batch, Any]:
        """Replaces images by the head's input, and updates the running statistics.

        The frozen encoder processes one micro-batch at a time. Batch norm then uses mean and variance over all real
        rows of the whole batch, so results do not depend on devices, padding or accumulation. As in PyTorch, running
        statistics move a tenth of the way towards the batch's mean and unbiased variance (divided by n - 1).
        """
        micro = micro_batches({"image": batch["image"]}, spec.accumulation)
        micro_features = jax.lax.map(
            lambda rows: models.pooled(spec.shape, params, to_float(rows["image"], spec.mean, spec.std)), micro
        )
        features = jnp.moveaxis(micro_features, 0, 1).reshape(-1, micro_features.shape[-1])
        n, running = spec.batch_size, params["batch_norm"]
        mean, variance = layers.batch_statistics(features, batch["mask"], n)
        batch_values = {"mean": mean, "variance": variance * n / max(1, n - 1)}
        updated = {name: value + MOMENTUM * (batch_values[name] - value) for name, value in running.items()}
        rows = {"features": layers.batch_norm(features, mean, variance), "label": batch["label"], "mask": batch["mask"]}
        return {"batch_norm": updated}, rows, None

    def loss(
        self, spec: StepSpec, params: Params, batch: Batch, key: Array, shared: Any
    ) -> tuple[Array, dict[str, Array]]:
        return self.of_logits(models.head(spec.shape, params, batch["features"]), batch)
