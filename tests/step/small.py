"""A very small network with each objective, a mesh, and drawn batches, for the tests of the steps."""

import dataclasses

import jax
import numpy as np

from mae_jax.models.vit import ViTConfig
from mae_jax.step.objectives.classification import Classification
from mae_jax.step.objectives.frozen_classification import FrozenClassification
from mae_jax.step.objectives.reconstruction import Reconstruction
from mae_jax.step.optimizer import Optimizer
from mae_jax.step.spec import StepSpec

SHAPE = ViTConfig(16, 4, 16, 1, 2, decoder_width=8, decoder_depth=1, decoder_heads=2, n_classes=3)
OBJECTIVES = {
    "pretrain": Reconstruction(mask_ratio=0.5, norm_pix=True),
    "finetune": Classification(),
    "linear_probe": FrozenClassification(),
}
OPTIMIZER = Optimizer(0.9, 0.95, 0.1, r"(^|/)(bias|scale)$", 0.0, 1.0)


def mesh_of(devices: int, fsdp: int = 1):
    grid = np.array(jax.devices()[:devices]).reshape(devices // fsdp, fsdp)
    return jax.sharding.Mesh(grid, ("data", "fsdp"))


def spec_of(task, mesh, **fields):
    values = dict(shape=SHAPE, optimizer=OPTIMIZER, mean=(0.5,) * 3, std=(0.25,) * 3, batch_size=8, accumulation=1)
    names = [field.name for field in dataclasses.fields(OBJECTIVES[task])]
    settings = {name: fields.pop(name) for name in names if name in fields}
    return StepSpec(dataclasses.replace(OBJECTIVES[task], **settings), mesh=mesh, **(values | fields))


def batch_of(step, rows, size=8):
    rng = np.random.default_rng(step)
    batch = {
        "image": rng.integers(0, 256, (size, 16, 16, 3), np.uint8),
        "label": rng.integers(0, 3, size).astype(np.int32),
        "index": np.arange(size, dtype=np.int32),
        "mask": np.ones(size, np.float32),
    }
    return {k: np.pad(v, [(0, rows - size)] + [(0, 0)] * (v.ndim - 1)) for k, v in batch.items()}
