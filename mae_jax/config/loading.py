"""Configs: the fields and their defaults, arguments of config files, derived values.

A config file below `configs/` starts from `defaults(task)` and sets what its experiment is about.
Values that follow from others (steps, learning rate, warm-up) are computed in `resolve`, after every
override from the command line.
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
    TASKS,
    WEIGHTS,
    Fields,
    RunConfig,
    as_dict,
    defaults,
    may_differ,
    study_defaults,
    sweep_defaults,
)
from mae_jax.runtime.errors import UserError

# Where mae_jax's own config files are: in the package of a wheel, or beside it in the project's folder.
CONFIGS = next(p for p in (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs") if p.is_dir())
_arguments: contextvars.ContextVar[list[dict[str, Any]] | None] = contextvars.ContextVar("arguments", default=None)


@contextlib.contextmanager
def recorded_arguments() -> Iterator[list[dict[str, Any]]]:
    """Records the arguments and defaults of every config file that is loaded inside; the outermost file comes first."""
    recorded: list[dict[str, Any]] = []
    token = _arguments.set(recorded)
    try:
        yield recorded
    finally:
        _arguments.reset(token)


def parse_arg(arg: str | None, **known: Any) -> ConfigDict:
    """Reads a config file's argument, "key=value,key=value", typed as the defaults in `known`.

    A bare key of a boolean means true: "smoke" is "smoke=true". Raises UserError for an unknown key and for a value
    of the wrong type.
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
    """What a path given as `init` is: "weights" for a file or folder of other code's weights, else "mae"."""
    path = Path(path)
    if path.is_dir():
        own = (path / "checkpoints").is_dir() or (not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")))
        return "mae" if own else "weights"
    return "weights" if path.is_file() or path.suffix in WEIGHTS else "mae"


def one_of(field: str, value: Any, allowed: tuple) -> Any:
    """Returns `value` if it is allowed, else raises UserError naming the field."""
    if value not in allowed:
        raise UserError(f"{field}={value} is not allowed; use one of {', '.join(map(str, allowed))}")
    return value


def config_file(path: str | os.PathLike) -> Path:
    """`path`, or the file that mae_jax ships under that name, such as configs/demo.py. Raises UserError."""
    path = Path(path).expanduser()
    if path.is_file():
        return path
    ours = {f"configs/{file.name}": file for file in sorted(CONFIGS.glob("[a-z]*.py"))}
    if str(path) in ours and not path.exists():
        return ours[str(path)]
    what = "is not a file" if path.exists() else "does not exist"
    near = difflib.get_close_matches(str(path), ours, 1, cutoff=0.7)
    hint = f"did you mean {near[0]}?" if near else f"mae_jax has {', '.join(ours)}"
    raise UserError(f"config file {path} {what}; {hint}")


def load(path: str | os.PathLike, arg: str = "") -> ConfigDict:
    """The config of a file such as `configs/demo.py`, as the flag --config=FILE:ARG gives it."""
    path = config_file(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"config file {path} is not a Python file; see configs/ for those that are")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"config file {path} is not valid Python, line {error.lineno}: {error.msg}") from None
    except ImportError as error:
        raise UserError(f"config file {path} needs what is not here: {error}; install it, or leave it out") from None
    made = getattr(module, "get_config", None)
    if not callable(made):
        raise UserError(f"config file {path} has no function get_config(arg); see configs/ for some that have")
    try:
        inspect.signature(made).bind(arg)
    except TypeError:
        raise UserError(
            f"config file {path}: get_config takes one argument, the text after ':'; see configs/"
        ) from None
    config = made(arg)
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"config file {path}: get_config gave a {type(config).__name__}; it should give a ConfigDict, see configs/"
        )
    return config


def _given(arguments: list[str]) -> list[tuple[str, str, str]]:
    """(name, "=", value) of the flags that concern the config, also those written as two arguments."""
    following = [*arguments[1:], ""] if arguments else []
    joined = [a if "=" in a else f"{a}={b}" for a, b in zip(arguments, following, strict=True)]
    return [a.lstrip("-").partition("=") for a in joined if a.startswith(("--config", "-config"))]


def config_argument(arguments: list[str]) -> tuple[str, str] | None:
    """The file and its argument that --config names; None without that flag. Raises UserError."""
    files = [value for name, _, value in _given(arguments) if name == "config"]
    if not files:
        return None
    if not files[-1]:
        raise UserError("--config= names no file; use one of configs/, for example --config=configs/demo.py")
    path, _, arg = files[-1].partition(":")
    return path, arg


def check_arguments(arguments: list[str]) -> None:
    """Refuses a --config that does not load, a --config.FIELD that does not exist and a value of the wrong type.

    Raises UserError.
    """
    config = config_argument(arguments)
    if config is None:
        return
    path, arg = config
    given, flat = _given(arguments), flatten(load(path, arg))
    for name, equals, value in given:
        field = name.removeprefix("config.")
        if name.startswith("config.") and field not in flat:
            near = difflib.get_close_matches(field, flat, 1, cutoff=0.75)
            hint = f"did you mean --config.{near[0]}?" if near else f"--config={path} --help lists the fields"
            inside = [key for key in flat if key.startswith(f"{field}.")]
            if inside:
                hint = f"it has fields of its own, such as --config.{inside[0]}"
            raise UserError(f"--config.{field}{equals}{value}: {field} is not a field of the config; {hint}")
        kind = type(flat.get(field))
        if name.startswith("config.") and kind in (int, float):
            try:
                kind(value)
            except ValueError:
                words = {int: "a whole number", float: "a number"}[kind]
                raise UserError(f"--config.{field}{equals}{value}: {value!r} is not {words}") from None


def flatten(config: ConfigDict | Fields | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"data.fraction": 0.1, ...}: the fields in one level."""
    flat: dict[str, Any] = {}
    items = as_dict(config) if isinstance(config, Fields) else config
    for key, value in items.items():
        if isinstance(value, ConfigDict | Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def as_json(config: ConfigDict | Fields) -> dict[str, Any]:
    """The fields as they come back from a JSON file: tuples as lists."""
    return json.loads(config.to_json() if isinstance(config, ConfigDict) else json.dumps(as_dict(config)))


def hparams(config: RunConfig) -> dict[str, Any]:
    """The fields as TensorBoard's table wants them: the same keys in every run, no None."""
    return {
        key: value if isinstance(value, int | float | str) else json.dumps(value)
        for key, value in flatten(config).items()
        if not key.startswith(("log.", "data.threads", "data.workers", "data.prefetch", "data.prepared_dir"))
    }


def with_defaults(saved: dict[str, Any]) -> dict[str, Any]:
    """A config as saved (JSON), with the fields that came since at their defaults: what the run did."""
    task = saved.get("task")
    if task in TASKS:
        known = defaults(task)
    elif task in ("study", "sweep"):
        make = study_defaults if task == "study" else sweep_defaults
        known = make(ConfigDict(), ConfigDict())
        saved = saved | {part: with_defaults(saved.get(part, {})) for part in ("pretrain", "finetune")}
    else:
        return saved
    return _filled(saved, as_json(known))


def _filled(saved: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    found = known | saved
    for key, value in known.items():
        if isinstance(value, dict) and isinstance(found[key], dict):
            found[key] = _filled(found[key], value)
    return found


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """ "key: theirs -> ours" for each field that differs, except those that may."""
    return [
        f"{key}: {theirs.get(key)!r} -> {ours.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if not may_differ(key) and ours.get(key) != theirs.get(key)
    ]
