"""The objective of a run without a network, whose features come from elsewhere: it has no parameters and no updates."""

import dataclasses
from typing import Any

from jaxtyping import Array, Int

from mae_jax.config.fields import RunConfig
from mae_jax.models import Params
from mae_jax.models.vit import ViTConfig
from mae_jax.step.spec import Batch, Objective, StepSpec


@dataclasses.dataclass(frozen=True)
class NoNetwork(Objective):
    """An objective for runs that make no step and evaluate no network."""

    @classmethod
    def of(cls, config: RunConfig) -> "NoNetwork":
        return cls()

    def init(self, shape: ViTConfig, key: Array) -> Params:
        return {}

    def loss(
        self, spec: StepSpec, params: Params, batch: Batch, key: Array, shared: Any
    ) -> tuple[Array, dict[str, Array]]:
        raise TypeError("a run without a network makes no update")

    def evaluate(self, spec: StepSpec, params: Params, batch: Batch, seed: Int[Array, ""]) -> dict[str, Array]:
        raise TypeError("a run without a network evaluates none")
