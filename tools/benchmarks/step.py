"""Times a training step and, with --peers, PyTorch's on the same machine.

    python tools/benchmark.py step [--peers] [--case pretrain_base_8 ...] [--rounds 7]

Each side is a separate process with a compiled, warmed-up step. The sides take turns, so other load on the machine
affects both. Both do the same work: a whole update with AdamW, on random images that are already in memory. As in
training, a step is dispatched before the loss of the previous one is read. The peers are
`transformers.ViTMAEForPreTraining` and `ViTForImageClassification` with PyTorch's attention kernel and fused AdamW. On
an NVIDIA GPU they also have `torch.compile`, its flash attention and bfloat16 autocast.

The default cases are those of this machine: small batches in float32 on a CPU, and on an NVIDIA GPU batches of 64 to
512 in bfloat16, with cuDNN's attention and with XLA's (`_xla`), and with recomputed activations (`_remat`).

`images_per_s` comes from the median wall time of a step, and `ratio` is our rate over the peer's. `cpu_ratio` uses the
processes' CPU seconds, which other load affects less. `peak_share` is the rate of floating-point operations in the
step's matrix products, relative to that of large square matrix products measured in the same turns. `device_gib` is the
most memory that the step has used on the GPU. `data_sheet_share` is relative to the GPU's rate in its data sheet.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[2]
PEAK_SIZE = {"cpu": 2048, "gpu": 8192}  # rows and columns of the matrices for measuring the peak
DATA_SHEETS = {  # dense bfloat16 TFLOP/s, by part of the device's name
    **{"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "RTX A6000": 155, "L40S": 362, "L4": 121},
    **{"RTX 4090": 165, "A10": 125, "B200": 2250},
}
PUBLISHED = """Published rates, for orientation:
  ViT-B/16, supervised, in JAX: 900 images/s (A100), 1,459 (H100)
  MAE ViT-B, pre-training, in PyTorch: 313 images/s (A6000)"""


@dataclasses.dataclass(frozen=True)
class Case:
    """A training step to time."""

    task: str
    size: str
    image_size: int
    patch_size: int
    batch: int
    decoder: tuple[int, int, int]  # width, depth, heads
    steps: int  # per turn
    dtype: str = "float32"
    attention: str = "auto"
    remat: bool = False


BASE, TINY = ("base", 224, 16), ("tiny", 64, 8)
DECODER = (512, 8, 16)
ON_CPU = {
    "pretrain_base_8": Case("pretrain", *BASE, 8, DECODER, 1),
    "pretrain_base_32": Case("pretrain", *BASE, 32, DECODER, 1),
    "pretrain_tiny_64": Case("pretrain", *TINY, 64, (128, 4, 4), 2),
    "finetune_base_16": Case("finetune", *BASE, 16, DECODER, 1),
}
VARIANTS: dict[str, dict[str, Any]] = {"": {}, "_xla": {"attention": "xla"}, "_remat": {"remat": True}}
ON_GPU = {
    f"{task}_base_{batch}{name}": Case(task, *BASE, batch, DECODER, 10, "bfloat16", **options)
    for task in ("pretrain", "finetune")
    for batch in (64, 128, 256, 512)
    for name, options in VARIANTS.items()
}
CASES = ON_CPU | ON_GPU


def ours(case: Case) -> tuple[Callable[[int], None], dict[str, Any]]:
    """A function that runs a number of updates, and properties of one update and of the device."""
    import jax
    import numpy as np

    from mae_jax.config.fields import RunConfig, defaults
    from mae_jax.config.schedule import resolve
    from mae_jax.config.validation import typed
    from mae_jax.runtime import machine
    from mae_jax.step import from_config, sharding, state, train_step

    machine.keep_memory()
    config = defaults(case.task)
    width, depth, heads = case.decoder
    config.model.update(size=case.size, image_size=case.image_size, patch_size=case.patch_size)
    config.model.update(decoder_width=width, decoder_depth=depth, decoder_heads=heads)
    config.train.update(batch_size=case.batch, remat=case.remat)
    config.model.update(dtype=case.dtype, attention=case.attention)
    mesh = sharding.make_mesh()
    run_config = typed(config, RunConfig)
    resolved = resolve(run_config, 1000, 1)
    spec = from_config.spec_of(run_config, resolved, mesh, n_classes=5 if case.task == "finetune" else 0)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (case.batch, case.image_size, case.image_size, 3), np.uint8),
        "label": rng.integers(0, 5, case.batch).astype(np.int32),
        "index": np.arange(case.batch, dtype=np.int32),
        "mask": np.ones(case.batch, np.float32),
    }
    batch = sharding.put_batch(batch, mesh)
    current = [state.init_state(spec, 0)]
    rest = (batch, np.int32(0), np.float32(1e-5))
    memory = cast(Any, train_step.train_step.lower(spec, current[0], *rest).compile().memory_analysis())

    def run(steps: int) -> None:
        waiting = None
        for _ in range(steps):
            current[0], metrics = train_step.train_step(spec, current[0], *rest)
            if waiting is not None:
                float(waiting)
            waiting = metrics["loss"]
        jax.block_until_ready((current[0], waiting))

    jaxpr = jax.make_jaxpr(train_step.train_step, static_argnums=0)(spec, current[0], *rest)
    return run, {
        "flops": matrix_flops(jaxpr.jaxpr),
        "program_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "device": jax.devices()[0].device_kind,
        "attention": spec.shape.attention,
    }


def matrix_flops(jaxpr) -> float:
    """Floating-point operations of the matrix products in a program; a multiply-add counts as 2."""
    total = 0.0
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += equation.params.get("length", 1) * matrix_flops(inner)
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            depth = 1
            for axis in contracted:
                depth *= shape[axis]
            total += 2.0 * equation.outvars[0].aval.size * depth
    return total


def peer(case: Case) -> tuple[Callable[[int], None], dict[str, Any]]:
    """Like `ours`, for PyTorch and transformers."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("high")
    width, depth, heads = {"base": (768, 12, 12), "tiny": (192, 12, 3)}[case.size]
    shape = dict(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width,
        image_size=case.image_size, patch_size=case.patch_size, layer_norm_eps=1e-6, attn_implementation="sdpa",
    )  # fmt: skip
    if case.task == "pretrain":
        dw, dd, dh = case.decoder
        config = transformers.ViTMAEConfig(
            **shape, decoder_hidden_size=dw, decoder_num_hidden_layers=dd, decoder_num_attention_heads=dh,
            decoder_intermediate_size=4 * dw, mask_ratio=0.75, norm_pix_loss=True,
        )  # fmt: skip
        model = transformers.ViTMAEForPreTraining(config)
    else:
        model = transformers.ViTForImageClassification(transformers.ViTConfig(**shape, num_labels=5))
    model = model.train().to(device)
    if case.remat:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    inputs = {"pixel_values": torch.randn(case.batch, 3, case.image_size, case.image_size, device=device)}
    if case.task == "finetune":
        inputs["labels"] = torch.randint(0, 5, (case.batch,), device=device)
    call = torch.compile(model) if device == "cuda" else model

    def run(steps: int) -> None:
        waiting = None
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=case.dtype == "bfloat16"):
                loss = call(**inputs).loss
            loss.backward()
            optimizer.step()
            if waiting is not None:
                waiting.item()
            waiting = loss.detach()
        if device == "cuda":
            torch.cuda.synchronize()

    return run, {}


def peak(side: str, dtype: str) -> Callable[[], float]:
    """A function that measures the peak rate of a side's matrix products, in operations per second."""
    if side == "ours":
        import jax
        import jax.numpy as jnp

        n = PEAK_SIZE["cpu" if jax.default_backend() == "cpu" else "gpu"]
        matrix = jnp.ones((n, n), dtype)
        product = jax.jit(jnp.matmul)

        def multiply(times: int) -> None:
            jax.block_until_ready([product(matrix, matrix) for _ in range(times)])
    else:
        import torch  # pyright: ignore[reportMissingImports]

        device = "cuda" if torch.cuda.is_available() else "cpu"
        n = PEAK_SIZE["gpu" if device == "cuda" else "cpu"]
        matrix = torch.ones((n, n), device=device, dtype=getattr(torch, dtype))

        def multiply(times: int) -> None:
            for _ in range(times):
                torch.mm(matrix, matrix)
            if device == "cuda":
                torch.cuda.synchronize()

    multiply(1)

    def measure() -> float:
        began = time.perf_counter()
        multiply(4)
        return 4 * 2 * n**3 / (time.perf_counter() - began)

    return measure


def device_bytes(side: str) -> int:
    """The most memory that the process has used on its GPU so far; 0 on a CPU."""
    if side == "ours":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    import torch  # pyright: ignore[reportMissingImports]

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def work(side: str, name: str) -> None:
    """The process of one side. For each line of input, it runs a turn and prints a line of JSON."""
    case = CASES[name]
    run, about = (ours if side == "ours" else peer)(case)
    measure = peak(side, case.dtype)
    run(2)
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        peak_rate = measure()
        wall, cpu = time.perf_counter(), time.process_time()
        run(case.steps)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        resident = next(int(x.split()[1]) for x in open("/proc/self/status") if x.startswith("VmHWM"))
        values = {"wall": wall / case.steps, "cpu": cpu / case.steps, "peak": peak_rate, "resident": resident * 1024}
        values["device"] = device_bytes(side)
        print(json.dumps(values), flush=True)


def compare(name: str, sides: list[str], rounds: int) -> dict[str, float]:
    """Measures one case in `rounds` turns of each side."""
    # Two processes share a GPU, so neither takes its memory in advance.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, str(Path(__file__).resolve()), "--case", name, "--worker"]
    pipe = subprocess.PIPE
    processes = {s: subprocess.Popen([*command, s], stdin=pipe, stdout=pipe, text=True, env=environment) for s in sides}

    def line(side: str) -> dict[str, Any]:
        stdout = processes[side].stdout
        assert stdout is not None
        text = stdout.readline()
        if not text:
            raise SystemExit(f"error: the process of {side} for {name} exited; see its message above")
        return json.loads(text)

    try:
        about = {side: line(side) for side in sides}
        turns = {side: [] for side in sides}
        for _ in range(rounds):
            for side in sides:
                stdin = processes[side].stdin
                assert stdin is not None
                stdin.write("go\n")
                stdin.flush()
                turns[side].append(line(side))
    finally:
        for process in processes.values():
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
    medians = {s: {k: statistics.median(t[k] for t in turns[s]) for k in turns[s][0]} for s in sides}
    mine, case = medians["ours"], CASES[name]
    highest = max(m["peak"] for m in medians.values())
    out = {
        "images_per_s": case.batch / mine["wall"],
        "peak_share": about["ours"]["flops"] / mine["wall"] / highest,
        "matrix_peak_gflops": highest / 1e9,
        "cpu_seconds": mine["cpu"],
        "resident_gib": mine["resident"] / 2**30,
        "program_gib": about["ours"]["program_bytes"] / 2**30,
    }
    if mine["device"]:
        rate = about["ours"]["flops"] / mine["wall"]
        sheet = next((peak for name, peak in DATA_SHEETS.items() if name in about["ours"]["device"]), None)
        out |= {"device_gib": mine["device"] / 2**30, "cudnn": float(about["ours"]["attention"] == "cudnn")}
        out |= {"data_sheet_share": rate / sheet / 1e12} if sheet else {}
    if "peer" in sides:
        theirs = medians["peer"]
        out |= {
            "peer_images_per_s": case.batch / theirs["wall"],
            "ratio": theirs["wall"] / mine["wall"],
            "peer_cpu_seconds": theirs["cpu"],
            "cpu_ratio": theirs["cpu"] / mine["cpu"],
            "peer_resident_gib": theirs["resident"] / 2**30,
        }
        out |= {"peer_device_gib": theirs["device"] / 2**30} if theirs["device"] else {}
    return out


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmark.py step", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--peers", action="store_true", help="also time PyTorch and transformers (needs the extra [peers])"
    )
    parser.add_argument("--case", nargs="+", choices=CASES, help="cases to time (default: those of this machine)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side after the warm-up (default 7)")
    parser.add_argument("--worker", choices=("ours", "peer"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        return work(arguments.worker, *arguments.case)
    from mae_jax.runtime.hardware import nvidia_gpus

    results = {}
    if nvidia_gpus():
        print(PUBLISHED)
    for name in arguments.case or (ON_GPU if nvidia_gpus() else ON_CPU):
        results[name] = compare(name, ["ours", "peer"] if arguments.peers else ["ours"], arguments.rounds)
        print(name, *(f"{k} {v:.4g}" for k, v in results[name].items()), sep="  ", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
