"""What a run tells about itself: lines at its start, and run.json."""

from typing import Any


def jsonable(value: Any) -> Any:
    """As it comes back from JSON: tuples as lists."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    return [jsonable(v) for v in value] if isinstance(value, list | tuple) else value
