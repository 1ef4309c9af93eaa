"""Reads and analyzes runs: everything that the page of a study shows, as data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mae_jax.report import (
    analysis,
    autoencoder_pictures,
    between_arms,
    cautions,
    cell_types,
    certainty,
    external_tests,
    frozen_encoders,
    hand_made,
    label_draws,
    label_efficiency,
    learning_speed,
    mistakes,
    prediction_sets,
    tables,
    without_leaked,
    words,
)
from mae_jax.report.analysis import Study
from mae_jax.report.autoencoder_pictures import Pretraining
from mae_jax.report.between_arms import Scored
from mae_jax.report.cell_types import CellTypes
from mae_jax.report.external_tests import External
from mae_jax.report.frozen_encoders import Frozen
from mae_jax.report.prediction_sets import PredictionSets
from mae_jax.report.runs import Run, read_runs
from mae_jax.rundir.contents import fine_tunes
from mae_jax.rundir.predictions import clean
from mae_jax.runtime.errors import UserError


@dataclass(frozen=True)
class Findings:
    """The results of all analyses of one report.

    `rows`, `paired`, `contrasts`, `label_draws`, `worth`, `certainty`, `sure_and_wrong`, `speed` and `mistakes` are the
    rows of table.csv, paired.csv, contrasts.csv, label_draws.csv, efficiency.csv, certainty.csv, sure_and_wrong.csv,
    learning_speed.csv and mistakes.csv; `answer` has the sentences of `words.answer`. `notes` are lines for the page,
    and `left_out` lines about what it lacks.
    """

    title: str
    images: str  # the name of the data; "" if it is not known
    study: Study
    rows: list[dict]
    paired: list[dict]
    contrasts: list[dict]
    label_draws: list[dict]
    worth: list[dict]
    answer: dict
    cell_types: CellTypes
    certainty: list[dict]
    sure_and_wrong: list[dict]
    sets: PredictionSets
    speed: list[dict]
    mistakes: list[dict]
    gallery: list[dict]
    examples: list[dict]
    probes: list[Frozen]
    probe_runs: list[Run]
    others: list[External]
    without_leaked: list[dict]
    pretrainings: list[Pretraining]
    autoencoders: list[dict]
    notes: list[str]
    left_out: list[str]

    @property
    def published(self) -> list[dict]:
        """The original study's table if these runs are on its data set."""
        return tables.PUBLISHED if any(r.info.get("data") == "raabin_wbc" for r in self.study.runs) else []

    @property
    def class_counts(self) -> list[tuple[str, int]]:
        """How many test images each class has."""
        first = self.study.runs[0]
        counts = np.bincount(first.test.labels, minlength=len(first.classes))
        return list(zip(first.classes, counts.tolist(), strict=True))

    @property
    def seeds(self) -> int:
        """The largest number of seeds in a row of the table."""
        return max(row["seeds"] for row in self.rows)


def find(
    run_dirs: Sequence[Path],
    *,
    title: str | None = None,
    notes: Sequence[str] = (),
    target: float = 0.0,
    fraction: float | None = None,
    pictures: bool = True,
    contrasts: Sequence[str] = (),
) -> Findings:
    """Reads run directories and analyzes them. Without `pictures`, reconstructions are the only images shown.

    `contrasts` are the pairs of arms "A:B" to compare. `fraction` is the share of labels of the second confusion
    matrix. `target` is the macro F1 at which labels are enough; 0 means within 2 points of the best with the most
    labels. Raises UserError for directories that are not valid (see `runs`).
    """
    if not 0 <= target <= 1:
        raise UserError(
            f"target={target:g} is not a macro F1: use a number above 0 and at most 1, or 0 for the default"
        )
    all_runs, missing = read_runs(run_dirs)
    runs, probed = frozen_encoders.separate(all_runs)
    reference = frozen_encoders.random_probes({runs[0].evaluation: runs} | probed)
    study = analysis.analyze(runs, reference)
    probes = frozen_encoders.analyze(probed)
    rows = tables.rows(study)
    paired, unpaired = tables.paired(study)
    worth = label_efficiency.worth(study, paired) + label_efficiency.worth(study, paired, "f1")
    others, unknown = external_tests.read(runs, reference)
    unpaired += [f"{each.name}: {line}" for each in probes for line in each.notes]
    tested = [Scored(runs[0].evaluation, "", study)]
    tested += [Scored(runs[0].evaluation, other.name, other.study) for other in others]
    tested += [Scored(each.evaluation, "", each.study) for each in probes]
    compared, not_compared = between_arms.rows(contrasts, tested)
    answer = _answer(study, words.answer(study, rows, paired, worth, target, contrasts=bool(compared)))
    simple = hand_made.headlines(study, probes)
    answer["headlines"] = [*between_arms.headlines(compared), *answer["headlines"], *simple]
    answer["warnings"] = [*cautions.seen_lines(all_runs), *answer["warnings"]]
    images = _name_of_images(runs)
    sets = prediction_sets.analyze(study, [(other.name, other.study) for other in others])
    types = cell_types.analyze(study, fraction)
    return Findings(
        title=title or " ".join(["How many labels are enough?", images]).strip(),
        images=images,
        study=study,
        rows=rows,
        paired=paired,
        contrasts=compared,
        label_draws=label_draws.rows(study),
        worth=worth,
        answer=answer,
        cell_types=types,
        certainty=certainty.analyze(study),
        sure_and_wrong=certainty.by_class(study),
        sets=sets,
        speed=learning_speed.analyze(study),
        mistakes=mistakes.mistakes(runs),
        gallery=mistakes.gallery(runs, pictures),
        examples=mistakes.examples(runs[0], types.shown) if pictures else [],
        probes=probes,
        probe_runs=[run for level_runs in probed.values() for run in level_runs],
        others=others,
        without_leaked=without_leaked.rows(study),
        pretrainings=autoencoder_pictures.pretrainings(runs),
        autoencoders=autoencoder_pictures.sheets(runs),
        notes=[*notes, *cautions.one_pretraining(runs), *cautions.unknown_data(all_runs)],
        left_out=cautions.merge(missing) + unpaired + not_compared + unknown + cautions.not_there(study) + sets.refused,
    )


def _name_of_images(runs: Sequence[Run]) -> str:
    """The name of the data; "" if no run.json has one."""
    names = [run.info.get(key) for key in ("data_name", "data") for run in runs]
    return next((clean(name) for name in names if isinstance(name, str)), "")


def _answer(study: Study, answer: dict) -> dict:
    """The sentences of the answer. If all encoders are frozen, the first headline says so."""
    evaluation = study.runs[0].evaluation
    if fine_tunes(evaluation):
        return answer
    kind = frozen_encoders.CLASSIFIERS.get(evaluation, f"classifiers on frozen encoders ({evaluation})")
    first, *others = answer["headlines"]
    arms = [f"All models here are {kind}: the encoder was not trained.", *answer["arms"]]
    return answer | {"arms": arms, "headlines": [f"{first} All models here are {kind}.", *others]}
