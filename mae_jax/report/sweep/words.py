"""What the sweep shows, in words and in one table, all derived from the numbers."""

from mae_jax.report import stats, tables
from mae_jax.report.comparisons import TIMES, Difference, is_higher, is_lower, is_sure, judged
from mae_jax.report.runs import BASELINE, Level, percent
from mae_jax.report.stats import gray
from mae_jax.report.sweep.networks import Sweep


def answer(sweep: Sweep, rows: list[dict], effects: list[dict], classifiers: list[dict]) -> dict[str, list[str]]:
    """The headlines of the page, and lines of detail."""
    at = f"{percent(sweep.reference)} removed in evaluation"
    headlines = [_best(sweep, "removed", at), _best(sweep, "visible", at)]
    headlines += [_effect(sweep, effects, weight, at) for weight in sweep.weights if weight]
    if classifiers:
        headlines.append(_classifiers(classifiers))
    lines = [_no_network(sweep, rows)]
    if classifiers:
        lines += [_weighted(sweep, weight) for weight in sweep.weights if weight]
    lines += [_spam(sweep, rows), *sweep.warnings]
    lines.append(
        f"Each network was pre-trained once: the intervals, over {sweep.units}, show how sure its error is, not how "
        f"much another pre-training would differ."
    )
    return {"headlines": [line for line in headlines if line], "lines": [line for line in lines if line]}


def _best(sweep: Sweep, where: str, at: str) -> str:
    """Which mask ratio reconstructs best at the smallest weight, and whether the next best is measurably worse."""
    plain = [i for i, n in enumerate(sweep.networks) if n.line == (min(sweep.weights), sweep.most)]
    if len(plain) < 2:
        return ""
    column, ratio = f"{where}_normalised", sweep.reference
    order = sorted(plain, key=lambda i: sweep.mean(i, ratio, column))
    best, second = order[:2]
    draws = sweep.draws[ratio][column]
    low, _ = stats.percentile_interval(draws[second] - draws[best])
    names = [percent(sweep.networks[i].mask_ratio) for i in (best, second)]
    values = [f"{sweep.mean(i, ratio, column):.3f}" for i in (best, second)]
    tail = "" if low > 0 else "; no difference shown between the two"
    weight, begin = min(sweep.weights), f"{where} patches"
    if len(sweep.weights) > 1:
        begin = f"{f'with a weight of {weight:g}' if weight else 'without a weight'} on visible patches, {begin}"
    return (
        f"{begin[0].upper()}{begin[1:]} are reconstructed best by the network trained with {names[0]} "
        f"removed: its normalized error is {values[0]}; the next best, {names[1]}, has {values[1]} ({at}){tail}."
    )


def _span(values: list[float]) -> str:
    low, high = (f"{100 * v:+.1f}".replace("-", "−") for v in (min(values), max(values)))
    return f"{low} %" if low == high else f"{low} % to {high} %"


def _effect(sweep: Sweep, effects: list[dict], weight: float, at: str) -> str:
    """Whether a weight on visible patches improves them at no cost to the removed ones."""
    at_reference = [
        row
        for row in effects
        if row["visible_weight"] == weight and row["evaluated_at"] == sweep.reference and row["unlabeled"] == sweep.most
    ]
    seen, removed = (
        [r for r in at_reference if r["error"] == f"{where}_normalised"] for where in ("visible", "removed")
    )
    if not seen:
        return ""
    text = (
        f"A weight of {weight:g} on visible patches changes their error by {_span([r['change'] for r in seen])}, "
        f"and the error on removed patches by {_span([r['change'] for r in removed])} (over the mask ratios; {at})"
    )
    better = all(is_lower(row) for row in seen)
    worse = [percent(row["mask_ratio"]) for row in removed if is_higher(row)]
    if not better:
        return f"{text}: it does not improve visible patches at every mask ratio."
    if worse:
        return f"{text}: it improves visible patches, and makes removed ones worse at {', '.join(worse)}."
    return f"{text}: it improves visible patches, with no cost on removed ones shown."


def _classifiers(rows: list[dict]) -> str:
    base = next((row for row in rows if row["init"] == BASELINE), None)
    others = [row for row in rows if row["init"] != BASELINE]
    if not others:
        return ""
    best, worst = (f(others, key=lambda row: row["accuracy"]) for f in (max, min))
    labels = Level.of_row(best).labels
    text = f"Fine-tuned on {labels}, accuracy is {_accuracy(best)} from the best network ({best['init']})"
    if worst is not best:
        text += f" and {_accuracy(worst)} from the worst ({worst['init']})"
    if base is None:
        return f"{text}."
    shown = sum((row["difference_low"] or 0) > 0 and is_sure(row) for row in others)
    better = f"{shown} of {len(others)} networks are shown to be better, after Holm’s correction for their number"
    if len(others) == 1:
        better = f"the network is {'' if shown else 'not '}shown to be better"
    few = TIMES.get(min(row["seeds"] for row in rows))
    return f"{text}; {_accuracy(base)} from scratch: {better}{f', by classifiers each trained {few}' if few else ''}."


def _accuracy(row: dict) -> str:
    return f"{row['accuracy']:.3f}" + (f", {tables.collapse(row)}," if row["collapsed"] else "")


def _no_network(sweep: Sweep, rows: list[dict]) -> str:
    at_reference = [row for row in rows if row["evaluated_at"] == sweep.reference]
    better = sum(row["removed_pixel"] < row["removed_pixel_no_network"] for row in at_reference)
    painted = gray(at_reference[0]["removed_pixel_no_network"])
    who = f"{better} of {len(at_reference)} networks reconstruct removed patches with less error"
    if len(at_reference) == 1:
        who = f"the network reconstructs removed patches with {'less' if better else 'no less'} error"
    return (
        f"In pixels, {who} than no network, "
        f"which fills each with the mean color of the visible patches around it ({painted:.1f} gray levels at "
        f"{percent(sweep.reference)} removed)."
    )


def _weighted(sweep: Sweep, weight: float) -> str:
    """The effect of a weight on the classifiers, for each mask ratio, paired over images and seeds."""
    study, verdicts = sweep.study, {}
    family: list[tuple[str, Difference | None]] = []
    if study is None:
        return ""
    plain = {n.mask_ratio: n.name for n in sweep.networks if n.line == (0, sweep.most)}
    for network in sweep.networks:
        if network.line != (weight, sweep.most) or network.mask_ratio not in plain:
            continue
        names = network.name, plain[network.mask_ratio]
        sides = [study.of(study.runs[0].level, name) for name in names]
        if not all(sides) or len(sides[0]) != len(sides[1]):
            continue
        nothing = any(study.collapsed(side) == len(side) for side in sides)
        family.append((percent(network.mask_ratio), None if nothing else study.difference("accuracy", *sides)))
    for at, _, verdict in judged(family):
        verdicts.setdefault(verdict["verdict"], []).append(at)
    phrases = [f"{verdict} at {', '.join(names)}" for verdict, names in verdicts.items()]
    return (
        f"Accuracy of classifiers with a visible weight of {weight:g} against 0: {'; '.join(phrases)}."
        if phrases
        else ""
    )


def _spam(sweep: Sweep, rows: list[dict]) -> str:
    at_reference = [row for row in rows if row["evaluated_at"] == sweep.reference]
    most, least = (f(at_reference, key=lambda row: row["spam"]) for f in (max, min))
    named = [
        f"{percent(row['mask_ratio'])}, weight {row['visible_weight']:g}"
        + (f", {row['unlabeled']:,} images" if row["unlabeled"] else "")
        for row in (least, most)
    ]
    return (
        f"Patch repetition (0: as diverse as the originals, 1: one patch everywhere) is {least['spam']:.2f} "
        f"({named[0]}) to {most['spam']:.2f} ({named[1]}) at {percent(sweep.reference)} removed."
    )


def table(sweep: Sweep, rows: list[dict], classifiers: list[dict]) -> list[list[str]]:
    """The table at the reference ratio: header, then no network and scratch, then each network."""
    header = [
        "removed in training",
        "visible weight",
        *(["unlabeled images"] if sweep.counted else []),
        "error: removed",
        "visible",
        "gray levels: removed",
        "visible",
        "spam",
    ]
    scores = {row["init"]: row for row in classifiers}
    if classifiers:
        header += [f"accuracy at {Level.of_row(classifiers[0]).amount}", "difference from scratch (95 %)"]
    at_reference = [row for row in rows if row["evaluated_at"] == sweep.reference]
    lines = [
        header,
        [
            "no network",
            "–",
            *(["–"] if sweep.counted else []),
            "–",
            "–",
            f"{gray(at_reference[0]['removed_pixel_no_network']):.1f}",
            "–",
            "–",
        ],
    ]
    lines[1] += _score(scores.get(BASELINE)) if classifiers else []
    for network, row in zip(sweep.networks, at_reference, strict=True):
        line = [percent(network.mask_ratio), f"{network.visible_weight:g}"]
        line += [f"{network.unlabeled:,}" if network.unlabeled else "all"] if sweep.counted else []
        line += [f"{row['removed_normalised']:.3f}", f"{row['visible_normalised']:.3f}"]
        line += [f"{gray(row['removed_pixel']):.1f}", f"{gray(row['visible_pixel']):.1f}", f"{row['spam']:.2f}"]
        lines.append(line + (_score(scores.get(network.name)) if classifiers else []))
    return lines


def _score(row: dict | None) -> list[str]:
    if row is None:
        return ["–", "–"]
    accuracy = ", ".join(filter(None, (f"{row['accuracy']:.3f}", tables.collapse(row))))
    if row["difference"] is None:
        return [accuracy, "–"]
    return [accuracy, f"{row['difference']:+.3f} ({row['difference_low']:.3f} to {row['difference_high']:.3f})"]


def legend(sweep: Sweep) -> str:
    """What the table's columns mean."""
    how = (
        "for removed patches, mean and contrast are estimated from the visible patches around them, not taken from the "
        "original"
        if sweep.networks[0].normalized
        else "they are those of the network's predictions"
    )
    return (
        f"All networks see the same images with the same {percent(sweep.reference)} of the patches removed. Errors are "
        f"mean squared, in units of each patch's own standard deviation. Gray levels are root mean square errors of "
        f"the pixels (0 to 255); {how}. “No network” fills each removed patch with the mean color of the visible ones "
        f"around it; its line has the classifier from scratch. Spam is 0 for patches as diverse as the originals, 1 "
        f"for one patch everywhere."
    )
