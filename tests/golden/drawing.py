"""Weights and images that need no file: drawn from their names alone, the same with and without PyTorch."""

import zlib

import numpy as np


def array(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 weights for a key: near 1 for norms and layer scales, else normal, large enough that every part shows."""
    drawn = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape) * (0.2 if len(shape) > 1 else 0.1)
    parts = key.split(".")
    ones = parts[-1] in ("gamma", "lambda1") or (parts[-1] == "weight" and "norm" in "".join(parts[-2:-1]))
    return (drawn + float(ones)).astype(np.float32)


def resnet_array(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 weights of a ResNet for a key: convolutions as in He et al. 2015, statistics near 0 and 1."""
    if not shape:
        return np.array(7, np.int64)  # num_batches_tracked
    drawn = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    if len(shape) > 1:
        return (drawn * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
    if key.endswith("running_var"):
        return (0.7 + 0.3 * np.abs(drawn)).astype(np.float32)
    return (0.2 * drawn + float(key.endswith("weight"))).astype(np.float32)


def images(size: int, n: int = 1) -> np.ndarray:
    """float32 images (n, size, size, 3), normalized."""
    return np.random.RandomState(size).standard_normal((n, size, size, 3)).astype(np.float32)
