"""Five virtual CPU devices for every test; shapes and types of signatures checked while they run."""

import os
import tempfile
import time

# Tests spend more time compiling than running, so the compiler optimizes little.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=5 {QUICK}"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="mae_jax-xla-"))

import beartype
import numpy as np
import pytest
from jaxtyping import install_import_hook
from ml_collections import ConfigDict

# Signatures are checked where functions need not travel to Grain's worker processes. An int may stand for
# a float.
CHECKED = ["checkpoints", "evaluation", "models", "report", "rundir", "step", "study", "train", "weights"]
CHECKED += ["data.splits", "data.subsets", "runtime.command", "runtime.disk", "runtime.processes", "runtime.signals"]
from mae_jax.config import fields

# Tests pass configs that can still be changed instead of frozen ones.
GROUPS = [kind for kind in vars(fields).values() if isinstance(kind, type) and issubclass(kind, fields.Fields)]
CHECK = beartype.BeartypeConf(
    is_pep484_tower=True,
    hint_overrides=beartype.BeartypeHintOverrides({kind: kind | ConfigDict for kind in GROUPS}),
)
install_import_hook(
    [f"mae_jax.{name}" for name in CHECKED], f"beartype.beartype(conf=__import__('sys').modules['{__name__}'].CHECK)"
)

from mae_jax.config.fields import RunConfig, defaults

NO_TIME = "no time left"


def pytest_addoption(parser):
    parser.addoption(
        "--start-before",
        type=float,
        metavar="TIME",
        help="skip tests that begin later, in seconds since 1970 (date +%%s)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    before = item.config.getoption("--start-before")
    if before is not None and time.time() >= before:
        pytest.skip(NO_TIME)


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--start-before") is not None:
        skipped = terminalreporter.stats.get("skipped", [])
        late = sum(NO_TIME in str(report.longrepr) for report in skipped)
        terminalreporter.write_line(f"{late} tests were not started: {NO_TIME}")


class ChangeableConfig(ConfigDict):
    """A config that a test can still change, with the properties of a `RunConfig`."""

    traits, has_network = RunConfig.traits, RunConfig.has_network


@pytest.fixture(scope="session")
def tiny_config():
    """Makes the config of a run that takes a second: generated images, a very small network."""

    def make(task: str = "finetune", **fields) -> ConfigDict:
        config = ChangeableConfig(defaults(task))
        config.data.update(
            source="synthetic",
            synthetic_train=60,
            synthetic_test=23,
            synthetic_unlabelled=40,
            synthetic_size=32,
            threads=2,
            crop_scale=(0.5, 1.0),
        )
        config.model.update(
            size="custom", image_size=16, patch_size=8, width=16, depth=2, heads=2,
            decoder_width=8, decoder_depth=1, decoder_heads=2,
        )  # fmt: skip
        config.train.update(epochs=2.0, batch_size=16, batch_per_device=0)
        config.optim.update(base_lr=1e-2, warmup_epochs=0.5)
        config.eval.update(batch_size=10, images=2)
        config.log.update(every_steps=3, tensorboard=False)
        with config.unlocked():
            config.update_from_flattened_dict(fields)
        return config

    return make


@pytest.fixture(scope="session")
def quick_xla() -> str:
    """XLA_FLAGS for processes that a test starts: one device, and little optimization by the compiler."""
    return QUICK


@pytest.fixture
def environment(quick_xla) -> dict[str, str]:
    """For processes that a test starts."""
    return os.environ | {"XLA_FLAGS": quick_xla}


@pytest.fixture
def images():
    """Four random images, 16 x 16."""
    return np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
