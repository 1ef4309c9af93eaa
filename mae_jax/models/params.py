"""Nested dicts of parameters: mapping over paths, splitting by regular expression, joining."""

import hashlib
import re

import jax
import numpy as np

from mae_jax.models import Params


def map_paths(function, params: Params) -> Params:
    """Maps `function(path, leaf)` over a nested dict; a path reads "encoder/block_00/norm1/scale"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function("/".join(str(p.key) for p in path), leaf), params
    )


def part(params: Params, pattern: str, above: str = "") -> tuple[Params, Params]:
    """Splits a nested dict: parameters whose path matches the regular expression, and the others."""
    matching, others = {}, {}
    for key, value in params.items():
        if isinstance(value, dict):
            halves = part(value, pattern, f"{above}{key}/")
        else:
            halves = (value, {}) if re.search(pattern, above + key) else ({}, value)
        for target, subset in zip((matching, others), halves, strict=True):
            if not isinstance(subset, dict) or subset:
                target[key] = subset
    return matching, others


def join(one: Params, other: Params) -> Params:
    """Joins the two dicts that `part` returned."""
    shared = one.keys() & other.keys()
    return one | other | {key: join(one[key], other[key]) for key in shared}


def digest(params: Params) -> str:
    """SHA-256 of all paths and values of a nested dict of host arrays. Only equal parameters have equal digests."""
    summary = hashlib.sha256()

    def add(path: str, leaf: np.ndarray) -> None:
        array = np.ascontiguousarray(leaf)
        summary.update(f"{path} {array.dtype} {array.shape}\n".encode())
        summary.update(array.tobytes())

    map_paths(add, params)
    return summary.hexdigest()
