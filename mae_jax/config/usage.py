"""The text of `mae-jax run --help`: all config files, or the arguments and fields of one of them."""

import ast
import textwrap
from pathlib import Path
from typing import Any

from mae_jax.config import fields
from mae_jax.config.loading import CONFIGS, config_file, flatten, load, recorded_arguments
from mae_jax.runtime.disk import read_text

USAGE = """usage: mae-jax {verb} --config=FILE[:KEY=VALUE,...] [--config.FIELD=VALUE]... [--workdir=DIR]{more}
"""
OPTIONS = """
  --config=FILE[:KEY=VALUE,...]  a config file and its arguments; KEY alone is KEY=true
  --config.FIELD=VALUE           set one field, for example --config.train.epochs=5
  --workdir=DIR                  where to write (default: a descriptive name under runs/)
  --help                         with --config=FILE: the arguments and fields of that file
"""


def overview(verb: str, text: str, more: str = "") -> str:
    """Help of the command `verb`: its description `text`, its extra option `more`, and all config files."""
    option = f" [{more.split()[0]}]" if more else ""
    lines = [f"  configs/{path.name:18} {_summary(path)}" for path in shipped()]
    extra_line = f"  {more}\n" if more else ""
    usage = USAGE.format(verb=verb, more=option)
    return f"{usage}\n{text.strip()}\n{OPTIONS}{extra_line}\nconfig files:\n" + "\n".join(lines)


def shipped() -> list[Path]:
    """The config files that mae_jax ships."""
    return sorted(CONFIGS.glob("[a-z]*.py"))


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(read_text(path))) or ""


def _summary(path: Path) -> str:
    """The first line of a config file's docstring."""
    return (_docstring(path).splitlines() or [""])[0]


def of_config(file: str, arg: str) -> str:
    """Help of one config file: its docstring, its arguments with defaults, and its fields with values and meanings.

    Raises UserError for a file that cannot be loaded.
    """
    path = config_file(file)
    with recorded_arguments() as recorded:
        config = load(path, arg)
    file_arguments = recorded[0] if recorded else {}
    arguments = [f"  {name}={_shown(value)}" for name, value in file_arguments.items()] or ["  none"]
    flat = flatten(config)
    meanings = _meanings(str(config.get("task")))
    order = {key: number for number, key in enumerate(meanings)}
    lines: list[str] = []
    for key in sorted(flat, key=lambda key: order.get(key, len(order))):
        field = key.partition(".")[2]
        name, shown, other = key, _shown(flat[key]), f"finetune.{field}"
        if key == other and f"pretrain.{field}" in flat:
            continue  # shown on the line of pretrain
        if key == f"pretrain.{field}" and other in flat:
            name = f"pretrain|{other}"
            shown = shown if flat[other] == flat[key] else f"{shown} | {_shown(flat[other])}"
        lines += textwrap.wrap(
            f"{name} = {shown}  # {meanings[key]}" if meanings.get(key) else f"{name} = {shown}",
            width=118,
            initial_indent="  ",
            subsequent_indent="        ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(
        [
            f"{path}\n",
            _docstring(path),
            "\narguments of the file and their defaults (--config=FILE:KEY=VALUE,...):",
            *arguments,
            "\nfields and their values with these arguments (--config.FIELD=VALUE):",
            *lines,
        ]
    )


def _shown(value: Any) -> str:
    return "''" if value == "" else str(value)


def _meanings(task: str) -> dict[str, str]:
    """{dotted name: meaning and allowed values}."""
    kinds = {"study": fields.StudyConfig, "sweep": fields.SweepConfig}
    meanings = {}
    for key, (_, rule) in fields.rules(kinds.get(task, fields.RunConfig)).items():
        allowed = rule.range if rule.has_range else ""
        allowed = " | ".join(map(str, rule.choices)) if rule.choices else allowed
        meanings[key] = f"{rule.meaning}; {allowed}" if allowed else rule.meaning
    return meanings
