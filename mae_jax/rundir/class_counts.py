"""Classes with few images, in words."""

from collections.abc import Mapping, Sequence

from mae_jax.runtime.text import shortened

FEW = 5  # a class with fewer training or validation images gets a warning
_SHOWN = 5  # number of classes to list


def few_images(counts: Mapping[str, Sequence[float]], kind: str) -> str:
    """A sentence about the classes with fewer than FEW images of this kind ("training"), in any draw; "" if none.

    `counts` has the number of images of each class in each draw. It starts with `few_start(kind)`.
    """
    short = []
    for name, drawn in counts.items():
        low, high = f"{min(drawn):g}", f"{max(drawn):g}"
        if min(drawn) < FEW:
            short.append(f"{name} ({low if low == high else f'{low} to {high}'})")
    return f"{few_start(kind)} {shortened(short, _SHOWN)}: their scores are mostly chance" if short else ""


def few_start(kind: str) -> str:
    """How each sentence about few images of this kind starts."""
    return f"fewer than {FEW} {kind} images of"
