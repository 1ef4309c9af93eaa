"""Paths given by a user: expands `~` and refuses addresses of remote storage."""

import os
import re
from pathlib import Path
from typing import Any

from mae_jax.runtime.disk import is_dir
from mae_jax.runtime.errors import UserError


def local(place: str | os.PathLike, field: str) -> Path:
    """`place` with `~` expanded. Raises UserError for an address such as s3://bucket/key; it names `field`, if any."""
    text = os.fspath(place)
    named = f"{field}={text}" if field else text
    if re.match(r"[A-Za-z]:/", text) and os.name != "nt":
        raise UserError(f"{named}: this is a path of Windows; give the path on this machine")
    if match := re.match(r"([A-Za-z][\w+.-]*):/", text):
        if match[1].lower() == "file":
            raise UserError(f"{named}: omit file:// and give the path on this machine")
        raise UserError(
            f"{named}: {match[1]}:// addresses are neither read nor written; name a folder on this machine, and "
            f"copy the files yourself"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError:
        user = text.partition("/")[0]
        why = "no home directory is known here" if user == "~" else f"{user} is not a user with a home directory"
        raise UserError(f"{named}: {why}; give the full path") from None


def hub_advice(place: str | os.PathLike) -> str:
    """How to download `place` if it reads like a name on the Hugging Face Hub, such as owner/name; otherwise ""."""
    match = re.fullmatch(r"(?:hf[-_]hub:)?([\w-][\w.-]*)/([\w-][\w.-]*)", os.fspath(place))
    file = r".*\.(safetensors|npz|pth|pt|bin|ckpt|torch|tar)"
    if not match or is_dir(Path(match[1])) or match[1] == "runs" or re.fullmatch(file, match[2]):
        return ""
    owner, name = match.groups()
    return (
        f"mae_jax downloads nothing; if it is a name on the Hugging Face Hub, run hf download {owner}/{name} "
        f"--local-dir {name} (pip install huggingface_hub) and use the folder {name}"
    )


def expanded(text: str, field: str, kind: str) -> str:
    """A config field's text, with each path in it treated as `local` treats it; other texts stay as they are.

    `kind` is that of `config.fields.Rule.path`: "one" path, "several" joined by ",", or "named": [NAME=]PATH joined
    by ",". Raises UserError that names `field`.
    """
    parts = [text] if kind == "one" else text.split(",")
    for i, part in enumerate(parts):
        name, equals, place = part.partition("=") if kind == "named" and "=" in part else ("", "", part)
        if place.startswith("~") or ":/" in place:
            parts[i] = f"{name}{equals}{local(place, field)}"
    return ",".join(parts)


def shareable(value: Any) -> Any:
    """`value` (text or JSON data) with each absolute path in it shortened to ".../" and its last part.

    Pages that are shared show this, because names of folders may identify users and machines.
    """
    if isinstance(value, dict):
        return {key: shareable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [shareable(each) for each in value]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return re.sub(r"(^|[,=])[/~][^,=]*/(?=[^/,=])", r"\1.../", value)
    return value
