"""The config's fields as rows of text, from the dataclasses that define them."""

import dataclasses

from mae_jax.config import TASKS, defaults, flatten
from mae_jax.config.fields import Fields, Rule, RunConfig, StudyConfig, SweepConfig

Section = tuple[str, str, list[list[str]]]


def sections() -> list[Section]:
    """(title, one line, rows of field, default, meaning, allowed values, may differ) for each part of a config."""
    found = [("Every run", _about(RunConfig), _rows(RunConfig))]
    for part in dataclasses.fields(RunConfig):
        if isinstance(part.default_factory, type) and issubclass(part.default_factory, Fields):
            found.append((part.name, _about(part.default_factory), _rows(part.default_factory, f"{part.name}.")))
    found += [
        (name, _about(kind), _rows(kind)) for name, kind in (("Studies", StudyConfig), ("Mask sweeps", SweepConfig))
    ]
    return [*found, _by_task()]


def _about(kind: type) -> str:
    return (kind.__doc__ or "").splitlines()[0]


def _rows(kind: type, prefix: str = "") -> list[list[str]]:
    rows = []
    for field in dataclasses.fields(kind):
        rule = field.metadata.get("rule")
        if rule is None or field.default is dataclasses.MISSING:
            continue  # a group of fields, with a table of its own
        may = "yes" if rule.may_differ else ""
        rows.append([f"`{prefix}{field.name}", f"`{_shown(field.default)}", rule.meaning, _allowed(rule, field), may])
    return rows


def _shown(value) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(_shown(v) for v in value)}{',' if len(value) == 1 else ''})"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _allowed(rule: Rule, field: dataclasses.Field) -> str:
    if rule.choices:
        return ", ".join(str(choice) or "empty" for choice in rule.choices)
    if rule.allowed:
        return rule.allowed
    if rule.has_range:
        return rule.range
    if isinstance(field.default, tuple):
        return "texts" if "str" in str(field.type) else "numbers"
    return {bool: "True, False", str: "text", int: "whole number"}[type(field.default)]


def _by_task() -> Section:
    """The defaults that another task than fine-tuning changes."""
    flat = {task: flatten(defaults(task)) for task in TASKS}
    rows = [
        [f"`{key}", *(f"`{_shown(flat[task][key])}" for task in TASKS)]
        for key in flat["pretrain"]
        if key != "task" and len({repr(flat[task][key]) for task in TASKS}) > 1
    ]
    return "Defaults by task", "Fields whose default depends on the task.", [["field", *TASKS], *rows]
