"""Vision transformer (Dosovitskiy et al. 2021): the encoder, and the classifier on top of it."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mae_jax.models import rotary
from mae_jax.models.kernels import LAYER_NORM_EPSILON
from mae_jax.models.layers import BatchNorm, Block, LayerNorm, Linear, PatchEmbed, dropout, run_block
from mae_jax.models.patches import gather_tokens, patchify, position_embedding
from mae_jax.runtime.text import count

SIZES = {  # width, depth, heads
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Sizes and options of a network. Hashable, so that equal networks share compiled code."""

    image_size: int  # pixels, square
    patch_size: int  # pixels, square
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    pool: str = "cls"  # cls | mean | both
    n_classes: int = 0
    head_std: float = 0.02  # of the head's initial weights; 0: Xavier-uniform
    batch_norm: bool = False  # linear probing: batch norm without scale and bias before the head
    drop_path: float = 0.0  # rate in the last block; decreases linearly to 0 in the first
    dropout: float = 0.0  # rate after the embedding and in each trained block
    frozen_blocks: int = 0  # number of first blocks that are not trained; their drop-path and dropout rates are 0
    dtype: str = "float32"
    attention: str = "xla"  # xla | cudnn (NVIDIA GPUs, 16-bit types)
    positions: str = "fixed"  # fixed (sine-cosine) | learned | rotary (`models.rotary`)
    norm_eps: float = LAYER_NORM_EPSILON
    registers: int = 0  # number of extra learned tokens, discarded at the output (Darcet et al. 2024)
    layer_scale: float = 0.0  # initial value of the residual branches' learned factors; 0: no factors
    mlp: str = "gelu"  # gelu | quick_gelu | swiglu (Shazeer 2020), whose first layer computes twice the hidden features
    pre_norm: bool = False  # a norm before the first block, as in CLIP (Radford et al. 2021)
    remat: bool = False  # keep only block inputs for the backward pass and recompute the rest
    family: str = "vit"  # vit | resnet18 (`models.resnet`, which uses only classes, head_std, batch_norm, dtype, norm)
    norm: str = "group"  # of resnet18: group | frozen_batch

    @property
    def words(self) -> str:
        """The network in words, such as "ViT with 12 blocks of width 384, 224 px in patches of 16"."""
        if self.family != "vit":
            return f"{self.family} with {self.norm.replace('_', ' ')} norm, {self.image_size} px"
        size = f"{self.image_size} px in patches of {self.patch_size}"
        return f"ViT with {count(self.depth, 'block')} of width {self.width}, {size}"

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def n_features(self) -> int:
        """Features that the head reads."""
        return self.width * (2 if self.pool == "both" else 1)

    @property
    def head_sizes(self) -> tuple[int, ...]:
        """Features per attention head of the encoder and, if there is one, of the decoder."""
        decoder = (self.decoder_width // self.decoder_heads,) if self.decoder_heads else ()
        return (self.width // self.heads, *decoder)

    @property
    def n_patches(self) -> int:
        return self.grid**2


class Encoder(nnx.Module):
    """Patch embedding, class token, positions, perhaps a norm, blocks `block_00`, `block_01`, ..., norm.

    Only patches have position embeddings. If the weights of other code have one for the class token, `weights.reader`
    adds it to `cls_token`.
    """

    def __init__(self, shape: ViTConfig, *, final_norm: bool = True, rngs: nnx.Rngs):
        self.patch_embed = PatchEmbed(shape.patch_size, shape.width, dtype=shape.dtype, rngs=rngs)
        token = jax.nn.initializers.normal(0.02)
        self.cls_token = nnx.Param(token(rngs.params(), (1, 1, shape.width), jnp.float32))
        if shape.positions == "learned":
            self.pos_embed = nnx.Param(token(rngs.params(), (1, shape.n_patches, shape.width), jnp.float32))
        if shape.registers:
            self.reg_token = nnx.Param(token(rngs.params(), (1, shape.registers, shape.width), jnp.float32))
        for i in range(shape.depth):
            rate = shape.drop_path * i / max(1, shape.depth - 1) if i >= shape.frozen_blocks else 0.0
            block = Block(
                shape.width, shape.heads, shape.mlp_ratio, rate=rate, dtype=shape.dtype, rngs=rngs,
                norm_eps=shape.norm_eps, layer_scale=shape.layer_scale, attention=shape.attention,
                mlp=shape.mlp, dropout=shape.dropout if i >= shape.frozen_blocks else 0.0,
            )  # fmt: skip
            setattr(self, f"block_{i:02d}", block)
        if shape.pre_norm:
            self.norm_pre = LayerNorm(shape.width, shape.norm_eps)
        if final_norm:
            self.norm = LayerNorm(shape.width, shape.norm_eps)
        self.final_norm = final_norm
        self.shape = shape

    def __call__(
        self,
        images: Float[Array, "b h w c"],
        ids_keep: Int[Array, "b v"] | None = None,
        key: Array | None = None,
        *,
        class_token_only: bool = False,
    ) -> Float[Array, "b t d"]:
        """Encoded tokens (t = 1 + encoded patches), class token first. With `ids_keep`, only those patches are encoded.

        `key` enables drop path and dropout (training); None is deterministic. With `class_token_only`, t is 1 and the
        last block computes only keys and values for the other tokens.
        """
        shape = self.shape
        tokens, angles = self._embed(images, ids_keep), self._angles(ids_keep)
        if key is not None and shape.dropout and not shape.frozen_blocks:
            tokens = dropout(tokens, jax.random.fold_in(key, shape.depth), shape.dropout)
        for i in range(shape.depth):
            block_key = None if key is None else jax.random.fold_in(key, i)
            first = 1 if class_token_only and i == shape.depth - 1 else None
            tokens = run_block(getattr(self, f"block_{i:02d}"), tokens, block_key, first, angles, remat=shape.remat)
        tokens = tokens if class_token_only else self._drop_registers(tokens)
        return self.norm(tokens) if self.final_norm else tokens

    def features(
        self, images: Float[Array, "b h w c"], blocks: tuple[int, ...], ids_keep: Int[Array, "b v"] | None = None
    ) -> tuple[Float[Array, "b t d"], ...]:
        """Output tokens of each of `blocks`, class token first, before the final norm."""
        tokens, angles, outputs = self._embed(images, ids_keep), self._angles(ids_keep), {}
        for i in range(max(blocks) + 1):
            tokens = outputs[i] = getattr(self, f"block_{i:02d}")(tokens, angles=angles)
        return tuple(self._drop_registers(outputs[i]) for i in blocks)

    def attention(self, images: Float[Array, "b h w c"], block: int) -> Float[Array, "b heads t t"]:
        """Attention weights in one block. Tokens are the class token, the registers, then the patches."""
        tokens, angles = self._embed(images, None), self._angles(None)
        for i in range(block):
            tokens = getattr(self, f"block_{i:02d}")(tokens, angles=angles)
        last = getattr(self, f"block_{block:02d}")
        return last.attn.weights(last.norm1(tokens), angles)

    def _drop_registers(self, tokens: Float[Array, "b t d"]) -> Float[Array, "b u d"]:
        if not self.shape.registers:
            return tokens
        return jnp.concatenate([tokens[:, :1], tokens[:, 1 + self.shape.registers :]], axis=1)

    def _angles(self, ids_keep: Int[Array, "b v"] | None) -> Float[Array, "b t e"] | None:
        """Angles of the tokens if positions are rotary."""
        shape = self.shape
        if shape.positions != "rotary":
            return None
        return rotary.angles_of_tokens(shape.grid, shape.width // shape.heads, 1 + shape.registers, ids_keep)

    def _embed(self, images: Float[Array, "b h w c"], ids_keep: Int[Array, "b v"] | None) -> Float[Array, "b t d"]:
        """Input of the first block: class token, registers, patches with their positions."""
        shape = self.shape
        patches = patchify(images, shape.patch_size)
        # Gathering before embedding avoids work on the removed patches.
        tokens = self.patch_embed(patches if ids_keep is None else gather_tokens(patches, ids_keep))
        if shape.positions != "rotary":
            learned = shape.positions == "learned"
            positions = (
                self.pos_embed[...] if learned else jnp.asarray(position_embedding(shape.grid, shape.width))[None]
            )
            positions = positions if ids_keep is None else jnp.take(positions[0], ids_keep, axis=0)
            tokens = tokens + positions.astype(shape.dtype)
        first = self.cls_token[...]
        if shape.registers:
            first = jnp.concatenate([first, self.reg_token[...]], axis=1)
        first = jnp.broadcast_to(first, (tokens.shape[0], *first.shape[1:]))
        tokens = jnp.concatenate([first.astype(tokens.dtype), tokens], axis=1)
        return self.norm_pre(tokens) if shape.pre_norm else tokens


class ViT(nnx.Module):
    """Encoder and a linear head on the class token, on the mean of the patch tokens, or on both.

    With `pool="mean"`, the norm follows the mean, like `fc_norm` in the fine-tuning code of MAE. With `pool="both"`,
    the head reads the class token and the mean of the patch tokens, concatenated, after the norm, as in DINOv2.
    """

    def __init__(self, shape: ViTConfig, *, rngs: nnx.Rngs):
        self.encoder = Encoder(shape, final_norm=shape.pool != "mean", rngs=rngs)
        if shape.pool == "mean":
            self.fc_norm = LayerNorm(shape.width, shape.norm_eps)
        if shape.batch_norm:
            self.batch_norm = BatchNorm(shape.n_features)
        self.head = Linear(shape.n_features, shape.n_classes, dtype="float32", std=shape.head_std, rngs=rngs)
        self.shape = shape

    def __call__(self, images: Float[Array, "b h w c"], key: Array | None = None) -> Float[Array, "b classes"]:
        """Logits in float32. `key` enables drop path and dropout (training); None is deterministic."""
        features = self.pooled(images, key)
        return self.head(self.batch_norm(features) if self.shape.batch_norm else features)

    def pooled(self, images: Float[Array, "b h w c"], key: Array | None = None) -> Float[Array, "b d"]:
        """Input of the head, before any batch norm, in float32."""
        tokens = self.encoder(images, key=key, class_token_only=self.shape.pool == "cls")
        if self.shape.pool == "mean":
            return self.fc_norm(tokens[:, 1:].astype(jnp.float32).mean(axis=1))
        if self.shape.pool == "both":
            tokens = tokens.astype(jnp.float32)
            return jnp.concatenate([tokens[:, 0], tokens[:, 1:].mean(axis=1)], axis=1)
        return tokens[:, 0].astype(jnp.float32)
