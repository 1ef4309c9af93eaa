"""`StepSpec`: everything a compiled step depends on. Also the content of a batch and the purposes of randomness."""

import dataclasses

from jax.sharding import Mesh
from jaxtyping import Array

from mae_jax.models.vit import ViTConfig
from mae_jax.step.optimizer import Optimizer

# Purposes of randomness. Each is folded into the seed, so that no two purposes share random numbers.
INIT, MASK, DROP, EVAL_MASK, MIX = range(5)

Batch = dict[str, Array]  # image: b h w 3 uint8; label, index: b int32; mask: b float32, 0 = padding


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """Everything a compiled step depends on. Hashable, so that runs with equal values share compiled code."""

    objective: str  # see `config.tasks.Traits`
    shape: ViTConfig
    optimizer: Optimizer
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    batch_size: int  # real rows of a batch; the others are padding
    accumulation: int
    mask_ratio: float
    norm_pix: bool
    label_smoothing: float
    mesh: Mesh
    visible_weight: float = 0.0
    mixup: float = 0.0  # alpha; 0: off
    cutmix: float = 0.0  # alpha; 0: off
    class_weights: tuple[float, ...] = ()  # weight of each class in the loss; (): all 1
    trained: str = ""  # regular expression for paths of trained parameters; the rest has no optimizer state; "": all

    @property
    def kind(self) -> str:
        """The kind of network: mae or vit."""
        return "mae" if self.objective == "reconstruction" else "vit"
