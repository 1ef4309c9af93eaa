"""Selects one network's arrays in a file that may hold several, or that adds prefixes and wrappers to the keys."""

import re
from collections.abc import Callable, Iterable

import numpy as np

from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count, some

# Parts of keys that PyTorch's wrappers add anywhere: sharding, activation checkpointing, compilation.
_WRAPPERS = re.compile(r"(^|(?<=\.))(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
_EMBEDDING = re.compile(
    r"((?:.+?\.)??)(?:(?:patch_embed\.proj|(?:(?:vit|dinov2|dinov2_with_registers|dinov3_vit|beit)\.)?"
    r"embeddings\.patch_embeddings(?:\.projection)?|layer1\.0\.conv1|(?:resnet\.)?embedder\.embedder\.convolution)\.weight"
    r"|(?:embeddings\.)?class_embedding)"
)
# Of several networks in one file, the first of these is taken: averages of the weights before the weights themselves.
_ORDER = (r"teacher", r"ema|\w+_ema|ema_\w+", r"base_encoder|encoder_q|online\w*", r"")


def unwrapped(arrays: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """`arrays` without the parts of keys that PyTorch's wrappers add. `where` starts the message of a collision."""
    return renamed(arrays, lambda key: _WRAPPERS.sub("", key), where)


def renamed(arrays: dict[str, np.ndarray], rename: Callable[[str], str], where: str) -> dict[str, np.ndarray]:
    """`arrays` with each key replaced by `rename(key)`. Raises UserError if two keys become the same."""
    new: dict[str, str] = {}
    for key in arrays:
        other = new.setdefault(rename(key), key)
        if other != key:
            raise UserError(
                f"{where}: {other!r} and {key!r} are the same parameter; leave one out with mae-jax convert import "
                f"--leave REGEX"
            )
    return {name: arrays[key] for name, key in new.items()}


def select(arrays: dict[str, np.ndarray], where: str) -> tuple[dict[str, np.ndarray], str, list[str]]:
    """The arrays of one network, without the prefix of their keys; that prefix; and notes.

    Only keys with the prefix are taken, so that a wrapper's own `norm` never replaces the encoder's. Of several
    networks, a teacher or a moving average is taken. Raises UserError if the choice is not clear.
    """
    prefixes = {match[1] for key in arrays if (match := _EMBEDDING.fullmatch(key))}
    prefixes = sorted(prefix for prefix in prefixes if "patch_embed." not in prefix)  # a convolutional stem
    if not prefixes:
        return arrays, "", []
    ranks = [_rank(prefix) for prefix in prefixes]
    best = [prefix for prefix, rank in zip(prefixes, ranks, strict=True) if rank == min(ranks)]
    if len(best) > 1:
        raise UserError(
            f"{where} holds several networks, under {', '.join(map(repr, prefixes))}; leave all but one out with "
            f"mae-jax convert import --leave REGEX"
        )
    (prefix,) = best
    taken = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    left = [key for key in arrays if not key.startswith(prefix)]
    notes = [f"the prefix {prefix!r} is removed from the keys"] if prefix else []
    others = [each for each in prefixes if each != prefix]
    if others:
        ignored = f"{', '.join(map(repr, others))} {'is' if len(others) == 1 else 'are'} ignored"
        notes.append(f"the file holds several networks; the one under {prefix!r} is used, {ignored}")
        left = [key for key in left if not key.startswith(tuple(each for each in others if each))]
    if left:
        keys = count(len(left), "key outside of it is", "keys outside of it are")
        notes.append(f"{keys} ignored ({some(sorted(left), 4)})")
    return taken, prefix, notes


def _rank(prefix: str) -> int:
    parts = prefix.split(".")
    return next(i for i, names in enumerate(_ORDER) if not names or any(re.fullmatch(names, part) for part in parts))


def matching(pattern: str, keys: Iterable[str]) -> list[str]:
    """The keys that match the regular expression; none for "". Raises UserError if the expression is not valid."""
    try:
        return [key for key in keys if pattern and re.search(pattern, key)]
    except re.error as error:
        raise UserError(f"--leave {pattern!r} is not a valid regular expression: {error}") from None
