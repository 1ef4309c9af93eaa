"""Losses as pure functions, one value per image."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def normalize_patches(patches: Float[Array, "b n p"]) -> Float[Array, "b n p"]:
    """Targets of `norm_pix_loss`: each patch minus its mean, divided by its (unbiased) standard deviation."""
    mean = patches.mean(-1, keepdims=True)
    variance = patches.var(-1, keepdims=True, ddof=1)
    return (patches - mean) / jnp.sqrt(variance + 1e-6)


def reconstruction(
    pred: Float[Array, "b n p"],
    patches: Float[Array, "b n p"],
    mask: Float[Array, "b n"],
    norm_pix: bool,
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Mean squared errors on removed and on visible patches, per image (He et al. 2022, section 3).

    `mask` is 1 on removed patches. Training minimizes the first plus `mae.visible_weight` times the second.
    """
    target = normalize_patches(patches) if norm_pix else patches
    error = jnp.square(pred - target).mean(-1)
    removed = (error * mask).sum(-1) / jnp.maximum(mask.sum(-1), 1)
    visible = (error * (1 - mask)).sum(-1) / jnp.maximum((1 - mask).sum(-1), 1)
    return removed, visible


def cross_entropy(
    logits: Float[Array, "b classes"],
    labels: Int[Array, " b"],
    smoothing: float = 0.0,
    weights: Float[Array, " classes"] | None = None,
) -> Float[Array, " b"]:
    """Cross-entropy in nats, per image. `smoothing` spreads that fraction of the target evenly over the classes.

    `weights` multiply each class's part of the target, as in PyTorch's `cross_entropy` with `reduction="none"`.
    """
    log_probabilities = jax.nn.log_softmax(logits)
    if weights is not None:
        log_probabilities = log_probabilities * weights
    hit = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    return -(1 - smoothing) * hit - smoothing * log_probabilities.mean(-1)


def smoothed(targets: Float[Array, "b classes"], smoothing: float) -> Float[Array, "b classes"]:
    """Targets with label smoothing, as in timm: that fraction is spread evenly over the classes."""
    return targets * (1 - smoothing) + smoothing / targets.shape[-1]


def soft_targets(
    labels: Int[Array, " b"],
    partners: Int[Array, " b"],
    share: Float[Array, ""],
    n_classes: int,
    smoothing: float = 0.0,
) -> Float[Array, "b classes"]:
    """Targets of mixed images: `share` times the smoothed label plus (1 - share) times the partner's smoothed label.

    As in timm, smoothing gives a label 1 - smoothing + smoothing / classes and every other class smoothing / classes.
    """
    target, other = (smoothed(jax.nn.one_hot(x, n_classes), smoothing) for x in (labels, partners))
    return target * share + other * (1 - share)


def soft_cross_entropy(
    logits: Float[Array, "b classes"],
    targets: Float[Array, "b classes"],
    weights: Float[Array, " classes"] | None = None,
) -> Float[Array, " b"]:
    """Cross-entropy with a distribution over the classes, in nats, per image; `weights` as in `cross_entropy`."""
    log_probabilities = jax.nn.log_softmax(logits)
    return -(targets * (log_probabilities if weights is None else log_probabilities * weights)).sum(-1)
