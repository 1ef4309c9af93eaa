"""Loading config files and their arguments, checking flags, and comparing saved configs.

A config file in `configs/` starts from `defaults(task)` and sets what its experiment needs. Values that follow from
others (steps, learning rate, warm-up) are computed later in `schedule.resolve`, after all overrides from the command
line.
"""

import contextlib
import contextvars
import difflib
import importlib.util
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mae_jax.config.fields import (
    WEIGHTS,
    Fields,
    RunConfig,
    as_dict,
    defaults,
    may_differ,
    study_defaults,
    sweep_defaults,
)
from mae_jax.config.tasks import TASKS
from mae_jax.runtime.disk import entries, exists, is_dir, is_file, read_bytes
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.places import hub_advice, local

# The config files of mae_jax: inside the package in a wheel, next to it in a checkout.
CONFIGS = next(p for p in (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs") if is_dir(p))
_LOADED = "_values_of_the_file"  # an attribute of a ConfigDict, not a field
_arguments: contextvars.ContextVar[list[dict[str, Any]] | None] = contextvars.ContextVar("arguments", default=None)


@contextlib.contextmanager
def recorded_arguments() -> Iterator[list[dict[str, Any]]]:
    """Records the arguments and defaults of every config file loaded inside, the outermost file first."""
    recorded: list[dict[str, Any]] = []
    token = _arguments.set(recorded)
    try:
        yield recorded
    finally:
        _arguments.reset(token)


def parse_arg(arg: str | None, **known: Any) -> ConfigDict:
    """Parses a config file's argument "key=value,key=value" with the types of the defaults in `known`.

    A bare boolean key means true: "smoke" is "smoke=true". Raises UserError for an unknown or repeated key and for a
    value of the wrong type.
    """
    if (recorded := _arguments.get()) is not None:
        recorded.append(known)
    values, given = dict(known), set()
    for item in filter(None, (arg or "").split(",")):
        key, equals, text = item.partition("=")
        if not equals and isinstance(known.get(key), bool):
            equals, text = "=", "true"
        if key not in known or not equals:
            allowed = ", ".join(f"{k}={v}" for k, v in known.items()) or "none"
            raise UserError(f"config argument {item!r} is not known; allowed, with their defaults: {allowed}")
        if key in given:
            raise UserError(f"config argument {item!r}: {key} is given twice; give it once")
        given.add(key)
        kind = type(known[key])
        try:
            values[key] = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise UserError(f"config argument {item!r}: {text!r} is not a valid {kind.__name__}") from None
    return ConfigDict(values)


def init_of(path: str | os.PathLike) -> str:
    """The `init` of a path: "weights" for a file or folder of weights from other code, else "mae".

    Raises UserError if nothing exists there and the path reads like a name on the Hugging Face Hub.
    """
    given, path = path, local(path, "init")
    if not exists(path) and (advice := hub_advice(given)):
        raise UserError(f"init={given} does not exist; {advice}")
    if is_dir(path):
        is_run = is_dir(path / "checkpoints") or not any(p.suffix in (".safetensors", ".bin") for p in entries(path))
        return "mae" if is_run else "weights"
    return "weights" if is_file(path) or path.suffix in WEIGHTS else "mae"


def one_of(field: str, value: Any, allowed: tuple) -> Any:
    """Returns `value` if it is allowed, else raises UserError naming the field."""
    if value not in allowed:
        raise UserError(f"{field}={value} is not allowed; use one of {', '.join(map(str, allowed))}")
    return value


def config_file(path: str | os.PathLike) -> Path:
    """`path` if it is a file, else the file that mae_jax ships under that name, such as configs/demo.py.

    Raises UserError, and OSError if it cannot be read.
    """
    path = local(path, "--config")
    if is_file(path):
        read_bytes(path)  # raises OSError that names it, which Python's import does not
        return path
    ours = {f"configs/{file.name}": file for file in sorted(CONFIGS.glob("[a-z]*.py"))}
    if str(path) in ours and not exists(path):
        return ours[str(path)]
    what = "is not a file" if exists(path) else "does not exist"
    near = difflib.get_close_matches(str(path), ours, 1, cutoff=0.7)
    hint = f"did you mean {near[0]}?" if near else f"mae_jax has {', '.join(ours)}"
    raise UserError(f"config file {path} {what}; {hint}")


def load(path: str | os.PathLike, arg: str = "") -> ConfigDict:
    """Loads the config of a file such as `configs/demo.py`, like the flag --config=FILE:ARG. Raises UserError."""
    path = config_file(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"config file {path} is not a Python file; see configs/ for examples")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"config file {path} is not valid Python, line {error.lineno}: {error.msg}") from None
    except ImportError as error:
        raise UserError(f"config file {path} cannot be imported: {error}; install what it imports") from None
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(f"config file {path} has no function get_config(arg); see configs/ for examples")
    try:
        inspect.signature(get_config).bind(arg)
    except TypeError:
        raise UserError(
            f"config file {path}: get_config must take one argument, the text after ':'; see configs/"
        ) from None
    config = get_config(arg)
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"config file {path}: get_config returned a {type(config).__name__}, not a ConfigDict; see configs/"
        )
    return remember(config)


def remember(config: ConfigDict, values: Mapping[str, Any] | None = None) -> ConfigDict:
    """Notes the values of a config, or other `values` by dotted names, as those of its file. Returns the config."""
    object.__setattr__(config, _LOADED, flatten(config) if values is None else dict(values))
    return config


def loaded_values(config: ConfigDict) -> dict[str, Any] | None:
    """The values that a config had when it was loaded, by dotted names; None if it was not loaded from a file."""
    return vars(config).get(_LOADED)


def _given(arguments: list[str]) -> list[tuple[str, str, str]]:
    """(name, "=", value) of the config flags, also of those written as two arguments."""
    following = [*arguments[1:], ""] if arguments else []
    joined = [a if "=" in a else f"{a}={b}" for a, b in zip(arguments, following, strict=True)]
    return [a.lstrip("-").partition("=") for a in joined if a.startswith(("--config", "-config"))]


def config_argument(arguments: list[str]) -> tuple[str, str] | None:
    """The config file and its argument from --config; None without that flag. Raises UserError."""
    files = [value for name, _, value in _given(arguments) if name == "config"]
    if not files:
        return None
    if not files[-1]:
        raise UserError("--config= names no file; use one of configs/, for example --config=configs/demo.py")
    path, _, arg = files[-1].partition(":")
    return path, arg


def check_arguments(arguments: list[str]) -> dict[str, Any]:
    """The values of the file in --config, by dotted names, without those of the flags --config.FIELD; {} without file.

    Raises UserError for a file that does not load, an unknown --config.FIELD, or a value of the wrong type.
    """
    config = config_argument(arguments)
    if config is None:
        return {}
    path, arg = config
    given, flat = _given(arguments), flatten(load(path, arg))
    for name, equals, value in given:
        field = name.removeprefix("config.")
        if name.startswith("config.") and field not in flat:
            near = difflib.get_close_matches(field, flat, 1, cutoff=0.75)
            hint = f"did you mean --config.{near[0]}?" if near else f"--config={path} --help lists the fields"
            inside = [key for key in flat if key.startswith(f"{field}.")]
            if inside:
                hint = f"it is a group of fields, such as --config.{inside[0]}"
            raise UserError(f"--config.{field}{equals}{value}: {field} is not a field of the config; {hint}")
        kind = type(flat.get(field))
        if name.startswith("config.") and kind in (int, float):
            try:
                kind(value)
            except ValueError:
                words = {int: "a whole number", float: "a number"}[kind]
                raise UserError(f"--config.{field}{equals}{value}: {value!r} is not {words}") from None
    return flat


def flatten(config: ConfigDict | Fields | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields by their dotted names: {"data.fraction": 0.1, ...}."""
    flat: dict[str, Any] = {}
    items = as_dict(config) if isinstance(config, Fields) else config
    for key, value in items.items():
        if isinstance(value, ConfigDict | Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def as_json(config: ConfigDict | Fields) -> dict[str, Any]:
    """The fields as read back from a JSON file: tuples become lists."""
    return json.loads(config.to_json() if isinstance(config, ConfigDict) else json.dumps(as_dict(config)))


def hparams(config: RunConfig) -> dict[str, Any]:
    """The fields for TensorBoard's table of hyperparameters, which needs the same keys in every run and no None."""
    return {
        key: value if isinstance(value, int | float | str) else json.dumps(value)
        for key, value in flatten(config).items()
        if not key.startswith(("log.", "data.threads", "data.workers", "data.prefetch", "data.prepared_dir"))
    }


def with_defaults(saved: dict[str, Any]) -> dict[str, Any]:
    """A saved config (JSON); fields that did not exist when it was saved get their defaults."""
    task = saved.get("task")
    if task in ("study", "sweep"):
        make = study_defaults if task == "study" else sweep_defaults
        runs = {part: _run_with_defaults(saved.get(part, {})) for part in ("pretrain", "finetune")}
        return _filled(saved | runs, as_json(make(ConfigDict(), ConfigDict())))
    return _run_with_defaults(saved)


def _run_with_defaults(saved: Any) -> Any:
    """`saved` with defaults if it is the config of a run; anything else is left to validation."""
    if not isinstance(saved, dict) or saved.get("task") not in tuple(TASKS):
        return saved
    return _filled(saved, as_json(defaults(saved["task"])))


def _filled(saved: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    filled = known | saved
    for key, value in known.items():
        if isinstance(value, dict) and isinstance(filled[key], dict):
            filled[key] = _filled(filled[key], value)
    return filled


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """A line "key: theirs -> ours" for each field that differs and must not, see `may_differ`."""
    return [
        f"{key}: {theirs.get(key)!r} -> {ours.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if not may_differ(key) and ours.get(key) != theirs.get(key)
    ]
