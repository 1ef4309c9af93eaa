"""Weights of other code, in: Hugging Face (ViTMAE, ViT, DINOv2), timm, facebookresearch/mae.

`read` opens a file or folder and accounts for every key; `compare` and `transfer` put what
it found into a network.

    from mae_jax import interop, models
    weights = interop.read("vit_base_patch16_224.mae/model.safetensors")
    tokens = models.apply("encoder", weights.shape, weights.params["encoder"], images)
"""

from mae_jax.interop.transfer import compare, transfer
from mae_jax.interop.weights import Weights, read

__all__ = ["Weights", "compare", "read", "transfer"]
