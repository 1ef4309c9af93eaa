"""Masked autoencoding (He et al. 2022): predict the pixels of removed patches from the visible ones."""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mae_jax import models
from mae_jax.config.fields import RunConfig
from mae_jax.models import Params
from mae_jax.models.patches import n_visible, patchify
from mae_jax.models.vit import ViTConfig
from mae_jax.step import losses, patch_repetition, sharding
from mae_jax.step.batches import to_float
from mae_jax.step.spec import EVAL_MASK, MASK, Batch, Objective, StepSpec, key_for


@dataclasses.dataclass(frozen=True)
class Reconstruction(Objective):
    """Mean squared error of removed patches, plus `visible_weight` times that of visible ones."""

    mask_ratio: float
    norm_pix: bool  # each target patch is standardized
    visible_weight: float = 0.0
    target: str = "augmented"  # or "original": the pixels before the stain is changed

    measures: ClassVar[tuple[str, ...]] = ("loss", "visible_loss", "spam")

    @classmethod
    def of(cls, config: RunConfig) -> "Reconstruction":
        m = config.mae
        return cls(m.mask_ratio, m.norm_pix_loss, m.visible_weight, m.target)

    def init(self, shape: ViTConfig, key: Array) -> Params:
        return models.init("mae", shape, key)

    def prepare(
        self,
        spec: StepSpec,
        params: Params,
        batch: Batch,
        seed: Int[Array, ""],
        step: Int[Array, ""],
        running: dict[str, Array],
    ) -> tuple[Params, Batch, Any]:
        """Draws the noise that selects the removed patches."""
        noise = jax.random.uniform(key_for(seed, MASK, step), (spec.batch_size, spec.shape.n_patches))
        rows = batch["image"].shape[0]
        noise = jnp.pad(noise, ((0, rows - spec.batch_size), (0, 0)))
        noise = jax.lax.with_sharding_constraint(noise, sharding.batch_sharding(spec.mesh))
        return {}, batch | {"noise": noise}, None

    def loss(
        self, spec: StepSpec, params: Params, batch: Batch, key: Array, shared: Any
    ) -> tuple[Array, dict[str, Array]]:
        images = to_float(batch["image"], spec.mean, spec.std)
        visible = n_visible(spec.shape.n_patches, self.mask_ratio)
        pred, mask = models.apply("mae", spec.shape, params, images, batch["noise"], visible)
        if self.target == "original" and "original" in batch:
            images = to_float(batch["original"], spec.mean, spec.std)
        patches = patchify(images, spec.shape.patch_size)
        removed, seen = losses.reconstruction(pred, patches, mask, self.norm_pix)
        real = batch["mask"]
        metrics = {"loss": (removed * real).sum(), "visible_loss": (seen * real).sum()}
        return metrics["loss"] + self.visible_weight * metrics["visible_loss"], metrics

    def evaluate(self, spec: StepSpec, params: Params, batch: Batch, seed: Int[Array, ""]) -> dict[str, Array]:
        """`loss`, `visible_loss` and `spam` (b; see `patch_repetition`), with masks fixed by (seed, image index)."""
        images = to_float(batch["image"], spec.mean, spec.std)
        pred, mask = predict_removed(spec, params, images, batch["index"], seed)
        patches = patchify(images, spec.shape.patch_size)
        removed, visible = losses.reconstruction(pred, patches, mask, self.norm_pix)
        n = spec.shape.n_patches
        spam = patch_repetition.of_removed(pred, patches, mask, n - n_visible(n, self.mask_ratio))
        return {"loss": removed, "visible_loss": visible, "spam": spam}


def masked(spec: StepSpec) -> Reconstruction:
    """The objective of a spec whose network is an autoencoder."""
    assert isinstance(spec.objective, Reconstruction), spec.objective
    return spec.objective


def predict_removed(
    spec: StepSpec, params: Params, images: Float[Array, "b h w 3"], index: Int[Array, " b"], seed: Int[Array, ""]
) -> tuple[Float[Array, "b n p"], Float[Array, "b n"]]:
    """Predicted patches of normalized images, and `mask` (1 = removed), which is fixed by (seed, index)."""
    key = jax.random.fold_in(jax.random.key(seed), EVAL_MASK)
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.maximum(index, 0))
    noise = jax.vmap(lambda k: jax.random.uniform(k, (spec.shape.n_patches,)))(keys)
    visible = n_visible(spec.shape.n_patches, masked(spec).mask_ratio)
    return models.apply("mae", spec.shape, params, images, noise, visible)
