"""The arithmetic of the benchmarks. Nothing is timed."""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.config.fields import RunConfig, defaults
from mae_jax.config.schedule import resolve
from mae_jax.config.validation import typed, validate
from mae_jax.models import kernels
from mae_jax.step import from_config, sharding, state, train_step

ROOT = Path(__file__).parents[2]
TINY = [
    f"--config.{part}.{field}"
    for part in ("pretrain", "finetune")
    for field in (
        "model.size=custom", "model.image_size=16", "model.patch_size=8", "model.width=16", "model.depth=1",
        "model.heads=2", "train.batch_size=8", "train.batch_per_device=0", "train.epochs=4.0",
    )
]  # fmt: skip
TINY += ["--config.pretrain.model.decoder_width=8", "--config.pretrain.model.decoder_depth=1"]
TINY += ["--config.pretrain.model.decoder_heads=2"]


def load(name: str):
    """A module of tools/benchmarks."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


def benchmark(environment, *arguments):
    command = [sys.executable, "tools/benchmark.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_plan_counts_products_that_are_larger_than_the_cache(monkeypatch):
    """Large products are counted like small ones: twice the images need twice the operations."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(kernels, "CACHED", 1000)
    plan = load("plan")
    config = defaults("finetune")
    config.model.update(size="custom", image_size=16, patch_size=8, width=16, depth=1, heads=2)
    collected = []
    for config.train.batch_size in (10, 160):
        collected.append(plan.measure(validate(config))["flops"] / config.train.batch_size)
    assert collected[1] > 0.8 * collected[0]  # the update's operations do not grow


def test_matrix_operations_are_counted_in_loops_and_inner_functions():
    step = load("step")
    matrix = jnp.ones((8, 8))

    def function(x):
        looped = jax.lax.scan(lambda y, _: (jax.jit(jnp.matmul)(y, matrix), None), x, length=3)
        return looped, jnp.einsum("ij,kj->ik", x, x)

    assert step.matrix_flops(jax.make_jaxpr(function)(jnp.ones((2, 8))).jaxpr) == 3 * 2 * 2 * 8 * 8 + 2 * 2 * 2 * 8


@pytest.mark.slow
def test_a_step_of_the_papers_autoencoder_has_59_gflop_an_image():
    """ViT-B/16 at 224 px with the paper's decoder: 59 GFLOP for an image, forward and backward, by XLA's own count."""
    step, images = load("step"), 2
    config = defaults("pretrain")
    config.train.batch_size, config.model.dtype = images, "float32"
    config = typed(config, RunConfig)
    mesh = sharding.make_mesh()
    spec = from_config.spec_of(config, resolve(config, 1000, 1), mesh)
    shape = jax.ShapeDtypeStruct
    batch = {"image": shape((images, 224, 224, 3), np.uint8), "index": shape((images,), np.int32)}
    batch["mask"] = shape((images,), np.float32)
    arguments = (spec, state.split_state(spec), batch, np.int32(0), np.float32(1e-3))
    jaxpr = jax.make_jaxpr(train_step.train_step, static_argnums=0)(*arguments)
    assert step.matrix_flops(jaxpr.jaxpr) / images == pytest.approx(59e9, rel=0.02)
    program = train_step.train_step.lower(*arguments).cost_analysis()
    assert program["flops"] / images == pytest.approx(59e9, rel=0.02)


def test_the_benchmark_has_cases_for_cpus_and_gpus():
    step = load("step")
    assert not step.ON_CPU.keys() & step.ON_GPU.keys()
    assert {case.dtype for case in step.ON_CPU.values()} == {"float32"}
    assert {case.dtype for case in step.ON_GPU.values()} == {"bfloat16"}
    assert {case.batch for case in step.ON_GPU.values()} == {64, 128, 256, 512}
    assert step.ON_GPU["pretrain_base_512_remat"].remat and step.ON_GPU["pretrain_base_512_xla"].attention == "xla"


@pytest.mark.slow
def test_a_plan_counts_updates_and_shares_work_among_devices(environment, tmp_path):
    study = ("--config=configs/study.py:data=synthetic,protocol=paper", f"--workdir={tmp_path}", *TINY)
    done = benchmark(environment, "plan", *study, "--pretrain_images=100", "--finetune_images=200", "--devices=1,4")
    assert done.returncode == 0, done.stderr
    rows = [[c.strip() for c in x.split("|")[1:-1]] for x in done.stdout.splitlines() if x.startswith(("| 1", "| 4"))]
    kinds = [(row[0], row[1], row[2], row[6], row[7]) for row in rows]
    fine = 2 * 4 * (1 + 3 + 13 + 25)  # initial weights x epochs x batches of 8 in 1, 10, 50 and 100 % of 200 images
    assert kinds == [
        ("1", "pretrain", "8", "1", "52"), ("1", "finetune", "8", "8", str(fine)), ("1", "all", "", "", ""),
        ("4", "pretrain", "8", "1", "52"), ("4", "finetune", "8", "8", str(fine)), ("4", "all", "", "", ""),
    ]  # fmt: skip
    text = " ".join(done.stdout.split())  # the estimate is wrapped into lines
    assert "100 unlabeled and 200 labeled images" in text
    assert "not counted are 4 probes" in text  # of random weights, one for each fraction


@pytest.mark.slow
def test_a_plan_counts_linear_probes_and_mentions_runs_without_steps(environment, tmp_path):
    study = ("--config=configs/study.py:data=synthetic,protocol=paper", f"--workdir={tmp_path}", *TINY)
    more = ("--config.evaluations=('linear_probe','knn')", "--config.fractions=(1.0,)", "--devices=1")
    done = benchmark(environment, "plan", *study, *more)
    assert done.returncode == 0, done.stderr
    assert "| 1 | linear_probe |" in done.stdout and "probes without training steps" in " ".join(done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "flag", ["devices=abc", "devices=0", "devices=-4", "peak=0", "reached=nan", "reached=2", "pretrain_images=-5"]
)
def test_a_plan_for_impossible_machines_is_refused(environment, tmp_path, flag):
    done = benchmark(environment, "plan", "--config=configs/pretrain.py:data=synthetic", f"--{flag}")
    name = flag.partition("=")[0]
    assert done.returncode == 2 and f"error: --{name}" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_growth_is_the_slope_of_logarithms():
    growth = load("growth")
    sizes = [10, 100, 1000]
    assert growth.exponent(sizes, [3.0 * n**2 for n in sizes]) == pytest.approx(2)
    assert growth.exponent(sizes, [5.0, 5.0, 5.0]) == pytest.approx(0)
    assert math.isnan(growth.exponent(sizes[:1], [1.0])) and math.isnan(growth.exponent(sizes, [0.0, 1.0, 2.0]))


@pytest.mark.slow
def test_a_start_opens_each_image_once_whatever_the_number_of_test_sets(environment):
    done = benchmark(environment, "growth", "--small", "--only", "start", "help")
    assert done.returncode == 0, done.stderr
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    opened = {(row[0], row[1]): int(row[4]) for row in rows if row[4]}
    for sets, kind in ((2, "start"), (4, "start, 3 external")):
        assert [opened[kind, str(n)] for n in (100, 200, 400)] == [n + sets * n // 10 for n in (100, 200, 400)]
    assert rows[-1][0] == "help"


def test_an_unknown_benchmark_is_refused(environment):
    done = benchmark(environment, "nothing")
    assert done.returncode == 2 and "'nothing' is not a benchmark; use one of" in done.stderr
