"""The config's fields as rows of text, from the code that defines them."""

import inspect
import re

from ml_collections import ConfigDict

from mae_jax import config
from mae_jax.config import fields

ASSIGNED = re.compile(r"\s*(\w+)\.(\w+)\s*=\s*[^#]*(?:#\s*(.*))?$")


def sections() -> list[tuple[str, list[list[str]]]]:
    """(title, rows of field, default, meaning, allowed values, may differ) for each part of a config."""
    study = config.study_defaults(ConfigDict(), ConfigDict())
    sweep = config.sweep_defaults(ConfigDict(), ConfigDict())
    run = _rows(config.defaults, config.defaults("finetune"))
    top = [row for row in run if "." not in row[0]]
    found = [("Every run", top)]
    for name in dict.fromkeys(row[0].partition(".")[0][1:] for row in run if "." in row[0]):
        found.append((f"{name}", [row for row in run if row[0].startswith(f"`{name}.")]))
    return [
        *found,
        ("Studies", _rows(config.study_defaults, study)),
        ("Mask sweeps", _rows(config.sweep_defaults, sweep)),
    ]


def _rows(function, values: ConfigDict) -> list[list[str]]:
    letters, meanings = {"c": ""}, {}
    for line in inspect.getsource(function).splitlines():
        opened = re.match(r"\s*(\w) = c\.(\w+) = ConfigDict\(\)", line)
        if opened:
            letters[opened[1]] = f"{opened[2]}."
        found = ASSIGNED.match(line)
        if found and found[1] in letters and found[3]:
            meanings.setdefault(letters[found[1]] + found[2], found[3])
    rows = []
    for key, value in config.flatten(values).items():
        allowed = ", ".join(map(str, fields._CHOICES.get(key, ())))
        if key in fields._RANGES:
            low, high, with_low, with_high = fields._RANGES[key]
            allowed = f"{'[' if with_low else '('}{low}, {high}{']' if with_high else ')'}"
        may = "yes" if fields.FREE.fullmatch(key) else ""
        rows.append([f"`{key}", f"`{value!r}", meanings.get(key, ""), allowed, may])
    return rows
