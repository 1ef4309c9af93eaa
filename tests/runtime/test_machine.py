"""Start of a run: imports before the first step, the compilation cache, malloc, precision and attention kernel."""

import platform
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from mae_jax.runtime import machine
from mae_jax.runtime.errors import UserError
from mae_jax.step import from_config, sharding
from mae_jax.train.build import build

ROOT = Path(__file__).parents[2]
# A run up to its first step, with TensorBoard files, as by default.
START = """
import sys
from pathlib import Path
from absl import logging
logging.set_verbosity(logging.FATAL)  # as the command does, because Grain warns about an older jaxlib
import jax
from mae_jax.train import loop
from mae_jax.config import defaults

hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("/cache_hits") else None)
config = defaults("finetune")
config.data.update(source="synthetic", synthetic_train=40, synthetic_test=13, synthetic_size=32, threads=1)
config.model.update(size="custom", image_size=16, patch_size=8, width=16, depth=3, heads=2)
config.train.update(batch_size=8, steps=2)
original = loop.train_step

def step(*arguments):
    done = original(*arguments)
    done[1]["loss"].block_until_ready()
    print("tensorflow" in sys.modules, len(hits))
    sys.exit(0)

loop.train_step = step
loop.run(config, Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_the_second_run_compiles_nothing_and_tensorflow_is_not_imported_early(tmp_path, environment):
    """The first run stores its compiled functions in the user's cache directory; the second loads them."""
    environment = environment | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    lines = []
    for workdir in ("one", "two"):
        command = [sys.executable, "-c", START, str(tmp_path / workdir)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert not done.stderr.strip(), done.stderr
        lines.append(done.stdout.splitlines()[-1].split())
    assert [imported for imported, _ in lines] == ["False", "False"]
    kept = {path.name.split("-")[0] for path in (tmp_path / "mae_jax" / "xla").iterdir()}
    assert {"jit_draw", "jit_train_step"} <= kept
    assert int(lines[0][1]) == 0 and int(lines[1][1]) >= len(kept)


# Page faults of a thread that allocates 128 MiB for the second time, as XLA does at each step, and the size of the heap
# after allocating 3 GiB that are never touched.
FAULTS = """
import ctypes, resource, threading
from mae_jax.runtime import machine

kept, libc = machine.keep_memory(), ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.malloc.argtypes, libc.sbrk.restype = [ctypes.c_size_t], ctypes.c_void_p

def take():
    block = libc.malloc(2**27)
    libc.memset(block, 1, 2**27)
    libc.free(block)

def twice():
    take()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    take()
    faults, end = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, libc.sbrk(0)
    libc.free(libc.malloc(3 * 2**30))
    print(kept, faults, libc.sbrk(0) - end)

thread = threading.Thread(target=twice)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's malloc")
def test_freed_memory_is_kept_unless_that_is_turned_off(environment):
    collected = []
    for setting in ("1", "0"):
        environment |= {"JAX_PLATFORMS": "cpu", "MAE_JAX_KEEP_MEMORY": setting, "GLIBC_TUNABLES": ""}
        command = [sys.executable, "-c", FAULTS]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        collected.append(done.stdout.split())
    (kept, few, large), (given_back, many, _) = collected
    assert (kept, given_back) == ("True", "False")
    assert int(few) < 100 and int(many) > 10 * int(few)
    assert int(large) > 2**31


class Device:
    """A fake device."""

    def __init__(self, device_kind, compute_capability=None):
        self.device_kind = device_kind
        if compute_capability:
            self.compute_capability = compute_capability


@pytest.mark.parametrize(
    ("backend", "device", "dtype", "attention"),
    [
        ("cpu", Device("cpu"), "float32", "xla"),
        ("gpu", Device("NVIDIA H100", "9.0"), "bfloat16", "cudnn"),
        ("gpu", Device("Tesla T4", "7.5"), "float32", "xla"),
        ("gpu", Device("AMD Instinct MI300X", "gfx942"), "float32", "xla"),
        ("tpu", Device("TPU v5 lite"), "bfloat16", "xla"),
    ],
)
def test_precision_and_attention_suit_the_device(monkeypatch, tiny_config, backend, device, dtype, attention):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    heads = {"model.width": 64, "model.decoder_width": 32}
    shape = from_config.shape_of(tiny_config("pretrain", **heads))
    assert (shape.head_sizes, shape.dtype, shape.attention) == ((32, 16), dtype, attention)
    asked = from_config.shape_of(tiny_config(**heads, **{"model.dtype": "float32", "model.attention": "cudnn"}))
    assert (asked.dtype, asked.attention) == ("float32", "xla")
    # heads of 4 features in the decoder
    assert from_config.shape_of(tiny_config("pretrain", **{"model.width": 64})).attention == "xla"


def test_what_the_device_cannot_do_is_refused(monkeypatch, tiny_config):
    mesh = sharding.make_mesh()
    with pytest.raises(UserError, match=r"model.dtype=bfloat16 is slower and less exact .* use float32, or auto"):
        build(tiny_config(**{"model.dtype": "bfloat16"}), mesh)
    cudnn = {"model.attention": "cudnn"}
    with pytest.raises(UserError, match=r"model.attention=cudnn is not possible here: the device, cpu, is not an"):
        build(tiny_config(**cudnn), mesh)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [Device("NVIDIA H100", "9.0")])
    with pytest.raises(UserError, match=r"not possible here: it does not compute in float32; use auto, or xla"):
        build(tiny_config(**cudnn, **{"model.dtype": "float32"}), mesh)
    with pytest.raises(UserError, match=r"not possible here: heads of 8 and 4 features are not all a multiple of 8"):
        build(tiny_config("pretrain", **cudnn), mesh)


def test_a_gpu_that_jax_does_not_use_is_a_warning(monkeypatch):
    monkeypatch.setattr(machine.hardware, "nvidia_gpus", lambda: ["/dev/nvidia0"])
    monkeypatch.setattr(machine, "_forced", lambda: "")
    first, warning = machine.devices()
    assert first.startswith("devices: ") and warning.startswith("warning: this machine has an NVIDIA GPU, but JAX")
    monkeypatch.setattr(machine, "_forced", lambda: "cpu")
    assert len(machine.devices()) == 1
    monkeypatch.setattr(machine, "_forced", lambda: "")
    monkeypatch.setattr(machine.hardware, "nvidia_gpus", list)
    assert len(machine.devices()) == 1


@pytest.mark.parametrize(
    ("backend", "capability", "expected"),
    [("gpu", 7.5, "float32"), ("gpu", 8.0, "bfloat16"), ("gpu", 9.0, "bfloat16"), ("tpu", 0.0, "bfloat16"),
     ("cpu", 0.0, "float32")],
)  # fmt: skip
def test_auto_is_bfloat16_from_compute_capability_8_on(monkeypatch, backend, capability, expected):
    monkeypatch.setattr(machine, "_nvidia", lambda: capability)
    monkeypatch.setattr(machine.jax, "default_backend", lambda: backend)
    assert machine.precision("auto") == expected and machine.precision("float32") == "float32"
    assert (machine.no_cudnn("bfloat16", (64,)) == "") == (capability >= 8)
