"""The report's sentences; each follows from the numbers."""

import math
from collections.abc import Sequence

import numpy as np

from mae_jax.report import label_efficiency, stats
from mae_jax.report.analysis import BASELINE, Study
from mae_jax.report.runs import Level, Run, percent
from mae_jax.report.tables import NOTHING, level_of, verdict
from mae_jax.rundir.predictions import clean

SURE = 0.05  # of a corrected p-value
ARMS = {  # how a run was trained where not in the usual way, for readers, by words of the arm's name
    "as many updates as": "trained for as many steps as on that share of the labels, so that fewer labels do not "
    "also mean less training",
}


def answer(study: Study, rows: list[dict], paired: list[dict], worth: list[dict]) -> dict:
    """The answer in words that follow from the numbers: a headline, and lines of detail."""
    lines, heads = [], []
    accuracy = [row for row in paired if row["metric"] == "accuracy"]
    for init, arm in dict.fromkeys((row["init"], row["arm"]) for row in accuracy):
        who, better, worse, nothing = _who(init), [], [], []
        own = [row for row in accuracy if (row["init"], row["arm"]) == (init, arm)]
        for row in own:
            at = percent(row["fraction"])
            sure = f"{at} (not sure after Holm's correction)" if row["holm_p"] >= SURE else at
            points = f"{abs(100 * row['difference']):.1f} points of accuracy at {sure}"
            if row["verdict"] == NOTHING:
                nothing.append(at + (" (both collapsed)" if both_collapsed(row, rows) else ""))
            elif row["verdict"] == "lower":
                worse.append(points)
            else:
                found = saved(row, worth)
                better.append(f"{times(found)} at {sure}" if found and found["low"] > 1 else points)
            if arm == study.arms[0]:
                lines.append(_difference_line(study, row, paired, worth))
        if arm != study.arms[0]:
            told = [f"{row['verdict']} at {percent(row['fraction'])}, {_points(row)}" for row in own]
            lines.append(f"{_sentence(arm)[:-1]}, {init} against {BASELINE}: {'; '.join(told)}.")
        parts = [f"{who} is worth {_join(better)}"] if better else []
        parts += [f"{'it' if parts else who} costs {_join(worse)}"] if worse else []
        start = f"{arm}: " if arm else ""
        if nothing:
            start = start if parts else f"{arm}, {who}: " if arm else f"{who}: "
            parts.append(f"{NOTHING} at {_join(nothing)}")
        heads.append(_sentence(start + "; ".join(parts)))
    if not accuracy:
        best = max(rows, key=lambda row: row["accuracy"])
        heads.append(
            f"The best accuracy is {100 * best['accuracy']:.1f} % ({best['init']} with"
            f" {labels(level_of(best))}). Nothing is compared: that takes a"
            f" {BASELINE} run beside another at the same fraction."
        )
    return {
        "headlines": heads,
        "lines": lines + arm_lines(study) + plateau_lines(study),
        "warnings": collapse_lines(study)
        + flawless_lines(rows)
        + study.warnings
        + leak_lines([run.info for run in study.runs]),
        "calibration": calibration_lines(paired),
        "arms": [
            f"{_sentence(arm)[:-1]}: {what}." for arm in study.arms for start, what in ARMS.items() if start in arm
        ],
    }


def both_collapsed(row: dict, rows: Sequence[dict]) -> bool:
    """Whether all models on both sides of a difference predict one class for every image."""
    sides = [r for r in rows if level_of(r) == level_of(row) and r["init"] in (row["init"], row["baseline"])]
    return all(r["collapsed"] == r["seeds"] for r in sides)


def saved(row: dict, worth: Sequence[dict]) -> dict | None:
    """The row of `worth` that belongs to a row of paired.csv, where it says how many times the labels a better
    accuracy is worth. None where it says nothing: the curve from scratch is so flat, or falls, that it is at this
    accuracy with no more labels.
    """
    found = [w for w in worth if _same(w, row)]
    return found[0] if found and found[0]["times"] >= 1.05 else None


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def leak_lines(infos: Sequence[dict]) -> list[str]:
    """What test sets share with training and pre-training, and whether groups are known, by run.json; no line twice."""
    lines = []
    for info in infos:
        groups = info.get("groups")
        if isinstance(groups, dict) and groups.get("known") is False:
            lines.append(
                "The groups of the images (patients, slides) are not known: the same patient may be on both sides, "
                "which makes scores too good and intervals too narrow. Name them with data.group_pattern or a column."
            )
        warnings = info.get("data_warnings")
        for line in warnings if isinstance(warnings, list) else ():
            lines.append(_sentence(clean(str(line))))
        for field, who, so in (
            ("leaks", "training", "Scores on them are too good; mae-jax check lists them."),
            ("seen_before", "pre-training", "It saw no labels of them; still, what it gains may be too good."),
        ):
            tests = info.get(field)
            for name, found in tests.items() if isinstance(tests, dict) else ():
                said = []
                for key, what in (
                    ("images_in_shared_groups", f"from groups (slides, regions, fields) that {who} has, too"),
                    ("identical", "byte for byte the same as one of its images"),
                    ("near_identical", "nearly the same as one of its images"),
                ):
                    n = found.get(key) if isinstance(found, dict) else 0
                    if isinstance(n, int) and n > 0:
                        said.append(f"{n:,} {what}")
                if said:
                    lines.append(f"Test images of {clean(name)} that {who} saw: {', '.join(said)}. {so}")
    return list(dict.fromkeys(lines))


def _who(init: str) -> str:
    return "pre-training" if init == "mae" else f"starting from {init}"


def _same(a: dict, b: dict) -> bool:
    return all(a[k] == b[k] for k in ("fraction", "init", "metric")) and level_of(a) == level_of(b)


def _difference_line(study: Study, row: dict, paired: list[dict], worth: list[dict]) -> str:
    """One fraction of one initialisation: difference, interval, test, worth in labels, macro F1."""
    level = level_of(row)
    n = study.n_train(level, row["init"])
    at = f"{labels(level)}{f' ({n:,} images)' if n else ''}, {row['init']} against {row['baseline']}"
    text = f"{at}: {row['verdict'] if row['verdict'].startswith('no') else 'accuracy is ' + row['verdict']}"
    text += f", {_points(row)}"
    if row["verdict"] != NOTHING and row["holm_p"] >= SURE:
        text += f"; not sure after Holm's correction (p = {row['holm_p']:.2g})"
    found = saved(row, worth)
    if found and row["verdict"] == "higher":
        text += f"; worth {times(found)} (95 % interval {times_interval(found)})"
    f1 = [r for r in paired if r["metric"] == "f1" and _same(r | {"metric": "accuracy"}, row)]
    if f1 and f1[0]["verdict"] != row["verdict"]:
        text += f". Macro F1, which counts every class alike: {f1[0]['verdict']}, {_points(f1[0])}"
    return text + "."


def labels(level: Level) -> str:
    """`10 % of the labels`, with the arm."""
    return f"{percent(level.fraction)} of the labels" + (f", {level.arm}" if level.arm else "")


def _points(row: dict) -> str:
    low, high, difference = (signed(100 * row[k]) for k in ("low", "high", "difference"))
    return f"{difference} points (95 % interval {low} to {high})"


def signed(value: float) -> str:
    """One decimal with its sign, but for zero; two where one would make it zero."""
    digits = 1 if abs(value) >= 0.05 or abs(value) < 0.005 else 2
    value = round(value, digits)
    return f"{value:+.{digits}f}".replace("-", "−") if value else "0.0"


def number(times: float) -> str:
    """A multiple, to the tenth from 1 on, else to the hundredth."""
    return f"{times:.1f}" if times >= 0.995 else f"{times:.2f}"


def times(worth: dict) -> str:
    """`3.2 times the labels`, or the bound where the scratch curve ends before."""
    if worth["times"] == math.inf:
        if worth["most"] == 1:
            return (
                f"more than all the labels from {BASELINE}"
                if worth["fraction"] == 1
                else (f"more labels than {BASELINE} was ever given")
            )
        return f"more than {worth['most']:.3g} times the labels"
    if worth["times"] == 0:
        return f"less than {worth['least']:.3g} times the labels"
    return f"{number(worth['times'])} times the labels"


def times_interval(worth: dict) -> str:
    """The interval of `times`, with the bounds of the scratch curve where it leaves them."""
    ends = []
    for end in (worth["low"], worth["high"]):
        over, under = f"more than {worth['most']:.3g}", f"less than {worth['least']:.3g}"
        ends.append(over if end == math.inf else under if end == 0 else number(end))
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def arm_lines(study: Study) -> list[str]:
    """A line for each further arm: what it changes in accuracy against the usual one, on the same images."""
    lines = []
    for arm in study.arms[1:]:
        said = []
        for level, init in study.cells:
            sides = study.of(level, init), study.of(level._replace(arm=study.arms[0]), init)
            if level.arm != arm or not all(sides):
                continue
            seeds = set.intersection(*({study.runs[i].seed for i in side} for side in sides))
            if not seeds:
                said.append(f"{init} at {percent(level.fraction)}: not compared, since no seed has both")
                continue
            sides = tuple([i for i in side if study.runs[i].seed in seeds] for side in sides)
            draws = study.mean_draws("accuracy", sides[0]) - study.mean_draws("accuracy", sides[1])
            low, high = stats.percentile_interval(draws)
            row = {"low": low, "high": high}
            row["difference"] = study.mean("accuracy", sides[0]) - study.mean("accuracy", sides[1])
            said.append(f"{init} at {percent(level.fraction)}: {verdict(low, high)}, {_points(row)}")
        if said:
            usual = study.arms[0] or "the usual training"
            lines.append(f"{_sentence(arm)[:-1]}, against {usual}, {'; '.join(said)}.")
    return lines


def plateau_lines(study: Study) -> list[str]:
    """Per initialisation, from which fraction more labels change nothing measurable."""
    lines = []
    for init in study.inits:
        fractions = [level.fraction for level in study.levels_of(init)]
        if len(fractions) < 2:
            continue
        found = label_efficiency.plateau(study, init)
        runs = [run.test.predictions for run in study.runs if run.init == init and run.arm == study.arms[0]]
        if several_classes(study) and all(len(set(p.tolist())) == 1 for p in runs):
            lines.append(f"{init}: collapsed at every fraction, so no plateau can be told.")
        elif found is None:
            lines.append(f"{init}: accuracy still changes up to {percent(fractions[-1])} of the labels.")
        else:
            fraction, gain = found
            lines.append(
                f"{init}: from {percent(fraction)} on, more labels change nothing measurable; a gain of up to "
                f"{100 * gain:.1f} points is not ruled out."
            )
    return lines


def calibration_lines(paired: Sequence[dict]) -> list[str]:
    """How the calibration error differs from that of scratch: a line for each initialisation and arm."""
    rows = [row for row in paired if row["metric"] == "ece"]
    lines = []
    for init, arm in dict.fromkeys((row["init"], row["arm"]) for row in rows):
        said: dict[str, list[str]] = {}
        for row in rows:
            if (row["init"], row["arm"]) == (init, arm):
                points = "" if row["verdict"] == NOTHING else f", {_points(row)}"
                said.setdefault(row["verdict"], []).append(f"at {percent(row['fraction'])}{points}")
        parts = "; ".join(f"{verdict} {_join(where)}" for verdict, where in said.items())
        lines.append(f"Calibration error (ECE) of {init} against {BASELINE}{f', {arm}' if arm else ''}: {parts}.")
    return lines


def several_classes(study: Study) -> bool:
    """Whether the test images are of more than one class; else one prediction for all of them is no collapse."""
    return len(set(study.runs[0].test.labels.tolist())) > 1


def one_pretraining(runs: Sequence[Run]) -> list[str]:
    """A line where several seeds of an initialisation begin with one and the same pre-training."""
    origins: dict[str, list[str]] = {}
    for run in runs:
        if isinstance(run.info.get("init_from"), str) and run.info["init_from"]:
            origins.setdefault(run.init, []).append(run.info["init_from"])
    several = {init for init in origins if len({run.seed for run in runs if run.init == init}) > 1}
    if not any(len(set(origins[init])) == 1 for init in several):
        return []
    return [
        "one pre-training serves all seeds: the intervals allow for other labels, first weights of the head and "
        "orders of the images, not for another pre-training, which --config.pretrain_seeds would add."
    ]


def collapse_lines(study: Study) -> list[str]:
    """A line for every cell with models that predict one class for (nearly) all images of several classes."""
    if not several_classes(study):
        return []
    labels = study.runs[0].test.labels
    majority = np.bincount(labels).max() / len(labels)
    cells: dict[str, dict[str, int]] = {}
    for run in study.runs:
        counts = np.bincount(run.test.predictions, minlength=len(run.classes))
        share = counts.max() / len(labels)
        if share == 1 or (share >= 0.99 and majority < 0.98):
            how = "Collapsed" if share == 1 else "Nearly collapsed"
            text = f"{how}: {run.classes[counts.argmax()]} is predicted for {100 * share:.3g} % of the images"
            where = cells.setdefault(text, {})
            where[f"{run.init} at {run.level}"] = where.get(f"{run.init} at {run.level}", 0) + 1
    seeds = {f"{init} at {level}": len(study.of(level, init)) for level, init in study.cells}
    return [
        f"{text} (the commonest class makes up {100 * majority:.1f} %): "
        + "; ".join(name + (f" ({n} of {seeds[name]} seeds)" if seeds[name] > 1 else "") for name, n in where.items())
        + "."
        for text, where in cells.items()
    ]


def flawless_lines(rows: Sequence[dict]) -> list[str]:
    """A line on models that make no mistake, which redrawing cannot question."""
    where = [f"{row['init']} at {level_of(row)}" for row in rows if row["accuracy"] == 1]
    n = rows[0]["n_test"]
    if not where:
        return []
    return [
        f"No mistake among {n:,} test images: {'; '.join(where)}. The interval has no width then, but an error rate of "
        f"up to about 3 in {n:,} would show none either."
    ]


def worth_lines(worth: Sequence[dict], paired: Sequence[dict]) -> list[dict]:
    """The rows on labels saved, each with its words and its interval in words."""
    found = []
    for row in worth:
        verdicts = [p["verdict"] for p in paired if _same(p, row)]
        text, interval = (NOTHING if NOTHING in verdicts else times(row)), times_interval(row)
        if NOTHING in verdicts and not row["low"] <= 1 <= row["high"]:
            interval = "–"  # a flat curve reaches the same with any number of labels
        if "higher" in verdicts and saved(row, worth) is None:
            text = f"better, but the curve from {BASELINE} is flat or falls here"
        found.append(row | {"words": text, "interval": interval})
    return found


def merge(notes: Sequence[str]) -> list[str]:
    """Notes of several runs that say the same, as one line each."""
    by_text: dict[str, list[str]] = {}
    for note in notes:
        who, _, text = note.partition(": ")
        by_text.setdefault(text, []).append(who)
    return [f"{text} ({who[0] if len(who) == 1 else f'{len(who)} runs'})" for text, who in by_text.items()]


def not_there(study: Study) -> list[str]:
    lines = []
    if not any(run.validation for run in study.runs):
        lines.append("temperature scaling is left out: no run has a predictions_val.csv")
    if not any(run.log for run in study.runs):
        lines.append("training curves are left out: no run has a metrics.jsonl")
    return lines


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
