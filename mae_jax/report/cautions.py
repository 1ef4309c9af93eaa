"""What a reader must know before believing the report: the lines under "Take care" and "Left out or not known"."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mae_jax.report import stats, without_leaked
from mae_jax.report.analysis import Study, top_share
from mae_jax.report.label_efficiency import EQUAL_UPDATES
from mae_jax.report.runs import Level, Run, rounded
from mae_jax.rundir.class_counts import few_images, few_start
from mae_jax.rundir.predictions import clean


def cautions(study: Study, rows: Sequence[dict]) -> list[str]:
    """The lines under "Take care", the most serious first."""
    leaks = leak_lines([run.info | {"data_warnings": ()} for run in study.runs]) + data_lines(study)
    leaks += without_leaked.lines(study)
    before = seed_lines(study) + collapse_lines(study) + worse_than_common_lines(rows)
    before += update_lines(study) + flawless_lines(rows)
    return before + study.warnings + leaks


def seed_lines(study: Study) -> list[str]:
    """A line for cells with too few seeds for a statement about other seeds."""
    counts = {cell: len(study.of(*cell)) for cell in study.cells}
    lines = []
    for seeds, name, what in (
        (1, "One seed", "each model was trained once"),
        (2, "Two seeds", "each was trained twice"),
    ):
        cells = [f"{init} at {level}" for (level, init), count in counts.items() if count == seeds]
        if not cells:
            continue
        where = "" if len(cells) == len(counts) else f" ({'; '.join(cells)})"
        lines.append(
            f"{name}{where}: {what}. Intervals are over {study.units} alone, and a difference is one between these "
            f"models. {name} cannot show how much other seeds (labels, initial weights, order of the images) would "
            f"differ: train {stats.SEEDS} or more, preferably 5."
        )
    return lines


def collapse_lines(study: Study) -> list[str]:
    """A line for every cell with models that predict one class for (nearly) all images of several classes."""
    labels = study.runs[0].test.labels
    majority = np.bincount(labels).max() / len(labels)
    cells: dict[str, dict[tuple[Level, str], int]] = {}
    for run in study.runs:
        if study.has_collapsed(run):
            top, share = np.bincount(run.test.predictions).argmax(), top_share(run)
            how = "Collapsed" if share == 1 else "Nearly collapsed"
            text = f"{how}: {run.classes[top]} is predicted for {100 * share:.3g} % of the images"
            where = cells.setdefault(text, {})
            where[run.level, run.init] = where.get((run.level, run.init), 0) + 1
    lines = []
    for text, where in cells.items():
        phrases = []
        for (level, init), count in where.items():
            seeds = len(study.of(level, init))
            phrases.append(f"{init} at {level}" + (f" ({count} of {seeds} seeds)" if seeds > 1 else ""))
        lines.append(f"{text} (the most common class makes up {rounded(majority)} %): {'; '.join(phrases)}.")
    some = [
        f"{init} at {level}" for level, init in study.cells
        if 0 < study.collapsed(study.of(level, init)) < len(study.of(level, init))
    ]  # fmt: skip
    if some:
        lines.append(
            f"Only some seeds collapsed: {'; '.join(some)}. A mean of models that learned and models that did not, and "
            f"its interval, say little."
        )
    return lines


def worse_than_common_lines(rows: Sequence[dict]) -> list[str]:
    """A line for models that learned, but are right less often than always predicting the most common class."""
    worse = [row for row in rows if not row["collapsed"] and row["accuracy"] < row["majority_rate"]]
    if not worse:
        return []
    where = "; ".join(f"{row['init']} at {Level.of_row(row)} ({rounded(row['accuracy'])} %)" for row in worse)
    return [
        f"Less accurate than always predicting the most common class ({rounded(worse[0]['majority_rate'])} %): {where}."
    ]


def update_lines(study: Study) -> list[str]:
    """A line if models with fewer labels had fewer updates and none were trained for equally many."""
    if any(EQUAL_UPDATES in arm for arm in study.arms) or not (study.baselines and study.compared):
        return []
    updates = {run.info["steps"] for run in study.runs if isinstance(run.info.get("steps"), int)} - {0}
    if len(updates) < 2:
        return []
    return [
        f"Models with fewer labels were also trained for fewer updates ({min(updates):,} to {max(updates):,}), so a "
        f"gain there may come from the length of the training. config.step_matched=1.0 also compares equal numbers of "
        f"updates."
    ]


def flawless_lines(rows: Sequence[dict]) -> list[str]:
    """A line about models without mistakes, for which resampling gives an interval of width 0."""
    where = [f"{row['init']} at {Level.of_row(row)}" for row in rows if row["accuracy"] == 1]
    n = rows[0]["n_test"]
    if not where:
        return []
    return [
        f"No mistake among {n:,} test images: {'; '.join(where)}. The interval has no width then, but an error rate of "
        f"up to about 3 in {n:,} would show none either."
    ]


def data_lines(study: Study) -> list[str]:
    """What makes scores doubtful by run.json of the runs, each line once and with the levels that it is about.

    Seeds may have other labels. Classes with few of them get one line for a level, with their numbers in all draws.
    """
    where: dict[str, list[Level]] = {}
    few = {level: _few_labels(study, level) for level in study.levels}
    for run in study.runs:
        warnings = run.info.get("data_warnings")
        for line in map(clean, warnings if isinstance(warnings, list) else ()):
            counted = few[run.level] and line.startswith(few_start("training"))
            where.setdefault(few[run.level] if counted else line, []).append(run.level)
    lines = []
    for line, levels in where.items():
        some = [level for level in study.levels if level in levels]
        start = f"with {'; '.join(level.labels_and_arm for level in some)}: " if len(some) < len(study.levels) else ""
        text = start + line
        lines.append(f"{text[:1].upper()}{text[1:]}.")
    return lines


def _few_labels(study: Study, level: Level) -> str:
    """The sentence about classes with few labels in any run of a level; "" if none has, or if a run does not tell."""
    counts = [run.train_counts for run in study.runs if run.level == level]
    known = [each for each in counts if each]
    if len(known) < len(counts):
        return ""
    return few_images({name: [each.get(name, 0) for each in known] for name in study.runs[0].classes}, "training")


def leak_lines(infos: Sequence[dict]) -> list[str]:
    """Lines from run.json that make test scores doubtful.

    They are on images that test sets share with training and pre-training, unknown groups, and test sets whose stain
    was normalized differently from that of the training images.
    """
    lines = []
    for info in infos:
        groups = info.get("groups")
        if isinstance(groups, dict) and groups.get("known") is False:
            lines.append(
                "The groups of the images (patients, slides) are not known: the same patient may be on both sides, "
                "which makes scores too good and intervals too narrow. Name them with data.group_pattern or a column."
            )
        warnings = info.get("data_warnings")
        for line in map(clean, warnings if isinstance(warnings, list) else ()):
            lines.append(f"{line[:1].upper()}{line[1:]}.")
        stain: Any = info.get("stain")
        stain = stain if isinstance(stain, dict) else {}
        for name, text in stain.items():
            if text != stain.get("train", text):
                train, test = (clean(each) or "not normalized" for each in (stain["train"], text))
                lines.append(
                    f"The stain of the training images is {train}, that of {clean(name)} is {test}. Prepare both with "
                    f"the same --stain and --stain_target."
                )
        for field, who, so in (
            ("leaks", "training", "Scores on them may be too good; mae-jax check lists them."),
            ("seen_before", "pre-training", "It saw no labels of them, but its gain may still be too good."),
        ):
            tests = info.get(field)
            for name, leaks in tests.items() if isinstance(tests, dict) else ():
                phrases = []
                for key, what in (
                    ("images_in_shared_groups", f"from groups (slides, regions, fields) that {who} has as well"),
                    ("identical", "byte for byte the same as one of its images"),
                    ("near_identical", "that look like copies of its images"),
                ):
                    n = leaks.get(key) if isinstance(leaks, dict) else 0
                    if isinstance(n, int) and n > 0:
                        phrases.append(f"{n:,} {what}")
                if phrases:
                    lines.append(
                        f"Test images of {clean(name)} that may be known from {who}: {', '.join(phrases)}. {so}"
                    )
                if isinstance(leaks, dict) and leaks.get("shifted_searched") is False:
                    lines.append(
                        f"Shifted and cropped copies of {who} images were not searched for among the test images of "
                        f"{clean(name)}, because there are too many pairs."
                    )
    return list(dict.fromkeys(lines))


def seen_lines(runs: Sequence[Run]) -> list[str]:
    """Lines on encoders that were trained on the data of the test images, or of which that is not known."""
    lines = []
    for run in runs:
        seen = run.info.get("seen_tests")
        for name, data in seen.items() if isinstance(seen, dict) else ():
            named = ", ".join(clean(each) for each in data) if isinstance(data, list) else clean(data)
            lines.append(
                f"Test images of {clean(name)} may be known to {run.init}, whose encoder was trained on {named}: its "
                f"score there does not measure performance on unseen images."
            )
    return list(dict.fromkeys(lines))


def unknown_data(runs: Sequence[Run]) -> list[str]:
    """A line on features from files of which no one says which data their encoder was trained on."""
    config = {run.init: run.info.get("config") for run in runs if not run.info.get("seen")}
    names = [init for init, each in config.items() if isinstance(each, dict) and each.get("init") == "features"]
    if not names:
        return []
    return [
        f"which data the encoder of {', '.join(names)} was trained on is not stated, so it may know the test images; "
        f"state it with seen=DATA in inits, or in FILE.json."
    ]


def one_pretraining(runs: Sequence[Run]) -> list[str]:
    """A line if several seeds of an initialization start from the same pre-training."""
    origins: dict[str, list[str]] = {}
    for run in runs:
        if isinstance(run.info.get("init_from"), str) and run.info["init_from"]:
            origins.setdefault(run.init, []).append(run.info["init_from"])
    several = {init for init in origins if len({run.seed for run in runs if run.init == init}) > 1}
    if not any(len(set(origins[init])) == 1 for init in several):
        return []
    return [
        "one pre-training serves all seeds: intervals allow for other labels, initial weights of the head and orders "
        "of the images, not for another pre-training, which --config.pretrain_seeds adds."
    ]


def merge(notes: Sequence[str]) -> list[str]:
    """Merges equal notes of several runs into one line each."""
    by_text: dict[str, list[str]] = {}
    for note in notes:
        who, _, text = note.partition(": ")
        by_text.setdefault(text, []).append(who)
    return [f"{text} ({who[0] if len(who) == 1 else f'{len(who)} runs'})" for text, who in by_text.items()]


def not_there(study: Study) -> list[str]:
    """Lines about parts of the page that are left out because the run directories lack files."""
    lines = []
    if not any(run.validation for run in study.runs):
        lines.append("temperature scaling is left out: no run has a predictions_val.csv")
    if not any(run.log for run in study.runs):
        lines.append("training curves are left out: no run has a metrics.jsonl")
    return lines
