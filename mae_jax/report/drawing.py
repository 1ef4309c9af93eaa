"""Draws every figure for which the findings have data."""

from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure

from mae_jax.report import confidence, figures, frozen_encoders
from mae_jax.report.figures import Curve
from mae_jax.report.findings import Findings
from mae_jax.report.panels import Numbers
from mae_jax.report.runs import distinct, slug

# Caption of each kind of figure: how to read it.
CAPTIONS = {
    "curves": "Accuracy and macro F1 on the test images against the number of labeled training images. "
    "Bars are 95 % intervals. Points of one fraction are shifted sideways so that both can be seen.",
    "sensitivity": "Sensitivity (recall) for each cell type against the labels, with 95 % "
    "intervals; the number of test images is in parentheses. The rarest cell types come first.",
    "differences": "Scores minus those of training from scratch on the same test images, with 95 % intervals. Points "
    "right of the line are better. An open mark means that no difference is shown, or that Holm's correction does not "
    "confirm it.",
    "power_law": "Errors against labels on logarithmic axes, with a fitted power law (dashed). R² measures "
    "the fit. With so few points the line is a description, not a forecast. Collapsed models are left out.",
    "confidence": "Confidence by true class. Filled boxes are right predictions, open boxes wrong ones; the "
    "numbers below count the predictions of all seeds. A box spans the quartiles, its line is the median, and the "
    "whiskers end at the last value within 1.5 times the height of the box.",
    "frozen_curves": "Accuracy with a frozen encoder against the number of labeled training images, with 95 % "
    "intervals.",
    "reliability": "Reliability: the share of right predictions against confidence in 15 bins of equal width, "
    "and the number of predictions in each bin (logarithmic). Below the dotted line a model is too sure of itself.",
    "risk_coverage": "Errors that remain when only the most confident predictions are kept and a person sees the "
    "others; at 100 % all are kept. A curve that starts low means that confidence finds the mistakes.",
    "training": "Loss and accuracy during training, with one line for each seed. Where the dashed line "
    "(training) leaves the solid one (validation), the model overfits.",
    "pretraining": "Reconstruction error during pre-training, on removed and on visible patches. Where the "
    "dashed line leaves the solid one, the autoencoder overfits.",
}


@dataclass(frozen=True)
class Drawing:
    """A figure, its numbers as rows, the name of its files, and the kind and arm under which the page shows it.

    `part` names the fraction, for a figure that shows a single fraction.
    """

    name: str
    kind: str
    arm: str
    figure: Figure
    numbers: list[dict]
    part: str = ""


def draw(findings: Findings) -> list[Drawing]:
    """Every figure for which the runs have data, each with its own file name."""
    all_figures = list(_figures(findings))
    parts = {f"confidence_{level.slug}": level.labels for level in findings.study.levels}
    names = distinct(name for name, _, _ in all_figures)
    return [
        Drawing(name, next(kind for kind in CAPTIONS if name.startswith(kind)), arm, *drawn, parts.get(wanted, ""))
        for name, (wanted, arm, drawn) in zip(names, all_figures, strict=True)
    ]


def _figures(findings: Findings) -> Iterator[tuple[str, str, Numbers]]:
    """Yields (name, arm, (figure, numbers)) of each figure.

    The first arm, the usual one, has the main figures. An arm that has only some of its fractions is drawn in the same
    curves; any other arm has its own curves.
    """
    study, rows, paired = findings.study, findings.rows, findings.paired
    usual = study.arms[0]
    fractions = {arm: {level.fraction for level in study.in_arms([arm])} for arm in study.arms}
    together = [arm for arm in study.arms if arm == usual or fractions[arm] < fractions[usual]]
    for arms in (together, *([arm] for arm in study.arms if arm not in together)):
        panels = [Curve(title, study, rows, m, arms) for m, title in (("accuracy", "Accuracy"), ("f1", "Macro F1"))]
        yield f"curves{slug(arms[0])}", arms[0], figures.curves(panels)
    if (by_class := figures.sensitivities(study, findings.cell_types)) is not None:
        yield "sensitivity", usual, by_class
    if any(row["low"] is not None for row in paired):
        yield "differences", usual, figures.differences(study, paired)
    if (fitted := figures.fitted(study, rows)) is not None:
        yield "power_law", usual, fitted
    if findings.probes:
        title = frozen_encoders.title
        panels = [Curve(title(p.evaluation), p.study, p.rows, "accuracy", p.study.arms) for p in findings.probes]
        yield "frozen_curves", usual, figures.curves(panels, width=2.4)
    for level in study.levels:
        yield f"confidence_{level.slug}", level.arm, confidence.boxes(study, level)
    for arm in study.arms:
        yield f"reliability{slug(arm)}", arm, confidence.reliability(study, [arm])
        yield f"risk_coverage{slug(arm)}", arm, confidence.risk_coverage(study, [arm])
        if (trained := figures.training(study, [arm])) is not None:
            yield f"training{slug(arm)}", arm, trained
    if (pretrained := figures.pretraining(study, findings.pretrainings)) is not None:
        yield "pretraining", usual, pretrained
