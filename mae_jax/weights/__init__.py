"""Import and export of weights: Hugging Face (ViTMAE, ViT, DINOv2), timm, facebookresearch/mae.

`read` opens a file or folder and accounts for every key. `transfer.compare` and `transfer.transfer` copy the result
into a network.

    from mae_jax import models, weights

    loaded = weights.read("vit_base_patch16_224.mae/model.safetensors")
    tokens = models.apply("encoder", loaded.shape, loaded.params["encoder"], images)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mae_jax.weights.reader import Weights, read

__all__ = ["Weights", "read"]


def __getattr__(name: str) -> Any:
    """Imports `read` and `Weights` on first use, so that modules that only look at files do not start JAX."""
    if name in __all__:
        from mae_jax.weights import reader

        return getattr(reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
