"""Counts in words, for messages."""


def count(n: float, one: str, many: str = "") -> str:
    """A number with its noun, such as "1 epoch" or "20 epochs". `many` is the plural; "" adds an s to `one`."""
    number = str(n) if isinstance(n, int) else f"{n:g}"
    return f"{number} {one if n == 1 else many or f'{one}s'}"
