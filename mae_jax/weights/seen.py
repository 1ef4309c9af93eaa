"""Which data an encoder of other code was trained on, as far as this is stated, and whether test images are of them."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from mae_jax.config.fields import RunConfig
from mae_jax.rundir import contents
from mae_jax.runtime.disk import is_file
from mae_jax.runtime.errors import UserError
from mae_jax.weights import initial_weights

SHORTEST = 3  # a shorter name must be equal, because it is a part of many others


def stated(config: RunConfig) -> tuple[str, ...]:
    """The data sets that the encoder of a run was trained on before, by `init_seen` and by the sidecar of its file.

    The sidecar of FILE is FILE.json with a list "seen". An encoder that mae_jax trained further is followed back to the
    encoder that it began with. Raises UserError for a sidecar that cannot be used.
    """
    names: list[str] = []
    for run in [config, *initial_weights.earlier_runs(config)]:
        names += [name.strip() for name in run.init_seen.split(",") if name.strip()]
        names += sidecar(run.init_from) if run.init_from else ()
    return tuple(dict.fromkeys(names))


def sidecar(place: str) -> list[str]:
    """The names that the sidecar of a file or folder lists; [] without a sidecar. Raises UserError if it is damaged."""
    path = Path(place)
    path = path.with_name(f"{path.name}.json")
    if not is_file(path):
        return []
    names = contents.read_object(path).get("seen", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f'{path}: "seen" is {names!r:.100}; use a list of names, such as ["raabin_wbc", "pbc"]')
    return names


def among(seen: Iterable[str], tests: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """{test set: the names in `seen` that name its data}. `tests` maps each test set to the names of its data.

    Case and punctuation do not count, and one name may be a part of the other: "Raabin" is raabin_wbc.
    """
    shared = {
        test: [name for name in seen if any(_same(name, test_name) for test_name in names)]
        for test, names in tests.items()
    }
    return {test: names for test, names in shared.items() if names}


def _same(one: str, two: str) -> bool:
    short, long = sorted((re.sub(r"[\W_]", "", name.lower()) for name in (one, two)), key=len)
    return bool(short) and (short == long or (len(short) >= SHORTEST and short in long))
