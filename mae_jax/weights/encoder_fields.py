"""The config fields that follow from an existing encoder: its network and the normalization of its images."""

from typing import Any

from ml_collections import ConfigDict

from mae_jax.config.fields import COMPUTED, FEATURES, RunConfig, defaults
from mae_jax.config.loading import init_of
from mae_jax.config.tasks import TASKS, TRAITS, UNLABELED
from mae_jax.config.validation import ENCODER, NORMALIZATION
from mae_jax.rundir import contents, saved_runs
from mae_jax.runtime.disk import is_file
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.places import local

_DECODER = ("decoder_width", "decoder_depth", "decoder_heads")


def start_from(config: ConfigDict, place: str, field: str = "init") -> None:
    """Lets a run's config start from the encoder in `place`: a run, study, bundle, or weights of other code.

    Sets `init`, `init_from`, and the fields that `follow` sets. Of a study, its pre-training is used. "features:FILE",
    "histogram" and "nucleus" name features instead of an encoder. Raises UserError that names `field` if `place` cannot
    be read, or if it is a study without a single pre-training.
    """
    kind, colon, file = place.partition(":")
    if kind in COMPUTED or (colon and kind == FEATURES):
        config.init, config.init_from = kind, str(local(file, field)) if file else ""
        usual = defaults(config.task)
        config.model.update(usual.model)
        config.data.update({name: usual.data[name] for name in NORMALIZATION})
        return
    place = pretraining_of(place, field)
    config.init, config.init_from = init_of(place), place
    follow(config, place, field)


def follow(config: ConfigDict, place: str, field: str = "init") -> None:
    """Gives a run's config the network and the normalization of the encoder in `place`.

    A classifier takes no fields of a decoder, and a pre-training no pooling. A run directory that does not exist yet
    changes nothing. Raises UserError that names `field`.
    """
    unused = ("model.pool",) if TRAITS[config.task].decoder else tuple(f"model.{name}" for name in _DECODER)
    fields = fields_of(place, field)
    config.update_from_flattened_dict({key: value for key, value in fields.items() if key not in unused})


def fields_of(place: str, field: str = "init") -> dict[str, Any]:
    """The fields that follow from the encoder in `place`, by their dotted names; {} if there is no run yet.

    A run or bundle of mae_jax determines the image size, too; weights of other code leave it to the config. Raises
    UserError that names `field`.
    """
    path = local(place, field)
    about = path / contents.CONFIG
    saved = contents.read_json(about) if is_file(about) else None
    if isinstance(saved, dict) and contents.BUNDLE in saved:
        given = saved.get("config")
        if not isinstance(given, dict) or given.get("task") not in tuple(TASKS):
            raise UserError(f"{field}: {about} contains no config of a run; export the run again")
        return _of_run(contents.run_config(saved, f"{field}: {about}: "))
    if init_of(place) == "weights":
        from mae_jax.weights import reader  # JAX, which the config of a run does not need

        return reader.read(place, field).fields()
    return _of_run(saved_runs.config_of(path, field)) if is_file(about) else {}


def _of_run(saved: RunConfig) -> dict[str, Any]:
    names = ENCODER + (_DECODER if saved.traits.decoder else ())
    names += ("pool",) if saved.traits.labeled and saved.model.pool == "mean" else ()  # it has no norm for "cls"
    model = {f"model.{name}": getattr(saved.model, name) for name in names}
    return model | {f"data.{name}": getattr(saved.data, name) for name in NORMALIZATION}


def pretraining_of(place: str, field: str = "init") -> str:
    """`place`, or if it is a study its only pre-training. Raises UserError that names `field` if it has several."""
    path = local(place, field)
    if not is_file(path / contents.STUDY):
        return place
    runs = contents.runs_below(path)
    pretrainings = [run for run in runs if contents.read_object(run / contents.RUN).get("task") in UNLABELED]
    if len(pretrainings) == 1:
        return str(pretrainings[0])
    number = f"{len(pretrainings)} pre-trainings" if pretrainings else "no pre-training"
    raise UserError(
        f"{field}={place} is a study with {number}; name one of its runs: {contents.listed(path, pretrainings or runs)}"
    )
