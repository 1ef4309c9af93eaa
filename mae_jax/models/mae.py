"""Masked autoencoder (He et al. 2022): encode the visible patches, predict all of them."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mae_jax.models.layers import Block, LayerNorm, Linear, run_block
from mae_jax.models.patches import gather_tokens, position_embedding, random_masking
from mae_jax.models.vit import Encoder, ViTConfig


class Decoder(nnx.Module):
    """A narrow transformer over visible and mask tokens that predicts the pixels of each patch."""

    def __init__(self, shape: ViTConfig, *, rngs: nnx.Rngs):
        width, dtype = shape.decoder_width, shape.dtype
        self.embed = Linear(shape.width, width, dtype=dtype, rngs=rngs)
        token = jax.nn.initializers.normal(0.02)
        self.mask_token = nnx.Param(token(rngs.params(), (1, 1, width), jnp.float32))
        for i in range(shape.decoder_depth):
            block = Block(
                width, shape.decoder_heads, shape.mlp_ratio, rate=0.0, dtype=dtype, rngs=rngs, norm_eps=shape.norm_eps,
                attention=shape.attention, mlp=shape.mlp,
            )  # fmt: skip
            setattr(self, f"block_{i:02d}", block)
        self.norm = LayerNorm(width, shape.norm_eps)
        self.pred = Linear(width, 3 * shape.patch_size**2, dtype=dtype, rngs=rngs)
        self.shape = shape

    def __call__(self, latent: Float[Array, "b t d"], ids_restore: Array) -> Float[Array, "b n p"]:
        tokens = self.embed(latent)
        b, v, width = tokens.shape[0], tokens.shape[1] - 1, tokens.shape[2]
        removed = jnp.broadcast_to(self.mask_token[...].astype(tokens.dtype), (b, ids_restore.shape[1] - v, width))
        patches = gather_tokens(jnp.concatenate([tokens[:, 1:], removed], axis=1), ids_restore)
        positions = jnp.asarray(position_embedding(self.shape.grid, width), tokens.dtype)
        tokens = jnp.concatenate([tokens[:, :1], patches + positions], axis=1)
        for i in range(self.shape.decoder_depth):
            tokens = run_block(getattr(self, f"block_{i:02d}"), tokens, remat=self.shape.remat)
        return self.pred(self.norm(tokens[:, 1:])).astype(jnp.float32)


class MAE(nnx.Module):
    """Encoder and decoder. A classifier's encoder has the same parameters as this encoder."""

    def __init__(self, shape: ViTConfig, *, rngs: nnx.Rngs):
        self.encoder = Encoder(shape, rngs=rngs)
        self.decoder = Decoder(shape, rngs=rngs)

    def __call__(
        self, images: Float[Array, "b h w c"], noise: Float[Array, "b n"], visible: int
    ) -> tuple[Float[Array, "b n p"], Float[Array, "b n"]]:
        """Predictions for all patches, and `mask` (1 = removed). The `visible` patches of smallest `noise` are kept."""
        ids_keep, ids_restore, mask = random_masking(noise, visible)
        latent = self.encoder(images, ids_keep=ids_keep)
        return self.decoder(latent, ids_restore), mask
