"""The lines under "Take care" and "Left out or not known"."""

import dataclasses

from mae_jax.report import cautions, tables
from mae_jax.report.cautions import leak_lines
from mae_jax.report.page import write_report
from mae_jax.report.runs import read_runs
from mae_jax.rundir.class_counts import few_images


def test_a_damaged_comparison_with_training_is_skipped():
    odd = {"TestA": ["not", "ours"], "TestB": {"identical": "many"}}
    assert cautions.leak_lines([{"leaks": odd}, {"leaks": 3}, {}]) == []


INITS = ("scratch", "mae")


def test_a_single_cell_of_fewer_seeds_is_named(make):
    cells = {("", 0.1, "scratch"): [0.6] * 3, ("", 0.1, "mae"): [0.7] * 3, ("", 1.0, "scratch"): [0.8]}
    (line,) = cautions.seed_lines(make.in_memory(cells))
    assert line.startswith("One seed (scratch at 100 %): each model was trained once.")


def test_a_warning_of_the_data_names_the_levels_that_it_is_about(make):
    study = make.in_memory({("", f, i): [0.7] for f in (0.1, 0.5, 1.0) for i in INITS})
    few, always = "fewer than 5 training images of a 2: their scores are mostly chance", "every day has one class"
    text = {0.1: [few, always], 0.5: [few, always], 1.0: [always]}
    runs = [dataclasses.replace(run, info=run.info | {"data_warnings": text[run.fraction]}) for run in study.runs]
    lines = cautions.cautions(dataclasses.replace(study, runs=runs), tables.rows(study))
    assert lines[-2:] == [f"With 10 % of the labels; 50 % of the labels: {few}.", "Every day has one class."]


def test_few_labels_of_all_draws_are_one_line(make):
    study = make.in_memory({("", f, "mae"): [0.6, 0.7] for f in (0.1, 1.0)})
    drawn = {(0.1, 0): [2, 9], (0.1, 1): [0, 7], (1.0, 0): [20, 90], (1.0, 1): [20, 90]}
    names = study.runs[0].classes
    runs = []
    for run in study.runs:
        counts = dict(zip(names, [*drawn[run.fraction, run.seed], *[50] * (len(names) - 2)], strict=True))
        warnings = [few_images({name: [n] for name, n in counts.items()}, "training")] if run.fraction < 1 else []
        runs.append(dataclasses.replace(run, train_counts=counts, info=run.info | {"data_warnings": warnings}))
    lines = cautions.data_lines(dataclasses.replace(study, runs=runs))
    assert lines == [
        f"With 10 % of the labels: fewer than 5 training images of {names[0]} (0 to 2): their scores are mostly chance."
    ]


def test_models_without_a_mistake_prove_nothing(make):
    rows = tables.rows(make.in_memory({("", 0.1, "scratch"): [0.5], ("", 0.1, "mae"): [1.0]}))
    assert cautions.flawless_lines(rows[:1]) == []
    (line,) = cautions.flawless_lines(rows)
    assert line.startswith("No mistake among 400 test images: mae at 10 %.") and "about 3 in 400" in line


def test_unknown_groups_are_on_the_page():
    unknown = {"groups": {"known": False}}
    assert "The groups of the images (patients, slides) are not known" in leak_lines([unknown, unknown])[0]
    assert leak_lines([{"groups": {"known": True}}, {}]) == []


def test_test_images_with_another_stain_are_a_doubt():
    same = {"train": "normalized by macenko to a.jpg", "TestA": "normalized by macenko to a.jpg"}
    assert leak_lines([{"stain": same}, {"stain": {}}, {"stain": 3}, {"stain": {"cam16": "x", "prcc": ""}}]) == []
    assert leak_lines([{"stain": same | {"B\x1b": ""}}]) == [
        "The stain of the training images is normalized by macenko to a.jpg, that of B is not normalized. Prepare both "
        "with the same --stain and --stain_target."
    ]


def test_every_collapsed_cell_is_named_with_its_class_its_share_and_its_seeds(make):
    cells = {("", 0.1, "scratch"): ["collapsed"] * 2, ("", 0.1, "mae"): ["collapsed", 0.8], ("", 1.0, "mae"): [0.9]}
    study = make.in_memory(cells, images=100)
    assert cautions.collapse_lines(study) == [
        "Collapsed: e is predicted for 100 % of the images (the most common class makes up 61.0 %): "
        "scratch at 10 % (2 of 2 seeds); mae at 10 % (1 of 2 seeds).",
        "Only some seeds collapsed: mae at 10 %. A mean of models that learned and models that did not, and its "
        "interval, say little.",
    ]
    first = study.runs[0]
    given = first.test.predictions.copy()
    given[:1] = 0  # 99 of 100
    nearly = dataclasses.replace(first, test=dataclasses.replace(first.test, predictions=given))
    lines = cautions.collapse_lines(dataclasses.replace(study, runs=[nearly, *study.runs[1:]]))
    assert lines[0].startswith("Nearly collapsed: e is predicted for 99 % of the images")
    assert cautions.collapse_lines(make.in_memory({("", 0.1, "mae"): [0.8]}, images=100)) == []


def test_what_test_images_share_with_training_is_counted_and_unseen_sets_are_not_named():
    shared = {"images_in_shared_groups": 1234, "identical": 0, "near_identical": 2, "shifted_searched": False}
    (seen, skipped) = cautions.leak_lines([{"leaks": {"Test\x1bA": shared, "TestB": {"identical": 0}}}] * 2)
    assert seen == (
        "Test images of TestA that may be known from training: 1,234 from groups (slides, regions, fields) that "
        "training has as well, 2 that look like copies of its images. Scores on them may be too good; "
        "mae-jax check lists them."
    )
    assert skipped.startswith("Shifted and cropped copies of training images were not searched for among the test")
    (doubt,) = cautions.leak_lines(
        [{"data_warnings": ["\x1b[2Jevery day has one class"]}, {"data_warnings": "no list"}]
    )
    assert doubt == "[2Jevery day has one class."  # a card shows it, without the control character
    (line,) = cautions.leak_lines([{"seen_before": {"TestA": {"identical": 3}}}])
    assert "may be known from pre-training: 3 byte for byte the same" in line and "It saw no labels of them" in line


def test_one_pre_training_for_several_seeds_is_named(make):
    runs = make.in_memory({("", 0.1, "mae"): [0.5, 0.6], ("", 0.1, "scratch"): [0.5, 0.6]}, images=100).runs

    def started(*origins):
        result = dict(zip([run for run in range(len(runs)) if runs[run].init == "mae"], origins, strict=True))
        return [dataclasses.replace(r, info=r.info | {"init_from": result.get(i, "")}) for i, r in enumerate(runs)]

    (line,) = cautions.one_pretraining(started("a", "a"))
    assert line.startswith("one pre-training serves all seeds")
    assert cautions.one_pretraining(started("a", "b")) == [] == cautions.one_pretraining(runs)
    single = [run for run in started("a", "a") if run.seed == 0]
    assert cautions.one_pretraining(single) == []


def test_equal_notes_are_one_line_and_say_how_many_runs_they_are_of():
    notes = ["a: no groups", "b: no groups", "c: no p_x: y", "b: other"]
    assert cautions.merge(notes) == ["no groups (2 runs)", "no p_x: y (c)", "other (b)"]


def test_missing_parts_are_named_only_where_no_run_has_them(make):
    study = make.in_memory({("", 0.1, "scratch"): [0.5, 0.6]}, images=100)
    assert [line.partition(" is ")[0].partition(" are ")[0] for line in cautions.not_there(study)] == [
        "temperature scaling",
        "training curves",
    ]
    runs = [dataclasses.replace(study.runs[0], log=({"step": 1},)), study.runs[1]]
    (line,) = cautions.not_there(dataclasses.replace(study, runs=runs))
    assert line.startswith("temperature scaling")
    assert cautions.not_there(make.in_memory({("", 0.1, "scratch"): [0.5]}, images=100, choosing=5))[0].startswith(
        "training curves"
    )


def test_an_encoder_that_may_know_the_test_images_is_named(make, tmp_path):
    seen = {"seen": ["raabin", "pbc"], "seen_tests": {"TestA": ["raabin"]}}
    runs = [make.run(tmp_path / "scratch", "scratch", 0.1, rows=60)]
    runs += [
        make.run(tmp_path / f"bloom{seed}", "bloom", 0.1, seed=seed, rows=60, knows=0.5, **seen) for seed in (0, 1)
    ]
    runs += [make.run(tmp_path / "other", "other", 0.1, rows=60, knows=0.5, config={"init": "features"})]
    read, _ = read_runs(runs)
    assert cautions.seen_lines(read) == [
        "Test images of TestA may be known to bloom, whose encoder was trained on raabin: its score there does not "
        "measure performance on unseen images."
    ]
    (line,) = cautions.unknown_data(read)
    assert line.startswith("which data the encoder of other was trained on is not stated, ")
    text = write_report(runs, tmp_path / "report").paths["page"].read_text()
    assert "may be known to bloom" in text and "encoder of other was trained" in text


def test_fewer_updates_with_fewer_labels_are_a_caution_unless_equal_updates_were_compared(make):
    cells = {("", f, i): [0.8] * 3 for f in (0.1, 1.0) for i in ("scratch", "mae")}

    def lines(cells, steps):
        study = make.in_memory(cells)
        runs = [dataclasses.replace(run, info=run.info | {"steps": steps[run.fraction]}) for run in study.runs]
        return cautions.update_lines(dataclasses.replace(study, runs=runs))

    (line,) = lines(cells, {0.1: 140, 1.0: 1260})
    assert line.startswith("Models with fewer labels were also trained for fewer updates (140 to 1,260), so a gain ")
    assert lines(cells, {0.1: 1260, 1.0: 1260}) == []
    equal = {("as many updates as 100 %", 0.1, i): [0.8] * 3 for i in ("scratch", "mae")}
    assert lines(cells | equal, {0.1: 140, 1.0: 1260}) == []


def test_models_that_are_less_accurate_than_the_most_common_class_are_named(make):
    cells = {("", 0.1, "scratch"): ["collapsed"], ("", 0.1, "mae"): [0.55], ("", 1.0, "mae"): [0.65]}
    rows = tables.rows(make.in_memory(cells))
    line = "Less accurate than always predicting the most common class (61.0 %): mae at 10 % (55.0 %)."
    assert cautions.worse_than_common_lines(rows) == [line]
    assert cautions.worse_than_common_lines(rows[:1]) == []
