"""Which figures are drawn, their names, and the arm and part of the page under which each is shown."""

from mae_jax.report import drawing, panels
from mae_jax.report.findings import find

ARM = "as many updates as 100 %"
ARMS = "lr 1e-3", "lr_1e-3"


def drawn(dirs):
    with panels.style():
        return drawing.draw(find(dirs))


def test_a_single_run_has_the_figures_that_need_no_comparison(make, tmp_path):
    result = drawn([make.run(tmp_path / "run", "scratch", 0.1, rows=60)])
    assert [each.name for each in result] == [
        *("curves", "confidence_10", "reliability", "risk_coverage", "training"),
    ]
    assert [each.kind for each in result] == [
        *("curves", "confidence", "reliability", "risk_coverage", "training"),
    ]
    assert {each.arm for each in result} == {""}
    assert [each.part for each in result if each.part] == ["10 % of the labels"]
    assert all(each.numbers for each in result)


def test_without_a_log_there_is_no_figure_of_training(make, tmp_path):
    run = make.run(tmp_path / "run", "scratch", 0.1, rows=60)
    (run / "metrics.jsonl").unlink()
    assert "training" not in [each.name for each in drawn([run])]


def test_an_arm_of_all_fractions_has_curves_of_its_own_and_one_of_few_fractions_is_in_the_usual_ones(make, tmp_path):
    runs = [make.run(tmp_path / f"{f}", "scratch", f, rows=60) for f in (0.1, 0.5)]
    runs += [make.run(tmp_path / f"x{f}", "scratch", f, rows=60, arm="longer") for f in (0.1, 0.5)]
    runs += [make.run(tmp_path / "few", "scratch", 0.1, rows=60, arm=ARM)]
    result = {each.name: each for each in drawn(runs)}
    assert [name for name in result if name.startswith("curves")] == ["curves", "curves_longer"]
    assert {row["arm"] for row in result["curves"].numbers} == {"", ARM}
    assert result["curves_longer"].arm == "longer" and {r["arm"] for r in result["curves_longer"].numbers} == {"longer"}
    assert (
        result["confidence_10_longer"].arm == "longer" and result["confidence_10_longer"].part == "10 % of the labels"
    )
    slug = "_as_many_updates_as_100__"
    assert {f"{kind}{slug}" for kind in ("confidence_10", "reliability", "risk_coverage", "training")} <= set(result)


def test_every_kind_of_figure_has_one_caption_and_no_kind_hides_another():
    """A name is of the first kind that it begins with, so no kind may begin with an earlier one."""
    kinds = list(drawing.CAPTIONS)
    assert all(text.endswith(".") for text in drawing.CAPTIONS.values())
    assert not [(a, b) for i, a in enumerate(kinds) for b in kinds[i + 1 :] if b.startswith(a)]


def test_names_that_would_be_equal_differ(make, tmp_path):
    runs = [
        make.run(tmp_path / f"{i}", "scratch", 0.1, rows=60, arm=arm) for i, arm in enumerate(("lr 1e-3", "lr_1e-3"))
    ]
    names = [each.name for each in drawn(runs)]
    assert len(names) == len(set(map(str.casefold, names)))
    assert {"training_lr_1e_3", "training_lr_1e_3_"} <= set(names)
