"""Counts and lists in words, for messages."""

from collections.abc import Sequence


def count(n: float, one: str, many: str = "") -> str:
    """A number with its noun, such as "1 epoch" or "20 epochs". `many` is the plural; "" adds an s to `one`."""
    number = str(n) if isinstance(n, int) else f"{n:g}"
    return f"{number} {one if n == 1 else many or f'{one}s'}"


def joined(parts: Sequence[str]) -> str:
    """One or more parts in a sentence, such as "1 %, 10 % and 50 %"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def shortened(names: Sequence[str], most: int = 3) -> str:
    """The first names, and dots if there are more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def some(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many there are more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
