"""What is at a path that names a model: a run, a bundle, a study, or weights. Nothing here starts JAX."""

from pathlib import Path

from mae_jax.rundir import contents, saved_runs
from mae_jax.runtime.command import say
from mae_jax.runtime.disk import exists, is_dir
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.places import hub_advice
from mae_jax.runtime.text import count
from mae_jax.weights import arrays

BUNDLE, RUN, STUDY, WEIGHTS = "bundle", "run", "study", "weights"


def kind_of(place: Path, field: str) -> str:
    """BUNDLE, RUN, STUDY (a folder with finished classifiers below) or WEIGHTS. Opens no weights.

    Raises UserError that names `field` if nothing is there, or a folder holds none of them.
    """
    if not exists(place):
        raise UserError(
            f"{field}={place} does not exist; {hub_advice(place) or 'name a run directory, a bundle, or weights'}"
        )
    if saved_runs.is_bundle(place):
        return BUNDLE
    if saved_runs.is_run(place):
        return RUN
    if is_dir(place) and saved_runs.finished_classifiers(place):
        return STUDY
    if is_dir(place) and not arrays.holds_weights(place):
        raise UserError(
            f"{field}={place} holds no run (no {contents.CONFIG}), no bundle and no file of weights; choose another "
            f"path ({saved_runs.ADVICE})"
        )
    arrays.files_of(place, field)
    return WEIGHTS


def kind_of_model(place: Path, field: str) -> str:
    """BUNDLE, RUN or WEIGHTS. Raises UserError as `kind_of` does, and for a study with the names of its runs."""
    kind = kind_of(place, field)
    if kind == STUDY:
        runs = saved_runs.finished_classifiers(place)
        raise UserError(
            f"{field}={place} contains {count(len(runs), 'run')}; name one of them: {contents.listed(place, runs)}"
        )
    return kind


def runs_of(place: Path, every_run: bool) -> list[Path]:
    """The runs of a study with `every_run`, [] for a single model without. `mae-jax predict` calls the place RUN.

    Raises UserError as `kind_of` does, if `place` is a study and `every_run` is not set, or the reverse.
    """
    if every_run:
        runs = saved_runs.finished_classifiers(place) if is_dir(place) else []
        if not runs:
            raise UserError(f"--all requires a study's directory, which {place} is not; omit --all")
        return runs
    if kind_of(place, "RUN") != STUDY:
        return []
    runs = saved_runs.finished_classifiers(place)
    listed = "\n  ".join(str(run) for run in runs)
    say(f"{place} is a study with {count(len(runs), 'finished classifier')}:\n  {listed}")
    raise UserError(f"{place} is a study; name one of its runs listed above, or use --all for all of them")
