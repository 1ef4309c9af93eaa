"""Files of a report: written whole or not at all, so that a full disk leaves the report that was there."""

import contextlib
import os
from pathlib import Path


def write(path: Path, content: str | bytes) -> Path:
    """Writes text or bytes, with the folders above. Raises OSError that names the file."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
        os.replace(partial, path)
    except OSError as error:
        error.filename = str(path)  # that of a write that failed names no file
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    return path
