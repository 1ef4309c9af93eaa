"""The names of the files in a run directory, and readers and writers of its JSON files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mae_jax.config import tasks, validation
from mae_jax.config.fields import COMPUTED, WITHOUT_NETWORK, RunConfig, rules
from mae_jax.config.loading import flatten, with_defaults
from mae_jax.runtime import disk
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.files import replacing
from mae_jax.runtime.version import __version__

FORMAT = 2  # of run directories. Format 1 did not record it; newer formats are refused
CONFIG, RUN, SUBSET = "config.json", "run.json", "subset.json"
RESULTS, PREDICTIONS, METRICS = "results.json", "predictions.csv", "metrics.jsonl"
VALIDATION = "predictions_val.csv"
PROBE = "probe.npz"  # the fitted classifier of a probe on a frozen encoder
STUDY = "study.json"  # in the directory of a study or sweep, whose runs are in subdirectories
LOWERED = "lowered.json"  # reductions of the learning rate, see `train.divergence`
TRACKERS = "trackers.json"  # the run's id in each of `log.trackers`
SAVED = ".saved"  # exists once a checkpoint was saved: the run must not start again without one
MISTAKES = "thumbnails"  # has small pictures of the most confident mistakes
THUMBNAIL = 192  # longest side of these pictures in pixels
EXAMPLES = "examples"  # has a small picture of each class
BUNDLE = "mae_jax_bundle"  # a key in the config.json of a bundle, which is not a run
FOLDS = "folds"  # has the predictions of a cross-validation, and its models until they are trained
EXTERNAL = "external"  # has a directory with a predictions.csv for each external test set
ROBUSTNESS = "robustness"  # folders with predictions for changed test images
RECONSTRUCTIONS = "reconstructions.csv"  # of a pre-training; the .json has the means, the .png a sheet of pictures
USUAL = tasks.USUAL  # the evaluation of a run whose run.json does not say how its encoder was evaluated
ERRORS = (  # columns of reconstructions.csv after image, group and mask_ratio: mean squared errors and patch repetition
    "removed_normalised",
    "visible_normalised",
    "removed_pixel",
    "visible_pixel",
    "removed_pixel_borrowed",
    "removed_pixel_no_network",
    "spam",
)


def is_pretraining(info: Mapping[str, Any]) -> bool:
    """Whether run.json is of a run without labels, which has no predictions."""
    return info.get("task") in tasks.UNLABELED


def has_network(init: object) -> bool:
    """Whether a network computes the features of a run with this `config.init`."""
    return init not in WITHOUT_NETWORK


def hand_made_features(init: object) -> str:
    """The features of a run with this `config.init` in words, such as "color histograms"; "" if others are used."""
    return COMPUTED.get(init, "") if isinstance(init, str) else ""


def chooses(evaluation: str) -> bool:
    """Whether an evaluation of an encoder chooses a penalty or a number of neighbors on validation images."""
    return evaluation in tasks.TRAITS and bool(tasks.TRAITS[evaluation].chooses)


def fine_tunes(evaluation: str) -> bool:
    """Whether an evaluation trains the encoder with labels. One that only other software has does not."""
    return evaluation in tasks.TRAITS and tasks.TRAITS[evaluation].fine_tunes


def is_linear(evaluation: str) -> bool:
    """Whether an evaluation is a linear probe. One that only other software has is not."""
    return evaluation in tasks.TRAITS and tasks.TRAITS[evaluation].linear


def reference_ratio(ratios: Sequence[float]) -> float:
    """The mask ratio of headline numbers and pictures: the one nearest to 0.75, as in He et al. (2022)."""
    return min(ratios, key=lambda ratio: (abs(ratio - 0.75), ratio))


def sides_of(contrast: str) -> tuple[str, str]:
    """The names of the two arms of a contrast "A:B". The second name has no ":"."""
    first, _, second = contrast.rpartition(":")
    return first, second


def runs_below(study: Path) -> list[Path]:
    """Every directory one or two levels below that holds run.json, sorted; a report's directory is none."""
    above = disk.entries(study)
    below = [path for folder in above for path in disk.entries(folder)]
    return sorted(folder for folder in (*above, *below) if disk.exists(folder / RUN))


def listed(study: Path, runs: Sequence[Path], most: int = 12) -> str:
    """The names of runs below a study's directory, in one line: pre-training runs first, at most `most`."""
    names = sorted((str(run.relative_to(study)) for run in runs), key=lambda name: (name.startswith("cells"), name))
    return ", ".join(names[:most] + ([f"and {len(names) - most} more"] if len(names) > most else []))


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically. Raises OSError."""
    with replacing(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def parse(path: Path) -> Any:
    """The value in a JSON file, which may have a byte order mark.

    Raises ValueError that says in one line why it is damaged or not a file, FileNotFoundError if there is none, and
    OSError if the storage fails, because then nothing is known of the file.
    """
    if disk.exists(path) and not disk.is_file(path):  # opening a pipe would block
        what = "folder" if disk.is_dir(path) else "pipe or a device"
        raise ValueError(f"is a {what} instead of a file")
    try:
        return json.loads(disk.read_text(path, encoding="utf-8-sig"))
    except NotADirectoryError as error:  # the path goes through a file, such as one of weights
        raise FileNotFoundError(*error.args) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON ({error})") from None


def read_json(path: Path) -> Any:
    """Reads a JSON file. Raises UserError if it is missing or damaged."""
    try:
        return parse(path)
    except ValueError as error:
        raise UserError(f"{path} {error}; restore it or remove the run directory") from None
    except FileNotFoundError:
        raise UserError(f"{path} is missing; restore it from a backup, or remove the run directory") from None


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object, such as run.json. Raises UserError if it is missing, damaged or not an object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, not a JSON object; restore it")
    return value


def peek(path: Path) -> Any:
    """The value in a JSON file; None if there is no such file or it is damaged.

    Raises OSError if the storage fails, because then nothing is known of the file.
    """
    try:
        return parse(path)
    except (FileNotFoundError, ValueError):
        return None


def peek_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} if there is none. Raises OSError as `peek` does."""
    value = peek(path)
    return value if isinstance(value, dict) else {}


def stamped(saved: dict[str, Any]) -> dict[str, Any]:
    """`saved`, the content of a config.json or study.json, with the format and the version that writes it."""
    return {"format": FORMAT, "version": __version__, **saved}


def _writer(saved: Mapping[str, Any]) -> str:
    """Which version wrote a config, as part of a sentence; "" if it does not say so."""
    version = saved.get("version")
    return f", written by mae_jax {version[:40]}" if isinstance(version, str) and version else ""


def unreadable_format(saved: Any) -> str:
    """Why this version cannot read a config.json or study.json of mae_jax, by its format; "" if it can."""
    written = saved.get("format", 1) if isinstance(saved, dict) and isinstance(saved.get("config"), dict) else 1
    if type(written) is int and 1 <= written <= FORMAT:
        return ""
    here = f"this version of mae_jax ({__version__}) reads formats 1 to {FORMAT}"
    return f"has format {written!r}{_writer(saved)}, but {here}"


def run_config(saved: Mapping[str, Any], prefix: str) -> RunConfig:
    """The checked config of a run from `saved`, the content of its config.json, with defaults for newer fields.

    `prefix` precedes field names in messages. Raises UserError.
    """
    filled = with_defaults(saved["config"])
    unknown = [key for key in flatten(filled) if key not in rules(RunConfig)]
    if unknown and (writer := _writer(saved)) and saved["version"] != __version__:
        raise UserError(
            f"{prefix}{unknown[0]} is not a field of this version of mae_jax ({__version__}), but the file "
            f"was{writer[1:]}; update mae_jax, or remove the field"
        )
    validation.refuse_unknown(unknown, rules(RunConfig), "the config", prefix)
    try:
        config = ConfigDict(filled)
    except Exception as error:  # names that ConfigDict does not take, such as "a.b" or "__class__"
        raise UserError(f"{prefix.removesuffix(': ')} is damaged ({disk.first_line(error)}); restore it") from None
    return validation.validate(config, prefix)


def read_config(path: Path) -> dict[str, Any]:
    """Reads a config.json or study.json. Raises UserError if mae_jax did not write it, or a newer version did."""
    saved = read_json(path)
    if not isinstance(saved, dict) or not isinstance(saved.get("config"), dict):
        raise UserError(f"{path} is not the config of a run (no field 'config'); choose another directory")
    if why := unreadable_format(saved):
        raise UserError(f"{path} {why}; update mae_jax, or choose another directory")
    if not isinstance(saved.get("resolved", {}), dict):
        raise UserError(f"{path} is not the config of a run ('resolved' is not an object); restore it")
    return saved
