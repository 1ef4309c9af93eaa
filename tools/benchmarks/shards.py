"""Prints the memory per device for every split of parameters and optimizer state, from the compiled step.

    python tools/benchmark.py shards [--config=configs/pretrain.py:exp=2] [--devices 5 4 8]

The training step is compiled for virtual CPU devices in every split into `data` x `fsdp`. The table shows the
persistent arrays of one device (parameters, AdamW's two moments) and the step's temporary memory. Nothing is computed.
"""

import argparse
import os
import sys
from typing import Any, cast


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmark.py shards", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", default="configs/pretrain.py:exp=2", help="config of one run")
    parser.add_argument("--devices", type=int, nargs="+", default=[5, 4], help="numbers of devices (default 5 4)")
    parser.add_argument("--rows", type=int, default=2, help="images per device (default 2)")
    options = parser.parse_args()
    if min(*options.devices, options.rows, 1) < 1:
        sys.exit("error: --devices and --rows must be at least 1")
    most = max(options.devices)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={most}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import numpy as np

    from mae_jax.config.fields import RunConfig
    from mae_jax.config.loading import load
    from mae_jax.config.schedule import resolve
    from mae_jax.config.validation import typed
    from mae_jax.step import from_config, sharding, state, train_step

    config = load(*options.config.split(":", 1))
    config.train.update(accumulation=1, batch_per_device=0)
    size = config.model.image_size
    print(
        "| devices | data x fsdp | parameters and optimizer state per device | fraction of total | temporary memory |"
    )
    print("|---|---|---|---|---|")
    total = 0
    for count, fsdp in [(1, 1)] + [(n, f) for n in options.devices for f in range(1, n + 1) if n % f == 0]:
        grid = np.array(jax.devices()[:count]).reshape(count // fsdp, fsdp)
        mesh = jax.sharding.Mesh(grid, ("data", "fsdp"))
        rows = config.train.batch_size = options.rows * count
        run = typed(config, RunConfig)
        spec = from_config.spec_of(run, resolve(run, rows, 1), mesh, 5 * (run.task == "finetune"))
        abstract = state.split_state(spec)
        place = sharding.batch_sharding(mesh)
        shapes = {"image": ((rows, size, size, 3), np.uint8), "label": ((rows,), np.int32)}
        shapes |= {"index": ((rows,), np.int32), "mask": ((rows,), np.float32)}
        batch = {k: jax.ShapeDtypeStruct(*v, sharding=place) for k, v in shapes.items()}
        program = train_step.train_step.lower(spec, abstract, batch, np.int32(0), np.float32(0)).compile()
        memory = cast(Any, program.memory_analysis())
        local = sum(
            np.prod(place.shard_shape(shape.shape)) * np.dtype(shape.dtype).itemsize
            for shape, place in zip(jax.tree.leaves(batch), [place] * len(batch), strict=True)
        )
        kept = memory.argument_size_in_bytes - local
        total = total or kept
        print(
            f"| {count} | {count // fsdp} x {fsdp} | {kept / 2**20:.0f} MiB | 1/{total / kept:.2f} "
            f"| {memory.temp_size_in_bytes / 2**20:.0f} MiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
