"""Steps, learning rate and warm-up, derived from a config, the number of images and the devices."""

import dataclasses
import math

from mae_jax.config.fields import RunConfig
from mae_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Values derived from a config, the number of training images and the devices."""

    n_train: int  # images
    devices: int
    batch_size: int  # images per update
    rows: int  # batch_size rounded up to a multiple of devices * accumulation; the rest is padding
    steps_per_epoch: int
    steps: int
    warmup_steps: int
    peak_lr: float
    eval_every: int  # steps
    save_every: int  # steps


def images_per_update(config: RunConfig, devices: int) -> int:
    """The batch size of a config on `devices` devices."""
    t = config.train
    return t.batch_size or t.batch_per_device * t.accumulation * devices


def resolve(config: RunConfig, n_train: int, devices: int, n_schedule: int = 0) -> Schedule:
    """Derives steps, warm-up and learning rate (linear scaling rule, Goyal et al. 2017).

    An epoch is ceil(images / batch) updates. A subset smaller than the batch therefore still gets one update per
    epoch, and its images repeat within the batch with different augmentation. If `n_schedule` is not 0, it replaces
    `n_train` in the computation of steps, warm-up and evaluation intervals. Raises UserError for a batch smaller than
    its micro-batches, a sharding that does not fit the devices, or a `min_lr` above the peak rate.
    """
    t, o = config.train, config.optim
    batch = images_per_update(config, devices)
    peak = o.base_lr * batch / 256
    if o.min_lr > peak:
        raise UserError(
            f"optim.min_lr={o.min_lr:g} is above the peak learning rate, optim.base_lr * images / 256 = {peak:g}; "
            f"use a smaller one, because the rate falls from the peak to it"
        )
    unit = devices * t.accumulation
    per_epoch = math.ceil(n_train / batch)
    pace = math.ceil((n_schedule or n_train) / batch)
    steps = t.steps or max(1, round(t.epochs * pace))
    warmup = min(round(o.warmup_epochs * pace), steps)

    def interval(epochs: float) -> int:
        return max(1, round(epochs * pace))

    return Schedule(
        n_train=n_train,
        devices=devices,
        batch_size=batch,
        rows=math.ceil(batch / unit) * unit,
        steps_per_epoch=per_epoch,
        steps=steps,
        warmup_steps=warmup,
        peak_lr=peak,
        eval_every=interval(config.eval.every_epochs),
        save_every=interval(config.checkpoint.every_epochs),
    )


def learning_rate(step: int, schedule: str, resolved: Schedule, min_lr: float = 0.0) -> float:
    """The learning rate of update `step` (from 0): linear warm-up, then `schedule` to `min_lr`.

    As in facebookresearch/mae, the rate is evaluated before the update, so warm-up starts at 0.
    """
    peak, warmup = resolved.peak_lr, resolved.warmup_steps
    if step < warmup:
        return peak * step / warmup
    done = (step - warmup) / max(1, resolved.steps - warmup)
    if schedule == "constant":
        return peak
    if schedule == "linear":
        return peak + (min_lr - peak) * done
    return min_lr + (peak - min_lr) * 0.5 * (1 + math.cos(math.pi * done))
