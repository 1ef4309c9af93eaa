"""Estimates the cost of a study on 1, 5, 64 and 1,024 devices, from its compiled steps.

    python tools/benchmark.py plan --config=configs/study.py:protocol=paper [--config.FIELD=VALUE ...]
        [--pretrain_images=2500] [--finetune_images=10175] [--devices=1,5,64,1024]
        [--peak=312] [--reached=0.4] [--bandwidth=1600] [--link=100]

The training steps are compiled for one device, at its share of the batch. Operations and bytes come from the compiler's
cost analysis, memory from its memory analysis.
"""

import math
import textwrap
from pathlib import Path
from typing import Any, cast

from absl import flags
from ml_collections import ConfigDict

from mae_jax import main as command
from mae_jax.config.fields import RunConfig, changed
from mae_jax.runtime.errors import UserError

KINDS = ("pretrain", "finetune", "linear_probe")  # tasks with a training step
_PRETRAIN = flags.DEFINE_integer("pretrain_images", 2500, "Number of unlabeled training images.")
_FINETUNE = flags.DEFINE_integer("finetune_images", 10175, "Number of labeled training images (default: Raabin-WBC's).")
_DEVICES = flags.DEFINE_list("devices", ["1", "5", "64", "1024"], "Numbers of devices.")
_PEAK = flags.DEFINE_float("peak", 312.0, "Peak rate of a device, in 10^12 operations per second.")
_REACHED = flags.DEFINE_float("reached", 0.4, "Fraction of the peak that a step reaches.")
_BANDWIDTH = flags.DEFINE_float("bandwidth", 1600.0, "Memory bandwidth of a device, in 10^9 bytes per second.")
_LINK = flags.DEFINE_float("link", 100.0, "Bandwidth from a device to the others, in 10^9 bytes per second.")


def _check() -> None:
    """Raises UserError for an impossible number."""
    for flag in (_PRETRAIN, _FINETUNE, _PEAK, _REACHED, _BANDWIDTH, _LINK):
        if not (math.isfinite(flag.value) and flag.value > 0) or (flag is _REACHED and flag.value > 1):
            allowed = "above 0 and at most 1" if flag is _REACHED else "a number above 0"
            raise UserError(f"--{flag.name}={flag.value:g} is not allowed; use {allowed}")
    for text in _DEVICES.value or [""]:
        if not (text.strip().isascii() and text.strip().isdecimal() and int(text) > 0):
            raise UserError(f"--devices: {text!r} is not a number of devices; use, for example, --devices=1,5,64")


def measure(config: RunConfig) -> dict[str, float]:
    """Operations and bytes of the compiled step of one micro-batch on one device."""
    import jax
    import numpy as np

    from mae_jax.config.schedule import resolve
    from mae_jax.models import kernels
    from mae_jax.step import from_config, sharding, state, train_step

    kernels.CACHED = math.inf  # no products in parts, because the compiler counts a loop's cost only once
    batch = config.train.batch_size or config.train.batch_per_device * config.train.accumulation
    rows = math.ceil(batch / config.train.accumulation)
    config = changed(config, {"train.batch_size": rows, "train.accumulation": 1, "sharding.fsdp": 1})
    spec = from_config.spec_of(config, resolve(config, rows, 1), sharding.make_mesh(), 5 * (config.task != "pretrain"))
    size = config.model.image_size
    shapes = {"image": ((rows, size, size, 3), np.uint8), "label": ((rows,), np.int32)}
    shapes |= {"index": ((rows,), np.int32), "mask": ((rows,), np.float32)}
    inputs = {k: jax.ShapeDtypeStruct(*v) for k, v in shapes.items()}
    abstract = state.abstract_state(spec)
    program = train_step.train_step.lower(spec, abstract, inputs, np.int32(0), np.float32(0)).compile()
    cost, memory = cast(Any, program.cost_analysis()), cast(Any, program.memory_analysis())
    parameters = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract.params))
    return {
        "rows": rows,
        "flops": cost["flops"],
        "bytes": cost["bytes accessed"],
        "state": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract)),
        "parameters": parameters,
        "activations": max(0.0, memory.temp_size_in_bytes - parameters),  # without the gradient
    }


def step(config: RunConfig, cost: dict[str, float], devices: int) -> dict[str, float]:
    """Operations, memory and seconds of one update on each of `devices`."""
    from mae_jax.config.schedule import resolve

    fsdp = config.sharding.fsdp if devices % config.sharding.fsdp == 0 else 1
    config = changed(config, {"sharding.fsdp": fsdp})
    resolved = resolve(config, 1, devices)
    micro = resolved.rows // devices // config.train.accumulation
    share, times = micro / cost["rows"], config.train.accumulation
    seconds = max(
        times * share * cost["flops"] / (_PEAK.value * 1e12 * _REACHED.value),
        (times * share * cost["bytes"] + 3 * cost["state"] / fsdp) / (_BANDWIDTH.value * 1e9),
    )
    if devices > 1:  # ring all-reduce: each device sends and receives nearly two times the gradient
        seconds += 2 * cost["parameters"] * (devices - 1) / devices / (_LINK.value * 1e9)
    return {
        "batch": resolved.batch_size,
        "flops": times * share * cost["flops"],
        "memory": (cost["state"] + cost["parameters"]) / fsdp + share * cost["activations"],
        "seconds": seconds,
    }


def run(config: ConfigDict, workdir: str | None = None) -> None:
    """Prints the table of a study or of one run."""
    from mae_jax.config.naming import default_workdir
    from mae_jax.config.schedule import resolve
    from mae_jax.config.validation import frozen
    from mae_jax.runtime import machine
    from mae_jax.study import cells as grid
    from mae_jax.study.validation import validate_study

    if config.task == "sweep":
        raise UserError("task=sweep is not supported; use a study or one run, such as configs/study.py")
    if config.task == "study":
        study = validate_study(config)
        cells = [cell for _, cell in grid.runs(study, Path(workdir or default_workdir(study)))]
    else:
        cells = [frozen(config)]
    _check()
    kinds = {kind: [c for c in cells if c.task == kind] for kind in KINDS}
    if config.task != "study" and config.task not in KINDS:
        raise UserError(f"task={config.task} has no training step; use a study or a run of {', '.join(KINDS)}")
    kinds = {kind: runs for kind, runs in kinds.items() if runs}
    costs = {}
    for kind, runs in kinds.items():
        print(f"compiling the step of {kind} ...", flush=True)
        costs[kind] = measure(runs[0])
    print("\n| devices | step | images | GFLOP per device | memory per device | seconds | runs | updates | hours |")
    print("|---|---|---|---|---|---|---|---|---|")
    for devices in map(int, _DEVICES.value):
        total = 0.0
        for kind, runs in kinds.items():
            one = step(runs[0], costs[kind], devices)
            images = _PRETRAIN.value if kind == "pretrain" else _FINETUNE.value
            updates = 0
            for c in runs:
                c = changed(c, {"sharding.fsdp": 1})
                share = max(c.data.fraction, c.train.match_fraction) if kind != "pretrain" else 1.0
                updates += resolve(c, math.ceil(share * images), devices).steps
            hours = updates * one["seconds"] / 3600
            total += hours
            print(
                f"| {devices:,} | {kind} | {one['batch']:,} | {one['flops'] / 1e9:,.0f} "
                f"| {one['memory'] / 2**30:.2f} GiB | {one['seconds']:.4f} | {len(runs)} | {updates:,} | {hours:.3g} |"
            )
        if len(kinds) > 1:
            print(f"| {devices:,} | all | | | | | | | {total:.3g} |")
    dtype = machine.precision(cells[0].model.dtype)
    assumed = f"""
        This estimate assumes {_PRETRAIN.value:,} unlabeled and {_FINETUNE.value:,} labeled images. Each device reaches
        {_REACHED.value:.0%} of {_PEAK.value:g} TFLOP/s, and has {_BANDWIDTH.value:g} GB/s of memory bandwidth and
        {_LINK.value:g} GB/s to the others. A step takes the longer of computing and memory traffic, and then the time
        to exchange gradients without overlap. Each run uses all devices, one run after another. Reading images and
        evaluation are not counted. Operations, bytes and activations are those of the program compiled for this
        machine in {dtype}; activations are proportional to rows. If the batch size is set per device, it grows
        with the devices, so there are fewer updates. A total batch size is constant, padded to one row per device."""
    others = len(cells) - sum(map(len, kinds.values()))
    if others:
        assumed += f" Also not counted are {others} probes without training steps, which read each image once."
    print("\n" + textwrap.fill(" ".join(assumed.split()), 110))


if __name__ == "__main__":
    command.cli(command=run)  # the same flags, messages and exit codes
