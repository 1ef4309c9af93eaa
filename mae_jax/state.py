"""The training state and the pure functions that make and change it.

`train_step` and `eval_step` are compiled once for each `Spec`; a Spec is hashable and says all that a
compiled step depends on. Seeds, step numbers and learning rates are arguments, so runs that differ
only in these share the compiled code.
"""

import dataclasses
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from mae_jax import losses, mixing, models, sharding, spam
from mae_jax.models import Params, Shape
from mae_jax.models.masking import n_visible, patchify
from mae_jax.optim import Optimizer, join, part

# Purposes of randomness: each is folded into the seed, so that none shares its numbers with another.
INIT, MASK, DROP, EVAL_MASK, MIX = range(5)

MOMENTUM = 0.1  # of batch norm's running statistics, PyTorch's

Batch = dict[str, Array]  # image: b h w 3 uint8; label, index: b int32; mask: b float32, 0 = padding
Mix = tuple[Array, Array]  # what `mixing.draw` gives


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a compiled step depends on."""

    task: str  # one of config.TASKS, or probe for those that are quick
    shape: Shape
    optimizer: Optimizer
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    batch_size: int  # real rows of a batch; the others are padding
    accumulation: int
    mask_ratio: float
    norm_pix: bool
    label_smoothing: float
    mesh: Mesh
    visible_weight: float = 0.0
    mixup: float = 0.0  # alpha; 0: off
    cutmix: float = 0.0  # alpha; 0: off
    trained: str = ""  # the parameters whose path matches are trained, the others have no optimiser state; "": all

    @property
    def kind(self) -> str:
        """Which network."""
        return "mae" if self.task == "pretrain" else "vit"


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """All that changes from step to step; each leaf an array, or its shape, or its placement."""

    step: Any  # int32 scalar: updates done
    params: Params
    opt_state: Any


def _init(spec: Spec, seed: Int[Array, ""]) -> TrainState:
    key = jax.random.fold_in(jax.random.key(seed), INIT)
    params = models.init(spec.kind, spec.shape, key)
    trained, _ = part(params, spec.trained)
    return TrainState(jnp.zeros((), jnp.int32), params, spec.optimizer.transform().init(trained))


@lru_cache(maxsize=8)
def _shapes(spec: Spec) -> TrainState:
    """The state's shapes, as the network has them."""
    return jax.eval_shape(partial(_init, spec), jnp.int32(0))


@lru_cache(maxsize=8)
def _split_shapes(spec: Spec) -> TrainState:
    """The state's shapes, as training keeps them: see `sharding.split_shape`."""
    shape_of = lambda s: jax.ShapeDtypeStruct(sharding.split_shape(s.shape, spec.mesh), s.dtype)  # noqa: E731
    return jax.tree.map(shape_of, _shapes(spec))


def state_shardings(spec: Spec) -> TrainState:
    """Where each array of the state lies."""
    return sharding.parameter_shardings(_split_shapes(spec), spec.mesh)


def _abstract(shapes: TrainState, spec: Spec) -> TrainState:
    places = sharding.parameter_shardings(shapes, spec.mesh)
    return jax.tree.map(lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, places)


def abstract_state(spec: Spec) -> TrainState:
    """Shapes, types and placements of the `whole` state, without arrays: what a checkpoint restores into."""
    return _abstract(_shapes(spec), spec)


def split_state(spec: Spec) -> TrainState:
    """The same of the state that `train_step` takes."""
    return _abstract(_split_shapes(spec), spec)


def init_state(spec: Spec, seed: int) -> TrainState:
    """Draws a state, each array born where it belongs, and in the shape that is split there."""

    def draw(seed: Int[Array, ""]) -> TrainState:
        return sharding.fit(_init(spec, seed), _split_shapes(spec))

    return jax.jit(draw, out_shardings=state_shardings(spec))(jnp.int32(seed))


def whole(spec: Spec, state: TrainState) -> TrainState:
    """The state in the network's own shapes, as checkpoints hold it and evaluation takes it."""
    return _refit(state, _shapes(spec), spec)


def spread(spec: Spec, state: TrainState) -> TrainState:
    """The `whole` state as `train_step` takes it: in shapes that `fsdp` divides."""
    return _refit(state, _split_shapes(spec), spec)


def _refit(state: TrainState, shapes: TrainState, spec: Spec) -> TrainState:
    if all(leaf.shape == like.shape for leaf, like in zip(*map(jax.tree.leaves, (state, shapes)), strict=True)):
        return state
    places = sharding.parameter_shardings(shapes, spec.mesh)
    return jax.jit(partial(sharding.fit, shapes=shapes), out_shardings=places)(state)


def to_float(images: UInt8[Array, "b h w 3"], spec: Spec) -> Float[Array, "b h w 3"]:
    """Images in 0..255 to normalised float32."""
    mean, std = jnp.array(spec.mean, jnp.float32), jnp.array(spec.std, jnp.float32)
    return (images.astype(jnp.float32) / 255 - mean) / std


def _loss(
    spec: Spec, params: Params, batch: Batch, key: Array, mix: Mix | None = None
) -> tuple[Array, dict[str, Array]]:
    """Sums over the real rows of a (micro-)batch: the loss to minimise, and what is reported.

    With `mix`, the rows of `partner` and `partner_label` are mixed in. There is no accuracy then: no one label
    is that of a mixed image.
    """
    params, real = sharding.fit(params, _shapes(spec).params), batch["mask"]
    if spec.task == "linear_probe":
        return _classification(spec, models.head(spec.shape, params, batch["features"]), batch)
    images = to_float(batch["image"], spec)
    if spec.task == "pretrain":
        visible = n_visible(spec.shape.n_patches, spec.mask_ratio)
        pred, mask = models.apply("mae", spec.shape, params, images, batch["noise"], visible)
        patches = patchify(images, spec.shape.patch_size)
        removed, seen = losses.reconstruction(pred, patches, mask, spec.norm_pix)
        reported = {"loss": (removed * real).sum(), "visible_loss": (seen * real).sum()}
        return reported["loss"] + spec.visible_weight * reported["visible_loss"], reported
    if mix is not None:
        weights, share = mix
        images = mixing.blend(images, to_float(batch["partner"], spec), weights)
        logits = models.apply("vit", spec.shape, params, images, key=key)
        labels = batch["label"], batch["partner_label"]
        targets = losses.soft_targets(*labels, share, spec.shape.n_classes, spec.label_smoothing)
        loss = (losses.soft_cross_entropy(logits, targets) * real).sum()
        return loss, {"loss": loss}
    return _classification(spec, models.apply("vit", spec.shape, params, images, key=key), batch)


def _classification(spec: Spec, logits: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """The same for logits and the labels that they are to give."""
    loss = losses.cross_entropy(logits, batch["label"], spec.label_smoothing)
    right = (logits.argmax(-1) == batch["label"]).astype(jnp.float32)
    total = (loss * batch["mask"]).sum()
    return total, {"loss": total, "accuracy": (right * batch["mask"]).sum()}


def _micro_batches(spec: Spec, batch: Batch) -> Batch:
    """Rows as (micro-batch, row): every k-th row goes to one micro-batch, so that each device keeps its own."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, spec.accumulation, *x.shape[1:]), 1, 0), batch)


def _normalised(spec: Spec, params: Params, batch: Batch) -> tuple[Batch, Params]:
    """For linear probing: a batch of what the head reads in place of images, and the running statistics moved on.

    The frozen encoder runs micro-batch by micro-batch. Its features stand together before batch norm takes mean and
    variance of all real rows of the batch at once: devices, padding and accumulation change nothing. Running
    statistics go a tenth of the way to the batch's (variance over n - 1), as in PyTorch.
    """
    network, micro = sharding.fit(params, _shapes(spec).params), _micro_batches(spec, {"image": batch["image"]})
    found = jax.lax.map(lambda rows: models.pooled(spec.shape, network, to_float(rows["image"], spec)), micro)
    features = jnp.moveaxis(found, 0, 1).reshape(-1, found.shape[-1])
    n, running = spec.batch_size, params["batch_norm"]
    mean, variance = models.batch_statistics(features, batch["mask"], n)
    seen = {"mean": mean, "variance": variance * n / max(1, n - 1)}
    moved = {name: value + MOMENTUM * (seen[name] - value) for name, value in running.items()}
    rows = {"features": models.batch_norm(features, mean, variance), "label": batch["label"], "mask": batch["mask"]}
    return rows, params | {"batch_norm": moved}


def _gradient(
    spec: Spec, trained: Params, frozen: Params, batch: Batch, key: Array, mix: Mix | None = None
) -> tuple[Params, dict[str, Array]]:
    """Mean gradient of what is trained, and metrics, over the real rows, micro-batch by micro-batch."""
    differentiate = jax.grad(lambda own, *rest: _loss(spec, join(own, frozen), *rest), has_aux=True)
    if spec.accumulation == 1:
        gradient, metrics = differentiate(trained, batch, key, mix)
    else:
        parts = _micro_batches(spec, batch)

        def add(total, inputs):
            i, micro = inputs
            found = differentiate(trained, micro, jax.random.fold_in(key, i), mix)
            return jax.tree.map(jnp.add, total, found), None

        shapes = jax.eval_shape(differentiate, trained, jax.tree.map(lambda x: x[0], parts), key, mix)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (gradient, metrics), _ = jax.lax.scan(add, zeros, (jnp.arange(spec.accumulation), parts))
    count = spec.batch_size
    return jax.tree.map(lambda g: g / count, gradient), {k: v / count for k, v in metrics.items()}


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    spec: Spec, state: TrainState, batch: Batch, seed: Int[Array, ""], learning_rate: Float[Array, ""]
) -> tuple[TrainState, dict[str, Array]]:
    """One update. Its randomness is a function of (seed, purpose, step) alone.

    Returns the new state and metrics (means over the batch, before the update), with the global norm of
    the gradient.
    """
    key = jax.random.fold_in(jax.random.key(seed), MASK if spec.task == "pretrain" else DROP)
    key = jax.random.fold_in(key, state.step)
    if spec.task == "pretrain":
        noise = jax.random.uniform(key, (spec.batch_size, spec.shape.n_patches))
        rows = batch["image"].shape[0]
        noise = jnp.pad(noise, ((0, rows - spec.batch_size), (0, 0)))
        noise = jax.lax.with_sharding_constraint(noise, sharding.batch_sharding(spec.mesh))
        batch = batch | {"noise": noise}
    mix = None
    if spec.mixup or spec.cutmix:
        # Partners are found in the whole batch, before it is split: devices and accumulation change nothing.
        key_mix = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), MIX), state.step)
        mix = mixing.draw(key_mix, spec.mixup, spec.cutmix, spec.shape.image_size)
        found = {"partner": batch["image"], "partner_label": batch["label"]}
        found = jax.tree.map(lambda rows: mixing.partners(rows, spec.batch_size), found)
        batch = batch | jax.lax.with_sharding_constraint(found, sharding.batch_sharding(spec.mesh))
    params, once = state.params, spec
    if spec.task == "linear_probe":
        batch, params = _normalised(spec, params, batch)
        once = dataclasses.replace(spec, accumulation=1)
    trained, frozen = part(params, spec.trained)
    gradient, metrics = _gradient(once, trained, frozen, batch, key, mix)
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    trained, opt_state = spec.optimizer.update(gradient, state.opt_state, trained, learning_rate)
    after = TrainState(state.step + 1, join(trained, frozen), opt_state)
    return jax.lax.with_sharding_constraint(after, state_shardings(spec)), metrics


@partial(jax.jit, static_argnums=0)
def eval_step(spec: Spec, params: Params, batch: Batch, seed: Int[Array, ""]) -> dict[str, Array]:
    """Values per image, on every device: for classifiers `probabilities` and `loss` (without label
    smoothing); for pre-training `loss`, `visible_loss` and `spam` (see `spam.spam_index`) under a mask fixed by (seed,
    image index).
    """
    images = to_float(batch["image"], spec)
    if spec.task != "pretrain":
        logits = models.apply("vit", spec.shape, params, images)
        label = jnp.maximum(batch["label"], 0)
        out = {"probabilities": jax.nn.softmax(logits), "loss": losses.cross_entropy(logits, label)}
    else:
        pred, mask = predict_removed(spec, params, images, batch["index"], seed)
        patches = patchify(images, spec.shape.patch_size)
        removed, visible = losses.reconstruction(pred, patches, mask, spec.norm_pix)
        n = spec.shape.n_patches
        alike = spam.of_removed(pred, patches, mask, n - n_visible(n, spec.mask_ratio))
        out = {"loss": removed, "visible_loss": visible, "spam": alike}
    return jax.lax.with_sharding_constraint(out, sharding.replicated(spec.mesh))


@partial(jax.jit, static_argnums=0)
def feature_step(spec: Spec, params: Params, batch: Batch, seed: Int[Array, ""]) -> dict[str, Array]:
    """`features`, what a classifier's head reads of each image, on every device; nothing is random."""
    found = {"features": models.pooled(spec.shape, params, to_float(batch["image"], spec))}
    return jax.lax.with_sharding_constraint(found, sharding.replicated(spec.mesh))


@jax.jit
def all_finite(tree: Any) -> Array:
    """Whether no number in a tree of arrays is NaN or infinite."""
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]))


def predict_removed(
    spec: Spec, params: Params, images: Float[Array, "b h w 3"], index: Int[Array, " b"], seed: Int[Array, ""]
) -> tuple[Float[Array, "b n p"], Float[Array, "b n"]]:
    """Predicted patches of normalised images and `mask` (1 = removed), which is fixed by (seed, index)."""
    key = jax.random.fold_in(jax.random.key(seed), EVAL_MASK)
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.maximum(index, 0))
    noise = jax.vmap(lambda k: jax.random.uniform(k, (spec.shape.n_patches,)))(keys)
    visible = n_visible(spec.shape.n_patches, spec.mask_ratio)
    return models.apply("mae", spec.shape, params, images, noise, visible)
