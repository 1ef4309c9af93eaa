"""Classification: cross-entropy of a ViT, with label smoothing, mixup, CutMix, CellMix and class weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mae_jax import models
from mae_jax.config.fields import RunConfig
from mae_jax.models import Params
from mae_jax.models.vit import ViTConfig
from mae_jax.step import cellmix, losses, sharding
from mae_jax.step.batches import to_float
from mae_jax.step.mixup import blend, draw, partners
from mae_jax.step.spec import MIX, Batch, Objective, StepSpec, key_for


@dataclasses.dataclass(frozen=True)
class Classification(Objective):
    """Cross-entropy in nats."""

    label_smoothing: float = 0.0
    mixup: float = 0.0  # alpha; 0: off
    cutmix: float = 0.0  # alpha; 0: off
    class_weights: tuple[float, ...] = ()  # weight of each class in the loss; (): all 1
    cellmix: str = "none"  # or one of `cellmix.GROUPS`

    @classmethod
    def of(cls, config: RunConfig) -> "Classification":
        t = config.train
        if t.cellmix != "none":
            cellmix.levels(config.model.image_size)  # refuses a size without a puzzle
        return cls(t.label_smoothing, t.mixup, t.cutmix, cellmix=t.cellmix)

    def init(self, shape: ViTConfig, key: Array) -> Params:
        return models.init("vit", shape, key)

    def prepare(
        self,
        spec: StepSpec,
        params: Params,
        batch: Batch,
        seed: Int[Array, ""],
        step: Int[Array, ""],
        running: dict[str, Array],
    ) -> tuple[Params, Batch, Any]:
        """With mixup or CutMix, adds each row's `partner` and `partner_label`; `shared` is the result of `draw`.

        With CellMix, replaces the images and adds `shares`, those of the classes in each image.
        """
        if running:
            return {}, batch | self._exchanged(spec, batch, key_for(seed, MIX, step), running), None
        if not (self.mixup or self.cutmix):
            return {}, batch, None
        # Partners are chosen in the whole batch before it is split, so devices and accumulation do not matter.
        mix = draw(key_for(seed, MIX, step), self.mixup, self.cutmix, spec.shape.image_size)
        mixed_in = {"partner": batch["image"], "partner_label": batch["label"]}
        mixed_in = jax.tree.map(lambda rows: partners(rows, spec.batch_size), mixed_in)
        return {}, batch | jax.lax.with_sharding_constraint(mixed_in, sharding.batch_sharding(spec.mesh)), mix

    def _exchanged(self, spec: StepSpec, batch: Batch, key: Array, running: dict[str, Array]) -> Batch:
        """`image` and `shares` after CellMix, for the real rows of the whole batch."""
        n = spec.batch_size
        images, labels = batch["image"], batch["label"]
        group, classes = cellmix.GROUPS[self.cellmix], spec.shape.n_classes
        mixed, shares = cellmix.mix(key, images[:n], labels[:n], running, group, classes)
        padding = images.shape[0] - n
        rows = {"image": jnp.concatenate([mixed, images[n:]]), "shares": jnp.pad(shares, ((0, padding), (0, 0)))}
        return jax.lax.with_sharding_constraint(rows, sharding.batch_sharding(spec.mesh))

    def running(self) -> dict[str, Array]:
        """The state of CellMix's curriculum."""
        return cellmix.begin() if self.cellmix != "none" else {}

    def timed(self, running: dict[str, Array], period: int, warmup: int) -> dict[str, Array]:
        return cellmix.timed(running, period, warmup) if running else running

    def advance(
        self, spec: StepSpec, running: dict[str, Array], metrics: dict[str, Array], step: Int[Array, ""]
    ) -> dict[str, Array]:
        return cellmix.advance(running, metrics["loss"], step, spec.shape.image_size) if running else running

    def loss(
        self, spec: StepSpec, params: Params, batch: Batch, key: Array, shared: Any
    ) -> tuple[Array, dict[str, Array]]:
        """Mixed images have no accuracy, because none of them has a single label."""
        images = to_float(batch["image"], spec.mean, spec.std)
        if "shares" in batch:
            logits = models.apply("vit", spec.shape, params, images, key=key)
            return self._soft(logits, losses.smoothed(batch["shares"], self.label_smoothing), batch["mask"])
        if shared is None:
            return self.of_logits(models.apply("vit", spec.shape, params, images, key=key), batch)
        weights, share = shared
        images = blend(images, to_float(batch["partner"], spec.mean, spec.std), weights)
        logits = models.apply("vit", spec.shape, params, images, key=key)
        labels = batch["label"], batch["partner_label"]
        targets = losses.soft_targets(*labels, share, spec.shape.n_classes, self.label_smoothing)
        return self._soft(logits, targets, batch["mask"])

    def _soft(
        self, logits: Float[Array, "b classes"], targets: Float[Array, "b classes"], mask: Float[Array, " b"]
    ) -> tuple[Array, dict[str, Array]]:
        loss = (losses.soft_cross_entropy(logits, targets, self._weights()) * mask).sum()
        return loss, {"loss": loss}

    def of_logits(self, logits: Float[Array, "b classes"], batch: Batch) -> tuple[Array, dict[str, Array]]:
        """Loss and metrics as in `loss`, from logits and the batch's labels."""
        loss = losses.cross_entropy(logits, batch["label"], self.label_smoothing, self._weights())
        right = (logits.argmax(-1) == batch["label"]).astype(jnp.float32)
        total = (loss * batch["mask"]).sum()
        return total, {"loss": total, "accuracy": (right * batch["mask"]).sum()}

    def evaluate(self, spec: StepSpec, params: Params, batch: Batch, seed: Int[Array, ""]) -> dict[str, Array]:
        """`probabilities` (b classes) and `loss` (b), in nats without label smoothing."""
        images = to_float(batch["image"], spec.mean, spec.std)
        logits = models.apply("vit", spec.shape, params, images)
        label = jnp.maximum(batch["label"], 0)
        return {"probabilities": jax.nn.softmax(logits), "loss": losses.cross_entropy(logits, label)}

    def _weights(self) -> Float[Array, " classes"] | None:
        return jnp.array(self.class_weights, jnp.float32) if self.class_weights else None


def classifies(spec: StepSpec) -> Classification:
    """The objective of a spec whose network is a classifier."""
    assert isinstance(spec.objective, Classification), spec.objective
    return spec.objective
