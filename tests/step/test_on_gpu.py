"""On an NVIDIA GPU: the step in bfloat16, cuDNN's attention, recomputed activations, and the benchmark's cases.

Each test computes in a separate process, because the other tests use virtual CPU devices.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mae_jax.runtime.hardware import nvidia_gpus

ROOT = Path(__file__).parents[2]
SEEN = """
import jax
print(jax.devices()[0].platform)
"""
LOSSES = """
import json, sys
import jax, numpy as np
from mae_jax.config.fields import RunConfig, defaults
from mae_jax.config.schedule import resolve
from mae_jax.config.validation import typed
from mae_jax.step import from_config, sharding, state, train_step

task, fields = sys.argv[1], json.loads(sys.argv[2])
config = defaults(task)
config.model.update(size="custom", image_size=64, patch_size=8, width=128, depth=3, heads=2)
config.model.update(decoder_width=128, decoder_depth=2, decoder_heads=2)
config.train.batch_size = 32
config.update_from_flattened_dict(fields)
config = typed(config, RunConfig)
mesh = sharding.make_mesh()
spec = from_config.spec_of(config, resolve(config, 1000, mesh.size), mesh, n_classes=5 if task == "finetune" else 0)
rng = np.random.default_rng(0)
batch = {
    "image": rng.integers(0, 256, (32, 64, 64, 3), np.uint8), "label": rng.integers(0, 5, 32).astype(np.int32),
    "index": np.arange(32, dtype=np.int32), "mask": np.ones(32, np.float32),
}
current, losses = state.init_state(spec, 0), []
for _ in range(5):
    placed = sharding.put_batch(batch, mesh)
    current, values = train_step.train_step(spec, current, placed, np.int32(0), np.float32(1e-3))
    losses.append(float(values["loss"]))
print(json.dumps({"losses": losses, "attention": spec.shape.attention, "dtype": spec.shape.dtype}))
"""


def compute(environment: dict[str, str], program: str, *arguments: str, platforms: str = "") -> str:
    """The last line that a program prints. `platforms`: JAX's devices; "" for the GPU."""
    environment = {key: value for key, value in environment.items() if key != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": platforms, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture
def gpu(environment):
    """The environment of a process that computes on a GPU. Skips the test where there is none."""
    if not nvidia_gpus():
        pytest.skip("this machine has no NVIDIA GPU")
    if compute(environment, SEEN) != "gpu":
        pytest.skip("JAX does not use this machine's NVIDIA GPU; install the extra cuda12 or cuda13")
    return environment


@pytest.mark.gpu
@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_losses_on_a_gpu_are_those_of_a_cpu(gpu, task):
    single = json.loads(compute(gpu, LOSSES, task, json.dumps({"model.dtype": "float32"}), platforms="cpu"))["losses"]
    for attention in ("xla", "cudnn"):
        fields = {"model.dtype": "bfloat16", "model.attention": attention}
        half = json.loads(compute(gpu, LOSSES, task, json.dumps(fields)))
        assert half["attention"] == attention
        assert half["losses"] == pytest.approx(single, rel=0.02)
    again = json.loads(compute(gpu, LOSSES, task, json.dumps({"model.dtype": "bfloat16", "train.remat": True})))
    assert again["losses"] == pytest.approx(single, rel=0.02)


@pytest.mark.gpu
def test_a_gpu_of_the_last_years_computes_in_bfloat16_with_cudnns_attention(gpu):
    chosen = json.loads(compute(gpu, LOSSES, "finetune", "{}"))
    assert (chosen["dtype"], chosen["attention"]) == ("bfloat16", "cudnn")


@pytest.mark.gpu
def test_the_benchmark_measures_the_gpu(gpu):
    gpu = {key: value for key, value in gpu.items() if key != "XLA_FLAGS"} | {"JAX_PLATFORMS": ""}
    command = [sys.executable, "tools/benchmark.py", "step", "--case", "pretrain_base_64", "--rounds", "1"]
    done = subprocess.run(command, cwd=ROOT, env=gpu, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])["pretrain_base_64"]
    assert measured["images_per_s"] > 0 and measured["device_gib"] > 0.5 and 0 < measured["peak_share"] < 1
