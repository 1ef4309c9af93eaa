"""`Objective` and `StepSpec`: everything a compiled step depends on. Also the content of a batch, and random keys."""

import abc
import dataclasses
from typing import Any, ClassVar

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from mae_jax.config.fields import RunConfig
from mae_jax.models import Params
from mae_jax.models.vit import ViTConfig
from mae_jax.step.optimizer import Optimizer
from mae_jax.step.stain import Augmentation

# Purposes of randomness. Each is folded into the seed, so that no two purposes share random numbers.
INIT, MASK, DROP, EVAL_MASK, MIX, STAIN = range(6)

# image: b h w 3 uint8; original: image before `StepSpec.stain`, in training; label, index: b int32; mask: b float32,
# 0 = padding
Batch = dict[str, Array]


def key_for(seed: Int[Array, ""], purpose: int, step: Int[Array, ""]) -> Array:
    """The random key of one update for one purpose."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), step)


class Objective(abc.ABC):
    """A network, the loss that an update minimizes, and what evaluation measures.

    A subclass is a frozen dataclass. Its fields are the settings of the loss, so equal objectives share compiled code.
    `config.tasks` names the subclass of each task; no other module compares objectives. All methods but `of` are traced
    by JAX and must be pure. `params` always have the network's own shapes.
    """

    trained: ClassVar[str] = ""  # regular expression for paths of parameters that are trained; "": those of the config
    measures: ClassVar[tuple[str, ...]] = ("loss",)  # values of `evaluate` whose means a pre-training reports
    accumulates: ClassVar[bool] = True  # False: `prepare` splits the batch itself, so the loss gets it in one piece

    @classmethod
    @abc.abstractmethod
    def of(cls, config: RunConfig) -> "Objective":
        """The objective with the settings of a run's config."""

    @abc.abstractmethod
    def init(self, shape: ViTConfig, key: Array) -> Params:
        """Initial parameters. `encoder` holds those of `models.vit.Encoder`, which other runs can start from."""

    def running(self) -> dict[str, Array]:
        """Arrays besides parameters that training updates, such as a curriculum; {} for none.

        They are part of the checkpoint, next to the optimizer state.
        """
        return {}

    def timed(self, running: dict[str, Array], period: int, warmup: int) -> dict[str, Array]:
        """`running` before the first update of a run with `period` updates between evaluations, `warmup` to warm up."""
        return running

    def advance(
        self, spec: "StepSpec", running: dict[str, Array], metrics: dict[str, Array], step: Int[Array, ""]
    ) -> dict[str, Array]:
        """`running` after update `step`, whose metrics are `metrics`."""
        return running

    def prepare(
        self,
        spec: "StepSpec",
        params: Params,
        batch: Batch,
        seed: Int[Array, ""],
        step: Int[Array, ""],
        running: dict[str, Array],
    ) -> tuple[Params, Batch, Any]:
        """What an update does once for the whole batch, before it is split into micro-batches.

        Returns parameters to replace, by their names at the top level, such as running statistics or a teacher; the
        batch for `loss`; and arrays without rows that `loss` receives as `shared`. Draw random numbers of rows here:
        results then depend neither on devices nor on micro-batches.
        """
        return {}, batch, None

    @abc.abstractmethod
    def loss(
        self, spec: "StepSpec", params: Params, batch: Batch, key: Array, shared: Any
    ) -> tuple[Array, dict[str, Array]]:
        """Sums over the real rows of a (micro-)batch: the loss to minimize, and the metrics that training reports.

        `batch["mask"]` is 0 for padding. One of the metrics is `loss`. `key` differs between steps and micro-batches.
        """

    @abc.abstractmethod
    def evaluate(self, spec: "StepSpec", params: Params, batch: Batch, seed: Int[Array, ""]) -> dict[str, Array]:
        """Values per image (b ...), among them `measures`. They depend on parameters, `seed` and image alone.

        A classifier's are `probabilities` (b classes) and `loss` (b).
        """


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """Everything a compiled step depends on. Hashable, so that runs with equal values share compiled code."""

    objective: Objective
    shape: ViTConfig
    optimizer: Optimizer
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    batch_size: int  # real rows of a batch; the others are padding
    accumulation: int
    mesh: Mesh
    trained: str = ""  # regular expression for paths of trained parameters; the rest has no optimizer state; "": all
    stain: Augmentation | None = None  # of training images
