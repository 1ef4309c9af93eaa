"""ResNet-18 (He et al. 2016): a small convolutional classifier, for comparison.

From random weights it has group norm (Wu and He 2018). With the weights of other code it has batch norm, as published,
whose statistics stay as they are.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mae_jax.models.layers import BatchNorm, Linear
from mae_jax.models.vit import ViTConfig

STAGES = (
    (64, 1),
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
)  # width and stride of each block
WIDTH, DEPTH = STAGES[-1][0], len(STAGES)
GROUPS, EPSILON = 32, 1e-5


class Conv(nnx.Module):
    """A convolution without bias, initialized as in He et al. 2015 (normal, by the number of outputs)."""

    def __init__(self, size: int, n_in: int, n_out: int, stride: int, *, dtype: str, rngs: nnx.Rngs):
        draw = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        self.kernel = nnx.Param(draw(rngs.params(), (size, size, n_in, n_out), jnp.float32))
        self.stride, self.padding, self.dtype = stride, size // 2, dtype

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b k l o"]:
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        if min(x.shape[1:3]) <= len(kernel):
            return self.product(x, kernel)
        stride, padding = (self.stride, self.stride), ((self.padding, self.padding),) * 2
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=layout)

    def product(self, x: Float[Array, "b h w i"], kernel: Float[Array, "s s i o"]) -> Float[Array, "b k l o"]:
        """The same convolution as one matrix product.

        If the features are no larger than the kernel, as in the last blocks at up to 96 px, XLA's convolution takes up
        to 60 times as long on a CPU.
        """
        size, (_, height, width, _) = len(kernel), x.shape
        padded = jnp.pad(x, ((0, 0), (self.padding,) * 2, (self.padding,) * 2, (0, 0)))
        shifted = (
            padded[:, i : i + height : self.stride, j : j + width : self.stride] for i, j in np.ndindex(size, size)
        )
        return jnp.concatenate(list(shifted), axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


class GroupNorm(nnx.Module):
    """Group norm with a learned scale and bias (initially 0), computed in float32.

    Unlike batch norm, an image's output does not depend on the other images of its batch.
    """

    def __init__(self, width: int, scale: float = 1.0):
        """`scale` is the initial value of the scale."""
        self.scale = nnx.Param(jnp.full((width,), scale, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        b, h, w, d = x.shape
        grouped = x.astype(jnp.float32).reshape(b, h * w, GROUPS, d // GROUPS)
        mean = grouped.mean((1, 3), keepdims=True)
        variance = jnp.square(grouped - mean).mean((1, 3), keepdims=True)
        normalized = ((grouped - mean) * jax.lax.rsqrt(variance + EPSILON)).reshape(b, h, w, d)
        return (normalized * self.scale[...] + self.bias[...]).astype(x.dtype)


class FrozenBatchNorm(nnx.Module):
    """Batch norm (Ioffe and Szegedy 2015) with the statistics of other training, which stay as they are.

    It computes what PyTorch's BatchNorm2d computes in eval mode, in training, too. Scale and bias are trained, mean and
    variance are not (`step.from_config.trained_parameters`). Object detection fine-tunes networks of ImageNet in this
    way. An image's output does not depend on the other images of its batch.
    """

    def __init__(self, width: int, scale: float = 1.0):
        """`scale` is the initial value of the scale."""
        self.scale = nnx.Param(jnp.full((width,), scale, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.mean = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.variance = nnx.Param(jnp.ones((width,), jnp.float32))

    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        normalized = (x.astype(jnp.float32) - self.mean[...]) * jax.lax.rsqrt(self.variance[...] + EPSILON)
        return (normalized * self.scale[...] + self.bias[...]).astype(x.dtype)


NORMS = {"group": GroupNorm, "frozen_batch": FrozenBatchNorm}


class BasicBlock(nnx.Module):
    """Two 3 x 3 convolutions and a shortcut, which is projected where size or width changes.

    The scale of the last norm is 0 at first, so that a block begins as its shortcut (Goyal et al. 2017).
    """

    def __init__(self, n_in: int, width: int, stride: int, *, norm: str = "group", dtype: str, rngs: nnx.Rngs):
        self.conv1 = Conv(3, n_in, width, stride, dtype=dtype, rngs=rngs)
        self.norm1 = NORMS[norm](width)
        self.conv2 = Conv(3, width, width, 1, dtype=dtype, rngs=rngs)
        self.norm2 = NORMS[norm](width, 0.0)
        self.projects = stride > 1 or n_in != width
        if self.projects:
            self.shortcut = Conv(1, n_in, width, stride, dtype=dtype, rngs=rngs)
            self.shortcut_norm = NORMS[norm](width)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b k l o"]:
        branch = self.norm2(self.conv2(jax.nn.relu(self.norm1(self.conv1(x)))))
        return jax.nn.relu(branch + (self.shortcut_norm(self.shortcut(x)) if self.projects else x))


class ResNetEncoder(nnx.Module):
    """A 7 x 7 convolution, a 3 x 3 maximum, and the blocks `block_00`, `block_01`, ..."""

    def __init__(self, shape: ViTConfig, *, rngs: nnx.Rngs):
        self.stem = Conv(7, 3, 64, 2, dtype=shape.dtype, rngs=rngs)
        self.stem_norm = NORMS[shape.norm](64)
        n_in = 64
        for i, (width, stride) in enumerate(STAGES):
            block = BasicBlock(n_in, width, stride, norm=shape.norm, dtype=shape.dtype, rngs=rngs)
            setattr(self, f"block_{i:02d}", block)
            n_in = width

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b k l d"]:
        """Features of 1/32 of the images' height and width, rounded up."""
        x = jax.nn.relu(self.stem_norm(self.stem(images)))
        around = ((0, 0), (1, 1), (1, 1), (0, 0))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), around)
        for i in range(DEPTH):
            x = getattr(self, f"block_{i:02d}")(x)
        return x


class ResNet(nnx.Module):
    """Encoder and a linear head on the mean of its features. It has the methods of `models.vit.ViT`."""

    def __init__(self, shape: ViTConfig, *, rngs: nnx.Rngs):
        self.encoder = ResNetEncoder(shape, rngs=rngs)
        if shape.batch_norm:
            self.batch_norm = BatchNorm(WIDTH)
        self.head = Linear(WIDTH, shape.n_classes, dtype="float32", std=shape.head_std, rngs=rngs)
        self.shape = shape

    def __call__(self, images: Float[Array, "b h w c"], key: Array | None = None) -> Float[Array, "b classes"]:
        """Logits in float32. There is no dropout, so `key` changes nothing."""
        features = self.pooled(images)
        return self.head(self.batch_norm(features) if self.shape.batch_norm else features)

    def pooled(self, images: Float[Array, "b h w c"], key: Array | None = None) -> Float[Array, "b d"]:
        """Input of the head, before any batch norm, in float32."""
        return self.encoder(images).astype(jnp.float32).mean((1, 2))
