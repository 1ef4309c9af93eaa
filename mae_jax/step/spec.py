"""What a compiled step depends on."""

import dataclasses

from jax.sharding import Mesh
from jaxtyping import Array

from mae_jax.models.vit import Shape
from mae_jax.step.optimizer import Optimizer

# Purposes of randomness: each is folded into the seed, so that none shares its numbers with another.
INIT, MASK, DROP, EVAL_MASK, MIX = range(5)

# What each task optimizes; "none": its head is solved for, or it has none, on features of the frozen encoder.
OBJECTIVES = {
    "pretrain": "reconstruction",
    "finetune": "classification",
    "linear_probe": "frozen_classification",
    "lbfgs": "none",
    "knn": "none",
}

Batch = dict[str, Array]  # image: b h w 3 uint8; label, index: b int32; mask: b float32, 0 = padding


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a compiled step depends on."""

    objective: str  # one of the values of OBJECTIVES
    shape: Shape
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
    class_weights: tuple[float, ...] = ()  # of each class's images in the loss; (): 1
    trained: str = ""  # the parameters whose path matches are trained, the others have no optimiser state; "": all

    @property
    def kind(self) -> str:
        """Which network."""
        return "mae" if self.objective == "reconstruction" else "vit"
