"""Builds the ONNX graph of a network from its parameters. Only the package onnx is needed, not JAX or PyTorch.

The graph holds the operators of ONNX's opset 20, in float32. Initializers have the paths of our parameters, such as
"encoder/block_03/attn/qkv/kernel". Normalization is part of the graph, so its input is an image with values in 0..1.
"""

import json
from typing import Any

import numpy as np

from mae_jax.config.run_fields import ROTARY
from mae_jax.models import rotary
from mae_jax.models.patches import position_embedding
from mae_jax.models.vit import ViTConfig
from mae_jax.runtime.errors import UserError
from mae_jax.weights import names
from mae_jax.weights.reader import Weights

OPSET, IR = 20, 9  # Gelu is new in opset 20; onnxruntime reads both from version 1.17 on
LARGEST = 2**31 - 2**20  # bytes of parameters: a protocol buffer holds at most 2 GiB


def build(weights: Weights, about: dict[str, Any], card: str, temperature: float | None = None) -> Any:
    """The network as an `onnx.ModelProto`, for a batch of any size.

    Its input is `images` (n 3 s s), float32: RGB in 0..1, before mean and standard deviation. A classifier's outputs
    are `logits` and `probabilities` (n classes), with a `temperature` also `calibrated_probabilities` (n classes), and
    `features` (n d), what the head reads. Other networks give the encoder's `cls` and `mean` (n d): the class token,
    and the mean of the patch tokens. `about` becomes metadata_props, in JSON except for strings; `card` becomes
    doc_string. Raises UserError if the package onnx is missing or the parameters exceed 2 GiB.
    """
    onnx = _onnx()
    shape, encoder = weights.shape, weights.params["encoder"]
    graph = _Graph(onnx)
    tokens = _encoder(graph, _normalized(graph, weights), shape, encoder)
    widths = {}
    if "head" in weights.params:
        features = _pooled(graph, tokens, shape, weights.params)
        logits = graph.linear(features, "head", weights.params["head"], out="logits")
        graph.add("Softmax", logits, out="probabilities", axis=-1)
        widths = {"logits": shape.n_classes, "probabilities": shape.n_classes}
        if temperature:
            scaled = graph.add("Div", logits, graph.array("temperature", np.float32(temperature)))
            graph.add("Softmax", scaled, out="calibrated_probabilities", axis=-1)
            widths["calibrated_probabilities"] = shape.n_classes
        graph.add("Identity", features, out="features")
        widths["features"] = shape.n_features
    else:
        if "norm" in encoder:
            tokens = graph.layer_norm(tokens, "encoder/norm", encoder["norm"], shape.norm_eps)
            graph.add("Identity", graph.class_token(tokens), out="cls")
            widths["cls"] = shape.width
        graph.add("Identity", graph.patch_mean(tokens, shape), out="mean")
        widths["mean"] = shape.width
    if graph.bytes > LARGEST:
        raise UserError(
            f"{weights.origin} has {graph.bytes:,} bytes of parameters, but an ONNX file holds at most {LARGEST:,}; "
            "use --format hf, timm or mae_jax"
        )
    return graph.model(shape, widths, about, card)


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise UserError('--format onnx needs the package onnx; install it with pip install "mae_jax[onnx]"') from None
    return onnx


class _Graph:
    """Nodes and initializers, in the order in which they are added."""

    def __init__(self, onnx: Any):
        self.onnx, self.nodes, self.arrays, self.bytes = onnx, [], {}, 0

    def add(self, operator: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Adds a node with one output, and returns the output's name."""
        out = out or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [out], name=out, **attributes))
        return out

    def array(self, name: str, values: Any) -> str:
        """Adds an initializer (float32, or int64 for integers), and returns its name."""
        values = np.asarray(values)
        kind = np.int64 if np.issubdtype(values.dtype, np.integer) else np.float32
        values = np.ascontiguousarray(values, kind).reshape(values.shape)
        if name not in self.arrays:
            self.arrays[name] = self.onnx.numpy_helper.from_array(values, name)
            self.bytes += values.nbytes
        return name

    def integers(self, *values: int) -> str:
        """An int64 initializer for shapes and positions; equal ones are shared."""
        return self.array("integers_" + "_".join(map(str, values)), np.array(values, np.int64))

    def linear(self, x: str, path: str, params: Any, out: str = "") -> str:
        """x W + b over the last axis."""
        product = self.add("MatMul", x, self.array(f"{path}/kernel", params["kernel"]))
        return self.add("Add", product, self.array(f"{path}/bias", params["bias"]), out=out)

    def layer_norm(self, x: str, path: str, params: Any, epsilon: float) -> str:
        """Layer norm over the last axis."""
        scale, bias = (self.array(f"{path}/{name}", params[name]) for name in ("scale", "bias"))
        return self.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def slice(self, x: str, axis: int, start: int, stop: int) -> str:
        """x[start:stop] along an axis."""
        return self.add("Slice", x, *(self.integers(value) for value in (start, stop, axis)))

    def class_token(self, tokens: str) -> str:
        """(n d) of tokens (n t d)."""
        return self.add("Gather", tokens, self.array("index_0", np.int64(0)), axis=1)

    def patch_mean(self, tokens: str, shape: ViTConfig) -> str:
        """Mean (n d) of the patch tokens (n t d), without class token and registers."""
        first = 1 + shape.registers
        patches = self.slice(tokens, 1, first, first + shape.n_patches)
        return self.add("ReduceMean", patches, self.integers(1), keepdims=0)

    def model(self, shape: ViTConfig, widths: dict[str, int], about: dict[str, Any], card: str) -> Any:
        """The complete model, with `widths` as the outputs and their numbers of features."""
        helper, side = self.onnx.helper, shape.image_size
        float32 = self.onnx.TensorProto.FLOAT
        images = helper.make_tensor_value_info("images", float32, ["batch", 3, side, side])
        outputs = [helper.make_tensor_value_info(name, float32, ["batch", width]) for name, width in widths.items()]
        graph = helper.make_graph(self.nodes, "mae_jax", [images], outputs, list(self.arrays.values()))
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR, producer_name="mae_jax", doc_string=card)
        texts = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in about.items()}
        helper.set_model_props(model, texts)
        return model


def _normalized(graph: _Graph, weights: Weights) -> str:
    mean, std = (np.asarray(values, np.float32).reshape(1, 3, 1, 1) for values in (weights.mean, weights.std))
    centered = graph.add("Sub", "images", graph.array("image_mean", mean))
    return graph.add("Div", centered, graph.array("image_std", std))


def _encoder(graph: _Graph, images: str, shape: ViTConfig, params: Any) -> str:
    """Tokens (n t d) after the last block: class token, registers, patches. With a class-token head, t is 1."""
    width, n_first = shape.width, 1 + shape.registers
    proj = params["patch_embed"]["proj"]
    (kernel,) = names.to_theirs("encoder/patch_embed/proj/kernel", proj["kernel"], "timm", shape.patch_size).values()
    size = [shape.patch_size] * 2
    path = "encoder/patch_embed/proj"
    arrays = graph.array(f"{path}/kernel", kernel), graph.array(f"{path}/bias", proj["bias"])
    patches = graph.add("Conv", images, *arrays, kernel_shape=size, strides=size)  # n d rows columns
    patches = graph.add("Reshape", patches, graph.integers(0, width, shape.n_patches))
    patches = graph.add("Transpose", patches, perm=[0, 2, 1])
    if shape.positions != ROTARY:
        positions = params["pos_embed"] if shape.positions == "learned" else position_embedding(shape.grid, width)[None]
        patches = graph.add("Add", patches, graph.array("encoder/pos_embed", positions))
    first = [np.asarray(params[name]) for name in ("cls_token", "reg_token") if name in params]
    batch = graph.slice(graph.add("Shape", images), 0, 0, 1)
    rows = graph.add("Concat", batch, graph.integers(n_first, width), axis=0)
    tokens = graph.add("Expand", graph.array("encoder/first_tokens", np.concatenate(first, axis=1)), rows)
    tokens = graph.add("Concat", tokens, patches, axis=1)
    if shape.pre_norm:
        tokens = graph.layer_norm(tokens, "encoder/norm_pre", params["norm_pre"], shape.norm_eps)
    for i in range(shape.depth):
        # As in our own encoder, the last block computes only what a class-token head reads.
        only_first = i == shape.depth - 1 and shape.pool == "cls" and shape.n_classes
        tokens = _block(graph, tokens, f"encoder/block_{i:02d}", params[f"block_{i:02d}"], shape, bool(only_first))
    return tokens


def _block(graph: _Graph, tokens: str, path: str, params: Any, shape: ViTConfig, only_first: bool) -> str:
    """A pre-norm block. With `only_first`, its output has only the class token."""
    heads, width = shape.heads, shape.width
    n_tokens = 1 + shape.registers + shape.n_patches
    normed = graph.layer_norm(tokens, f"{path}/norm1", params["norm1"], shape.norm_eps)
    qkv = graph.linear(normed, f"{path}/attn/qkv", params["attn"]["qkv"])
    qkv = graph.add("Reshape", qkv, graph.integers(0, n_tokens, 3, heads, width // heads))
    q, k, v = (
        graph.add("Gather", qkv, graph.array(f"index_{part}", np.int64(part)), axis=2)
        for part in range(3)
    )  # fmt: skip
    if shape.positions == ROTARY:
        q, k = (_rotated(graph, x, shape) for x in (q, k))
    if only_first:
        tokens, q = graph.slice(tokens, 1, 0, 1), graph.slice(q, 1, 0, 1)
    q = graph.add("Mul", q, graph.array("query_scale", np.float32((width // heads) ** -0.5)))
    q, v = (graph.add("Transpose", x, perm=[0, 2, 1, 3]) for x in (q, v))  # n heads t e
    scores = graph.add("MatMul", q, graph.add("Transpose", k, perm=[0, 2, 3, 1]))
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), v)
    mixed = graph.add("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = graph.add("Reshape", mixed, graph.integers(0, 0, width))
    tokens = _residual(graph, tokens, graph.linear(mixed, f"{path}/attn/proj", params["attn"]["proj"]), path, params, 1)
    normed = graph.layer_norm(tokens, f"{path}/norm2", params["norm2"], shape.norm_eps)
    hidden = graph.linear(normed, f"{path}/mlp/fc1", params["mlp"]["fc1"])
    if shape.mlp == "swiglu":
        n = params["mlp"]["fc2"]["kernel"].shape[0]
        gates, values = graph.slice(hidden, 2, 0, n), graph.slice(hidden, 2, n, 2 * n)
        hidden = graph.add("Mul", graph.add("Mul", gates, graph.add("Sigmoid", gates)), values)
    elif shape.mlp == "quick_gelu":
        scaled = graph.add("Mul", hidden, graph.array("quick_gelu", np.float32(1.702)))
        hidden = graph.add("Mul", hidden, graph.add("Sigmoid", scaled))
    else:
        hidden = graph.add("Gelu", hidden)
    return _residual(graph, tokens, graph.linear(hidden, f"{path}/mlp/fc2", params["mlp"]["fc2"]), path, params, 2)


def _rotated(graph: _Graph, x: str, shape: ViTConfig) -> str:
    """Queries or keys (n t heads e) after the rotation by their positions."""
    head = shape.width // shape.heads
    angles = np.pad(rotary.angles(shape.grid, head), ((1 + shape.registers, 0), (0, 0)))[:, None]  # t 1 e/2
    cos, sin = (
        graph.array(f"encoder/{name}", function(np.concatenate([angles, angles], axis=-1)))
        for name, function in (("cos", np.cos), ("sin", np.sin))
    )
    first, second = graph.slice(x, 3, 0, head // 2), graph.slice(x, 3, head // 2, head)
    turned = graph.add("Concat", graph.add("Neg", second), first, axis=3)
    return graph.add("Add", graph.add("Mul", x, cos), graph.add("Mul", turned, sin))


def _residual(graph: _Graph, tokens: str, branch: str, path: str, params: Any, number: int) -> str:
    """Adds a branch, after its layer scale if there is one."""
    if f"ls{number}" in params:
        branch = graph.add("Mul", branch, graph.array(f"{path}/ls{number}/gamma", params[f"ls{number}"]["gamma"]))
    return graph.add("Add", tokens, branch)


def _pooled(graph: _Graph, tokens: str, shape: ViTConfig, params: Any) -> str:
    """The input (n d) of the head."""
    if shape.pool == "mean":
        return graph.layer_norm(graph.patch_mean(tokens, shape), "fc_norm", params["fc_norm"], shape.norm_eps)
    normed = graph.layer_norm(tokens, "encoder/norm", params["encoder"]["norm"], shape.norm_eps)
    if shape.pool == "both":
        return graph.add("Concat", graph.class_token(normed), graph.patch_mean(normed, shape), axis=1)
    return graph.class_token(normed)
