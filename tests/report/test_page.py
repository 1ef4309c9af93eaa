"""The whole report: files, page, hostile names, and a browser that opens it."""

import base64
import csv
import itertools
import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_jax.report import html
from mae_jax.report.findings import find
from mae_jax.report.page import render, write_report
from mae_jax.runtime.errors import UserError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def report(make, tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    dirs = make.study(root / "runs", rows=1728, data="raabin_wbc", data_name="Raabin-WBC")
    started = time.perf_counter()
    result = write_report(dirs, root / "report", notes=["a note of the study"])
    print(f"report of 8 x 1,728 rows: {time.perf_counter() - started:.1f} s")
    return result


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.text, self.headings = [], "", []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] in ("h1", "h2") and data.strip():
            self.headings.append(data)
        self.text += data

    def all_of(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_files(report):
    out = report.paths["page"].parent
    assert len(read(out / "table.csv")) == 8
    assert {row["metric"] for row in read(out / "paired.csv")} >= {"accuracy", "precision", "f1"}
    boxes = read(out / "confidence.csv")
    assert sum(int(row["n"]) for row in boxes) == 8 * 1728
    assert {row["whisker_rule"] for row in boxes} == {"1.5 IQR"}
    names = {path.stem for path in (out / "figures").iterdir()}
    assert {"curves", "sensitivity", "confidence_10", "reliability", "training"} <= names
    for name in names:
        for end in (".svg", ".csv"):
            assert (out / "figures" / (name + end)).stat().st_size > 50
        assert not (out / "figures" / f"{name}.png").exists()  # only where they are asked for
    text = (out / "table.md").read_text()
    assert (
        "from the original study, not from these runs" in text and "collapsed" in text and "a note of the study" in text
    )


def test_page_is_one_file_with_answer_first(report):
    page = Page(report.paths["page"])
    for attrs in page.all_of("img"):
        assert attrs["src"].startswith("data:image/") and attrs["alt"]
    assert not page.all_of("script") and not page.all_of("link")[1:]
    anchors = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    links = {attrs["href"] for attrs in page.all_of("a")}
    assert {link[1:] for link in links if link.startswith("#")} == anchors
    files = [link for link in links if not link.startswith("#")]
    assert len(files) > 15 and all((report.paths["page"].parent / file).is_file() for file in files)
    assert [text.split()[0] for text in page.headings] == [
        *("How", "How", "Table", "Cell", "Differences", "Confidence,", "Calibration:", "Training", "The", "What", "How")
    ]
    assert (
        0
        < page.text.index("labeled images")
        < page.text.index("This pre-trained model is better")
        < page.text.index("on 1,728 test images")
    )
    assert page.text.index("A note of the study") < page.text.index("on 1,728 test images")
    assert "from the original study, not from these runs" in page.text and "Raabin-WBC" in page.text


def test_same_files_same_report(make, tmp_path):
    dirs = make.study(tmp_path / "runs", rows=60)[2:3]
    for name in ("a", "b"):
        write_report(dirs, tmp_path / name)
    for file in sorted(p for p in (tmp_path / "a").rglob("*") if p.is_file()):
        twin = tmp_path / "b" / file.relative_to(tmp_path / "a")
        assert file.read_bytes() == twin.read_bytes(), file.name


def test_the_page_shows_no_absolute_path(make, tmp_path):
    place = str(tmp_path / "lab")
    config = {"data": {"dir": place, "external": f"near={place}/near"}, "init_from": f"{place}/pretrain"}
    runs = [make.run(tmp_path / init, init, 0.1, rows=60, config=config) for init in ("scratch", "mae")]
    result = write_report(runs, tmp_path / "out")
    for name in ("page", "table_md"):
        assert str(tmp_path) not in result.paths[name].read_text()
    assert ".../scratch" in result.paths["page"].read_text() and "near=.../near" in result.paths["page"].read_text()


def test_least_columns_leave_parts_out_and_say_so(make, tmp_path):
    dirs = make.study(tmp_path / "runs", rows=60, columns=list(make.required))[6:]
    for run in dirs:
        (run / "metrics.jsonl").unlink()
        (run / "predictions_val.csv").unlink()
        info = json.loads((run / "run.json").read_text())
        kept = {key: info[key] for key in ("init", "fraction", "seed", "classes")}
        (run / "run.json").write_text(json.dumps(kept))
    result = write_report(dirs, tmp_path / "out")
    page = Page(result.paths["page"]).text
    for word in ("Brier score and temperature", "training curves", "not groups (2 runs)"):
        assert any(word in note for note in result.notes) and word in page
    assert result.rows[0]["nll"] is None and result.rows[0]["ece"] is not None
    assert result.rows[0]["interval"] == "over 60 test images alone (one seed)"
    assert "the original study, not" not in page


@pytest.mark.parametrize("init", ["scratch", "mae"])
def test_one_run_alone(make, tmp_path, init):
    result = write_report([make.run(tmp_path / "run", init, 0.1, rows=40)], tmp_path / "out")
    assert "Nothing is compared" in Page(result.paths["page"]).text and result.paired == []


def test_tables_without_rows_keep_their_header(make, tmp_path):
    alone = make.run(tmp_path / "run", "scratch", 0.1, rows=40)
    for name in ("predictions.csv", "external/TestB/predictions.csv"):
        table = read(alone / "predictions.csv")
        (alone / name).parent.mkdir(parents=True, exist_ok=True)
        with (alone / name).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["image", "label", "prediction", "confidence"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row | {"prediction": row["label"]} for row in table)
    write_report([alone], tmp_path / "empty")
    study = make.study(tmp_path / "study", rows=60)
    for run in study:
        make.external(run, "TestB", make.classes)
    write_report(study, tmp_path / "full")
    for name in ("paired", "efficiency", "mistakes", "external/TestB/paired"):
        empty, full = ((tmp_path / out / f"{name}.csv").read_text().splitlines() for out in ("empty", "full"))
        assert len(empty) == 1 < len(full) and empty[0] == full[0], name
    first = "fraction,metric,difference,low,high,p,holm_p,mcnemar_p,"
    assert (tmp_path / "empty" / "paired.csv").read_text().startswith(first)


def test_a_row_of_which_one_seed_collapsed_is_not_called_collapsed(make, tmp_path):
    runs = [
        make.run(tmp_path / f"{fraction}-{seed}", "scratch", fraction, seed=seed, rows=60, knows=knows)
        for fraction, collapsed in ((0.1, 1), (1.0, 3))
        for seed in range(3)
        for knows in [0.0 if seed < collapsed else 0.6]
    ]
    lines = write_report(runs, tmp_path / "out").paths["table_md"].read_text().splitlines()
    ends = [line.rstrip("| ").partition("collapsed") for line in lines if line.startswith("|") and "collapsed" in line]
    assert [end[1] + end[2] for end in ends] == ["collapsed: 1 of 3", "collapsed"]


def test_more_initializations(make, tmp_path):
    dirs = make.study(tmp_path / "runs", rows=60)[2:4]
    for init in ("imported", "random probe"):
        dirs.append(make.run(tmp_path / "runs" / init, init, 0.1, rows=60, knows=0.8))
    result = write_report(dirs, tmp_path / "out")
    page = Page(result.paths["page"]).text
    assert "odel from imported" in page and "random probe" in page
    assert {row["init"] for row in result.paired} == {"mae", "imported", "random probe"}


def test_an_arm_has_panels_and_files_of_its_own(make, tmp_path):
    arm = "as many updates as 100 %"
    dirs = make.study(tmp_path / "runs", rows=60)[2:6]
    for init, fraction in itertools.product(("scratch", "mae"), (0.1, 0.5)):
        dirs.append(make.run(tmp_path / f"{init} {fraction}", init, fraction, rows=60, arm=arm, knows=0.8))
    result = write_report(dirs, tmp_path / "out")
    figures = tmp_path / "out" / "figures"
    assert (figures / "confidence_10.svg").exists() and (
        figures / "confidence_10_as_many_updates_as_100__.svg"
    ).exists()
    for name in ("training", "reliability", "risk_coverage", "curves"):
        assert {row["arm"] for row in read(figures / f"{name}.csv")} == {""}
        assert {row["arm"] for row in read(figures / f"{name}_as_many_updates_as_100__.csv")} == {arm}
    page = result.paths["page"].read_text()
    assert page.count(f'<details class="figures"><summary>The same for: {arm}</summary>') == 3
    summaries = [f"{of}{share} % of the labels" for of in ("", f"The same for: {arm}, ") for share in (10, 50)]
    assert [page.count(f"<summary>{summary}</summary>") for summary in summaries] == [1, 1, 1, 1]
    assert page.count("<th colspan") == page.count(f'">{arm}</th></tr>') == 6  # once above its rows in each table


def test_an_arm_of_few_fractions_is_shown_next_to_the_usual_one(make, tmp_path):
    dirs = make.study(tmp_path / "runs", rows=60)[:4]
    dirs += [make.run(tmp_path / init, init, 0.1, rows=60, arm="longer", knows=0.8) for init in ("scratch", "mae")]
    write_report(dirs, tmp_path / "out")
    names = {path.stem for path in (tmp_path / "out" / "figures").iterdir() if path.stem.startswith("curves")}
    assert names == {"curves"}
    assert {row["arm"] for row in read(tmp_path / "out" / "figures" / "curves.csv")} == {"", "longer"}


@pytest.mark.slow
def test_external_test_sets_are_shown_next_to_the_main_one(make, tmp_path):
    dirs = make.study(tmp_path / "runs", rows=60)[2:6]
    for i, run in enumerate(dirs):
        make.external(run, "TestB", ["Lymphocyte", "Neutrophil"], seed=i)
    make.external(dirs[0], "hospital <b>", make.classes)
    outcome = write_report(dirs, tmp_path / "out")
    table = read(tmp_path / "out" / "external" / "TestB" / "table.csv")
    assert [(row["fraction"], row["init"]) for row in table] == [
        *(("0.1", "scratch"), ("0.1", "mae"), ("0.5", "scratch"), ("0.5", "mae"))
    ]
    predicted = read(dirs[1] / "external" / "TestB" / "predictions.csv")
    right = [row["label"] == row["prediction"] for row in predicted]
    assert float(table[1]["accuracy"]) == pytest.approx(np.mean(right)) and table[1]["n_test"] == "90"
    recalls = [
        np.mean([row["prediction"] == c for row in predicted if row["label"] == c])
        for c in ("Lymphocyte", "Neutrophil")
    ]
    assert float(table[1]["recall"]) == pytest.approx(np.mean(recalls))  # over the classes that are there
    assert {row["metric"] for row in read(tmp_path / "out" / "external" / "TestB" / "paired.csv")} >= {"accuracy", "f1"}
    page = Page(outcome.paths["page"])
    assert "90 images; of the 5 classes it holds Lymphocyte, Neutrophil" in page.text
    assert "hospital <b>: 3 of 4 runs were not tested on it" in page.text
    assert read(tmp_path / "out" / "table.csv")[0]["n_test"] == "60"
    assert "linear probe on random weights" not in page.text

    probe = make.run(tmp_path / "probe", "scratch", 0.1, rows=60, knows=0.5, evaluation="lbfgs")
    make.external(probe, "TestB", ["Lymphocyte", "Neutrophil"], seed=1)  # as the predictions of dirs[1]
    outcome = write_report([*dirs, probe], tmp_path / "with")
    beside = read(tmp_path / "with" / "external" / "TestB" / "table.csv")
    assert float(beside[0]["random_probe_accuracy"]) == pytest.approx(np.mean(right))
    text = " ".join(Page(outcome.paths["page"]).text.split())
    (actual,) = re.findall(
        r"Lymphocyte, Neutrophil\. What a model must beat, in accuracy: (.*? of the labels)\. ", text
    )
    assert actual.startswith("Always predicting the most common class scores ") and actual.endswith(
        f" %. A linear probe on random weights scores {100 * np.mean(right):.1f} % with 10 % of the labels"
    )
    make.external(dirs[1], "hospital <b>", make.classes, rows=10)
    with pytest.raises(UserError, match=r"external/hospital <b>/predictions.csv: 10 test images, not the same 90"):
        write_report(dirs, tmp_path / "out")

    for run in dirs:
        make.external(run, "hospital _b_", make.classes)
        shutil.rmtree(run / "external" / "hospital <b>", ignore_errors=True)
        make.external(run, "hospital <b>", make.classes)
    write_report(dirs, tmp_path / "alike")
    result = {path.name for path in (tmp_path / "alike" / "external").iterdir()}
    assert result == {"TestB", "hospital__b_", "hospital__b__"}


def test_classes_missing_from_an_external_test_set_and_its_few_groups_are_reported(make, tmp_path):
    dirs = make.study(tmp_path / "runs", rows=60)[:2]
    for run in dirs:
        make.external(run, "TestB", make.classes)
        make.external(run, "bare", make.classes)
        table = read(run / "external" / "TestB" / "predictions.csv")
        with (run / "external" / "TestB" / "predictions.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, table[0])
            writer.writeheader()
            writer.writerows(row | {"group": f"slide {i % 3}"} for i, row in enumerate(table))
        with (run / "external" / "bare" / "predictions.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, make.required, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(table)
    result = write_report(dirs, tmp_path / "out")
    lacks = [line for line in result.notes if line.startswith("bare: ")]
    assert len(lacks) == 2 and all("predictions.csv has no column" in line and "(2 runs)" in line for line in lacks)
    assert not any(line.startswith("TestB: ") for line in result.notes)
    assert Page(result.paths["page"]).text.count("come from only 3 groups") == 1


def test_arms_of_nearly_one_name_have_files_of_their_own(make, tmp_path):
    dirs = []
    for i, arm in enumerate(("lr 1e-3", "lr_1e-3", "")):
        dirs += [make.run(tmp_path / f"{i}{f}", "scratch", f, rows=60, arm=arm) for f in (0.1, 0.5)]
    result = write_report(dirs, tmp_path / "out")
    assert len(list((tmp_path / "out" / "figures").glob("training*.svg"))) == 3
    assert len({path for name, path in result.paths.items() if name.startswith("training")}) == 3


@pytest.mark.slow
def test_what_was_run_has_its_own_heading(make, tmp_path):
    dirs = make.study(tmp_path / "runs", rows=60, seeds=2)
    dirs[:0] = [make.run(tmp_path / f"knn{f}", "mae", f, rows=60, knows=0.5, evaluation="knn") for f in (0.1, 0.5)]
    text = Page(write_report(dirs, tmp_path / "out").paths["page"]).text
    classifiers = text[text.index("What was run", text.index("Test images per cell type") - 200) :]
    assert classifiers.count("nearest neighbors") == 1  # a heading; these runs have no configuration to show
    assert classifiers.index("nearest neighbors") > classifiers.index("scratch_1.0_1")


@pytest.mark.slow
def test_one_pre_training_for_all_seeds_is_reported(make, tmp_path):
    lines = "One pre-training serves all seeds"
    dirs = make.study(tmp_path / "one", rows=60, seeds=2, init_from="runs/pretrain")
    text = Page(write_report(dirs, tmp_path / "a").paths["page"]).text
    assert lines in text and "not for another pre-training, which --config.pretrain_seeds adds." in text
    dirs = make.study(tmp_path / "single", rows=60, init_from="runs/pretrain")
    assert lines not in Page(write_report(dirs, tmp_path / "b").paths["page"]).text
    dirs = [make.run(tmp_path / f"{s}", "mae", 0.1, rows=60, seed=s, init_from=f"runs/pretrain-{s}") for s in (0, 1)]
    assert lines not in Page(write_report(dirs, tmp_path / "c").paths["page"]).text


def test_a_pre_training_run_is_not_a_classifier(make, tmp_path):
    dirs = make.study(tmp_path, rows=60)
    info = json.loads((dirs[0] / "run.json").read_text()) | {"task": "pretrain", "classes": []}
    (dirs[0] / "run.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="this is a pre-training; .*leave it out"):
        write_report(dirs, tmp_path / "out")


HOSTILE = ["<script>alert(1)</script>", "=cmd|' /C calc'!A0", "a\x1b[2Jb", "$x^2$", "日本 | &amp;"]


def test_what_a_test_set_shares_with_training_is_reported(make, tmp_path):
    actual = {"groups": 2, "images_in_shared_groups": 7, "identical": 1, "near_identical": None, "examples": {}}
    nothing = {"groups": 0, "images_in_shared_groups": 0, "identical": 0, "near_identical": 0, "examples": {}}
    leaks = {"TestA": actual, "TestB": nothing}
    before = {"mae": {"TestA": nothing | {"near_identical": 2, "shifted_searched": False}}, "scratch": {}}
    runs = [
        make.run(tmp_path / init, init, 0.1, rows=40, leaks=leaks, seen_before=before[init])
        for init in ("scratch", "mae")
    ]
    result = write_report(runs, tmp_path / "report")
    page = Page(result.paths["page"]).text
    text = (
        "Test images of TestA that may be known from training: 7 from groups (slides, regions, fields) that training "
        "has as well, 1"
    )
    assert page.count(text) == 1 and "Test images of TestB" not in page
    again = "Test images of TestA that may be known from pre-training: 2 that look like copies of its images."
    assert page.count(again) == 1
    assert text in result.paths["table_md"].read_text()
    assert page.count("Shifted and cropped copies of pre-training images were not searched for among the test") == 1
    assert "copies of training images were not searched" not in page


def test_hostile_names_are_harmless(make, tmp_path):
    dirs = [
        make.run(tmp_path / init, init, 0.1, rows=200, classes=HOSTILE, knows=0.5)
        for init in ("scratch", '=mae"><img src=x onerror=alert(1)>')
    ]
    result = write_report(dirs, tmp_path / "out", title="<b>title</b>")
    page = Page(result.paths["page"])
    assert not page.all_of("script")
    assert "<script>alert(1)</script>" in page.text and "<b>title</b>" in page.text
    assert all(attrs["src"].startswith("data:") for attrs in page.all_of("img"))
    for file in (tmp_path / "out").rglob("*"):
        if file.suffix in (".csv", ".md", ".html"):
            assert "\x1b" not in file.read_text()
        if file.suffix == ".csv":
            with file.open(newline="") as stream:
                cells = [cell for row in csv.reader(stream) for cell in row]
            assert not [cell for cell in cells if re.match(r"[=+@]|-[^\d]", cell)], file
        if file.suffix == ".svg":
            assert "<script" not in file.read_text().lower()


def test_gallery_shows_the_pictures_it_finds(make, tmp_path):
    run = make.run(tmp_path / "run", "scratch", 1.0, rows=80, image_root=str(tmp_path))
    for row in read(run / "predictions.csv"):
        file = tmp_path / row["image"]
        file.parent.mkdir(parents=True, exist_ok=True)
        if row["label"] != "Monocyte":
            Image.fromarray(np.full((300, 200, 3), 128, np.uint8)).save(file)
        else:
            file.write_text("no picture")
    result = write_report([run], tmp_path / "out")
    pictures = [a for a in Page(result.paths["page"]).all_of("img") if "image/jpeg" in a["src"]]
    examples = [a for a in pictures if a["alt"].startswith("An example of ")]
    classes = [a["alt"].removeprefix("An example of ").split(":")[0] for a in examples]
    assert sorted(classes) == sorted({row["label"] for row in read(run / "predictions.csv")} - {"Monocyte"})
    pictures = [a for a in pictures if a not in examples]
    mistakes = read(tmp_path / "out" / "mistakes.csv")
    assert len(pictures) == sum(row["label"] != "Monocyte" for row in mistakes) > 0
    first = base64.b64decode(pictures[0]["src"].split(",")[1])
    (tmp_path / "first.jpg").write_bytes(first)
    with Image.open(tmp_path / "first.jpg") as picture:
        assert picture.size == (128, 192)
    plain = render(find([run], pictures=False), [], [])
    assert "image/jpeg" not in plain and "labeled " in plain


def test_gallery_takes_the_pictures_that_a_run_kept(make, tmp_path):
    run = make.run(tmp_path / "run", "scratch", 1.0, rows=80, knows=0.3)
    write_report([run], tmp_path / "out")
    first = read(tmp_path / "out" / "mistakes.csv")[0]["image"]
    file = run / "thumbnails" / f"{first}.jpg"
    file.parent.mkdir(parents=True)
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(file)
    result = write_report([run], tmp_path / "out")
    shown = [a for a in Page(result.paths["page"]).all_of("img") if "image/jpeg" in a["src"]]
    assert [a["alt"] for a in shown] == [first]


@pytest.fixture
def browse(tmp_path):
    def browse(page, *flags):
        command = [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", *flags),
            page.as_uri(),
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    return browse


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium here: apt-get install chromium")
def test_paper_has_the_figures_of_every_arm_and_no_configurations(make, tmp_path, browse):
    dirs = [
        make.run(tmp_path / f"{init}{arm}", init, 0.1, rows=60, arm=arm, config={f"key{i}": i for i in range(500)})
        for init in ("scratch", "mae")
        for arm in ("", "longer")
    ]
    page = write_report(dirs, tmp_path / "out").paths["page"]
    opened = tmp_path / "opened.html"
    opened.write_text(re.sub(r"<details[^>]*>(?=<summary>The same)", "<details open>", page.read_text()))
    pages = []
    for file in (page, opened):
        browse(file, f"--print-to-pdf={tmp_path / 'page.pdf'}")
        pages.append(len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())))
    assert pages[0] == pages[1] < 20


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and shutil.which("pdftotext")), reason="no chromium or pdftotext here")
def test_no_heading_or_table_begins_at_the_foot_of_a_paper_page(tmp_path, browse):
    """Sections of all heights, each a folded part with a table of 10 rows."""
    table = "<table><thead><tr><th>head</th></tr></thead><tbody>" + "<tr><td>row</td></tr>" * 10 + "</tbody></table>"
    part = '<details class="figures part"><summary><h2>section</h2></summary><p>text</p><div class="table">'
    part += f'<p class="caption">caption</p><div class="scroll">{table}</div></div></details>'
    drawing = base64.b64encode(b'<svg xmlns="http://www.w3.org/2000/svg" width="600" height="560"/>').decode()
    image = f'<img src="data:image/svg+xml;base64,{drawing}" width="600" height="560" alt="">'
    picture = f"<figure>{image}<figcaption>picture</figcaption></figure>"
    part += '<details class="figures part"><summary><h2>section</h2></summary><span></span>'
    part += f'<div class="row">{picture}</div></details>'
    fill = [f'<div style="height: {3 * i + 1}mm">fill</div>' for i in range(40)]
    body = "{% extends 'base.html.j2' %}{% block body %}" + "".join(f + part for f in fill) + "{% endblock %}"
    file, paper = tmp_path / "page.html", tmp_path / "page.pdf"
    file.write_text(html.environment().from_string(body).render(title="t"))
    browse(file, f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    text = subprocess.run(["pdftotext", "-layout", paper, "-"], capture_output=True, text=True, check=True).stdout
    pages = [page.split() for page in text.split("\f") if page.split()]
    assert len(pages) > 10 and {page[-1] for page in pages} <= {"row", "fill", "picture"}
    assert not any(page[0] == "row" for page in pages)


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium here: apt-get install chromium")
def test_the_page_is_at_most_8000_pixels_tall_on_a_desktop(make, tmp_path, browse):
    """Four fractions, two initializations and two evaluations of frozen encoders, as in configs/demo.py."""
    dirs = make.study(tmp_path / "usual", rows=500)
    for kind in ("lbfgs", "knn"):
        dirs += make.study(tmp_path / kind, rows=500, evaluation=kind)
    page = write_report(dirs, tmp_path / "out").paths["page"]
    measured = tmp_path / "measured.html"
    script = "<script>document.title = 'height ' + document.documentElement.scrollHeight</script></body>"
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text())
    measured.write_text(text.replace("</body>", script))
    done = browse(measured, "--dump-dom", "--window-size=1280,900")
    height = int(re.search(r"<title>height (\d+)", done.stdout).group(1))
    assert 2000 < height <= 8000


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium here: apt-get install chromium")
def test_a_browser_opens_it(report, tmp_path, browse):
    # A copy that may run a script reports, at the width of a phone, which images the browser could not show and
    # whether anything but the tables, which scroll by themselves, is wider than the phone.
    probe, phone = tmp_path / "probe.html", tmp_path / "phone.html"
    text = report.paths["page"].read_text()
    text = re.sub(r"<meta http-equiv[^>]*>", "", text)
    script = (
        "<script>addEventListener('load', () => parent.postMessage([document.images.length,"
        " [...document.images].filter(i => i.complete && i.naturalWidth > 0).length,"
        " document.documentElement.scrollWidth].join('/'), '*'))</script>"
    )
    probe.write_text(text.replace("</body>", script + "</body>"))
    phone.write_text(
        "<body><script>addEventListener('message', e => document.body.setAttribute('data-seen', e.data))</script>"
        f"<iframe src='{probe.name}' style='width: 390px; height: 800px; border: 0'></iframe></body>"
    )
    done = browse(phone, "--dump-dom", "--virtual-time-budget=5000")
    total, shown, wide = map(int, re.search(r'data-seen="(\d+)/(\d+)/(\d+)"', done.stdout).groups())
    assert total == shown and total >= 10
    assert wide <= 390

    paper = tmp_path / "page.pdf"
    browse(report.paths["page"], f"--print-to-pdf={paper}")
    assert paper.read_bytes().startswith(b"%PDF") and paper.stat().st_size > 100_000

    picture = tmp_path / "page.png"
    done = browse(report.paths["page"], "--window-size=1100,3000", f"--screenshot={picture}")
    assert "CONSOLE" not in done.stderr, done.stderr
    print(f"screenshot: {picture}")
    with Image.open(picture) as opened:
        gray = np.asarray(opened.convert("L"))
    assert gray.shape == (3000, 1100) and (gray < 128).mean() > 0.01
