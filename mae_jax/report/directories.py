"""Run directories below a study's directory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mae_jax.report.runs import is_number, read_info
from mae_jax.rundir.contents import (
    PREDICTIONS,
    RUN,
    STUDY,
    is_pretraining,
    peek,
    peek_object,
    runs_below,
    unreadable_format,
)
from mae_jax.runtime.disk import exists, is_dir
from mae_jax.runtime.errors import UserError, printable
from mae_jax.runtime.text import count


def expand(places: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Run directories of classifiers: `places` themselves, and for a study's directory the runs below it.

    A study's directory has no run.json, but directories one or two levels below it do. Its pre-training runs are found
    through its classifiers. Also returns lines that name runs without predictions. Raises UserError for a directory
    without runs.
    """
    run_dirs: list[Path] = []
    unfinished: list[str] = []
    for place in places:
        below = runs_below(place) if is_dir(place) and not exists(place / RUN) else []
        if not below:
            read_info(place)
            run_dirs.append(place)
            continue
        classifiers = [run for run in below if not holds_pretraining(run)]
        if not classifiers:
            raise UserError(
                f"{place}: no classifier among its {count(len(below), 'run')}; the report compares classifiers"
            )
        finished = [run for run in classifiers if exists(run / PREDICTIONS)]
        unfinished += [printable(run.name, keep="") for run in classifiers if run not in finished]
        run_dirs += finished or classifiers[:1]
    return run_dirs, [f"not finished, and so left out: {', '.join(unfinished)}"] if unfinished else []


def study_settings(places: Sequence[Path]) -> dict[str, Any]:
    """What study.json says of the report of the only place: `title`, `target`, `pictures` and `contrasts`.

    Of several places a single one without pictures decides that there are none.
    """
    configs = [_study_config(place) for place in places]
    settings = {}
    if len(configs) == 1:
        title, target = configs[0].get("title"), configs[0].get("target")
        settings |= {"title": title} if isinstance(title, str) and title else {}
        settings |= {"target": float(target)} if is_number(target, 0.0, 1.0) else {}
        pairs = configs[0].get("contrasts")
        settings |= {"contrasts": [text for text in pairs if isinstance(text, str)]} if isinstance(pairs, list) else {}
    return settings | ({"pictures": False} if any(config.get("pictures") is False for config in configs) else {})


def _study_config(place: Path) -> dict:
    """The config in study.json, {} where there is none that can be read."""
    saved = peek(place / STUDY)
    if why := unreadable_format(saved):
        raise UserError(f"{place / STUDY} {why}; update mae_jax, or name its runs")
    config = saved.get("config") if isinstance(saved, dict) else None
    return config if isinstance(config, dict) else {}


def holds_pretraining(run: Path) -> bool:
    """Whether run.json is of a pre-training. False if it is damaged, which the reader of runs reports."""
    return is_pretraining(peek_object(run / RUN))
