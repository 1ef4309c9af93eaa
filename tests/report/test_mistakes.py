"""Pictures of mistakes and of examples: which are shown, and from where."""

import base64
import io
import json

import numpy as np
from PIL import Image

from mae_jax.report import mistakes
from mae_jax.report.findings import find
from mae_jax.report.runs import read_runs


def test_the_gallery_is_of_the_models_with_the_most_labels_in_the_usual_arm(make, tmp_path):
    dirs = [make.run(tmp_path / f"{f}{s}", "mae", f, seed=s, rows=60, knows=0.3) for f in (0.1, 0.5) for s in (0, 1)]
    dirs.append(make.run(tmp_path / "arm", "mae", 1.0, rows=60, knows=0.3, arm="longer"))
    (shown,) = mistakes.gallery(read_runs(dirs)[0])
    assert shown["name"] == "mae, 50 %, seed 0" and {row["fraction"] for row in shown["images"]} == {0.5}


def test_examples_are_the_pictures_that_a_run_kept_for_that(make, tmp_path):
    run = make.run(tmp_path / "run", "scratch", 1.0, rows=80, knows=0.3)
    before = find([run])
    types, (read,), first = before.cell_types.shown, before.study.runs, {}
    for image, label in zip(read.test.images, read.test.labels, strict=True):
        first[read.classes[label]] = min(image, first.get(read.classes[label], image))
    for folder, image in (("examples", first[types[0]]), ("thumbnails", first[types[1]])):
        file = run / folder / f"{image}.jpg"
        file.parent.mkdir(parents=True)
        Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(file)
    assert [(e["class"], e["image"]) for e in find([run]).examples] == [(types[0], first[types[0]])]


def write(run, rows):
    run.mkdir()
    info = {"init": "scratch", "fraction": 1.0, "seed": 3, "classes": ["a", "b"]}
    (run / "run.json").write_text(json.dumps(info))
    lines = ["image,label,prediction,confidence", *(",".join(row) for row in rows)]
    (run / "predictions.csv").write_text("\n".join(lines) + "\n")
    return run


def color(uri):
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    return picture.size, picture.getpixel((0, 0))


def test_rows_are_the_wrong_answers_the_most_confident_first(tmp_path):
    run = write(tmp_path / "r", [("1", "a", "b", "0.6"), ("2", "a", "a", "0.99"), ("3", "b", "a", "0.9")])
    rows = mistakes.mistakes(read_runs([run])[0])
    assert {tuple(row) for row in rows} == {mistakes.COLUMNS}
    assert [(row["image"], row["label"], row["prediction"], row["confidence"]) for row in rows] == [
        ("3", "b", "a", 0.9),
        ("1", "a", "b", 0.6),
    ]
    assert {(row["init"], row["seed"], row["fraction"]) for row in rows} == {("scratch", 3, 1.0)}


def test_a_picture_is_small_and_comes_from_the_run_before_the_original(tmp_path):
    run = write(tmp_path / "r", [("1.png", "a", "b", "0.6"), ("2.png", "b", "b", "0.6")])
    Image.new("RGB", (400, 100), (250, 0, 0)).save(run / "1.png")
    ((shown,),) = [each["images"] for each in mistakes.gallery(read_runs([run])[0])]
    size, pixel = color(shown["uri"])
    assert size == (192, 48) and pixel[0] > 240 and pixel[2] < 20
    (run / "thumbnails").mkdir()
    Image.new("RGB", (40, 10), (0, 0, 250)).save(run / "thumbnails" / "1.png.jpg")
    ((shown,),) = [each["images"] for each in mistakes.gallery(read_runs([run])[0])]
    size, pixel = color(shown["uri"])
    assert size == (40, 10) and pixel[2] > 230 and pixel[0] < 20
    ((hidden,),) = [each["images"] for each in mistakes.gallery(read_runs([run])[0], pictures=False)]
    assert hidden["uri"] is None and hidden["image"] == "1.png"


def test_an_example_is_the_first_readable_image_of_its_class_by_name(tmp_path):
    rows = [(f"{i}.png", "ab"[i == 9], "a", "0.6") for i in (3, 2, 1, 9)]
    run = write(tmp_path / "r", rows)
    (run / "1.png").write_text("not an image")
    for name in ("2.png", "3.png"):
        Image.new("RGB", (300, 300)).save(run / name)
    (one,) = read_runs([run])[0]
    (result,) = mistakes.examples(one, ["b", "a"])  # no picture of class b
    assert (result["class"], result["image"]) == ("a", "2.png") and color(result["uri"])[0] == (128, 128)
