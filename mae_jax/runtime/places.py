"""Paths given by a user: expands `~` and refuses addresses of remote storage."""

import os
import re
from pathlib import Path

from mae_jax.runtime.errors import UserError


def local(place: str | os.PathLike, field: str) -> Path:
    """`place` with `~` expanded. Raises UserError that names `field` for an address such as s3://bucket/key."""
    text = os.fspath(place)
    if found := re.match(r"([A-Za-z][\w+.-]*):/", text):
        raise UserError(
            f"{field}={text}: {found[1]}:// addresses are not read; copy the files to a local folder and name "
            f"that folder"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{field}={text}: {error}; give the full path") from None
