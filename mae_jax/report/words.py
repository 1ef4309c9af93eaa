"""The report's answer in sentences, all derived from the numbers.

They follow the reader's questions: how many labels are enough, what pre-training is worth, then the details.
"""

from mae_jax.report import details, headlines, label_efficiency, phrases
from mae_jax.report.analysis import Study
from mae_jax.report.cautions import cautions
from mae_jax.report.label_efficiency import EQUAL_UPDATES
from mae_jax.report.runs import BASELINE, Level
from mae_jax.runtime.text import joined

ARMS = {  # how a run was trained where not in the usual way, for readers, by words of the arm's name
    EQUAL_UPDATES: "trained for as many steps as with that many labels, so that fewer labels do not "
    "also mean less training",
}


def answer(
    study: Study, rows: list[dict], paired: list[dict], worth: list[dict], target: float = 0.0, contrasts: bool = False
) -> dict:
    """The answer in words: headlines, and lines of detail.

    `target` is the macro F1 that is enough; 0 means within 2 points of the best with the most labels. With `contrasts`,
    other headlines compare arms, so it is not said that a run from scratch is missing.
    """
    accuracy = [row for row in paired if row["metric"] == "accuracy"]
    compared = list(dict.fromkeys((row["init"], row["arm"]) for row in accuracy))
    inits = list(dict.fromkeys(init for init, _ in compared))
    heads = [headlines.equal_updates_line(study, paired, init) for init in inits]
    heads.append(headlines.how_many(study, rows, label_efficiency.enough(study, target)))
    lines, later = [], []
    for init, arm in compared:
        init_rows = [row for row in accuracy if (row["init"], row["arm"]) == (init, arm)]
        if arm == study.arms[0]:
            lines += [details.difference_line(study, rows, row, paired, worth) for row in init_rows]
        else:
            outcomes = [f"at {Level.of_row(row).amount} {phrases.outcome(row, paired)}" for row in init_rows]
            base = joined(list(dict.fromkeys(row["baseline"] for row in init_rows)))
            lines.append(f"{phrases.sentence(arm)[:-1]}, {init} against {base}: {'; '.join(outcomes)}.")
        equal = label_efficiency.equal_updates(paired, init)
        if EQUAL_UPDATES in arm:
            if label_efficiency.shows_nothing_at_equal_updates(paired, init):
                continue  # already in the headline
            init_rows += [row for row in equal if row["arm"] != arm and not row["arm"]]
        elif equal and arm == study.arms[0]:
            # Where updates are equal, a gain for equal epochs may be one of training length.
            known = {each["fraction"] for each in equal}
            init_rows = [row for row in init_rows if row["fraction"] not in known]
            later += [headlines.gain(study, init_rows, paired, worth, arm)] if init_rows else []
            continue
        heads.append(headlines.gain(study, init_rows, paired, worth, arm))
    heads += later
    if not (accuracy or contrasts):
        heads.append(f"Nothing is compared, because that needs a run from {BASELINE} and another at the same fraction.")
    return {
        "headlines": [head for head in heads if head],
        "lines": details.baseline_lines(study)
        + lines
        + details.arm_lines(study)
        + details.tuned_lines(rows)
        + details.choice_lines(rows)
        + details.plateau_lines(study),
        "warnings": cautions(study, rows),
        "calibration": details.calibration_lines(paired),
        "arms": [
            f"{phrases.sentence(arm)[:-1]}: {what}."
            for arm in study.arms
            for start, what in ARMS.items()
            if start in arm
        ],
    }
