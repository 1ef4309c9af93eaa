"""Import and export of weights: Hugging Face (ViTMAE, ViT, DINOv2), timm, facebookresearch/mae.

`read` opens a file or folder and accounts for every key. `transfer.compare` and `transfer.transfer` copy the result
into a network.

    from mae_jax import models, weights

    loaded = weights.read("vit_base_patch16_224.mae/model.safetensors")
    tokens = models.apply("encoder", loaded.shape, loaded.params["encoder"], images)
"""

from mae_jax.weights.reader import Weights, read

__all__ = ["Weights", "read"]
