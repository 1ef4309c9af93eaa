"""Reading predictions.csv: line numbers, escaped formulas, and messages."""

import numpy as np
import pytest

from mae_jax.rundir.predictions import most_confident_mistakes, read_predictions, read_rows
from mae_jax.runtime.errors import UserError

HEADER = "image,label,prediction,confidence"


def write(path, *lines):
    path.write_bytes("".join(line + "\n" for line in (HEADER, *lines)).encode())
    return path


def test_rows_are_sorted_by_image(tmp_path):
    file = write(tmp_path / "p.csv", "b,y,x,0.25", "a,x,x,1")
    predictions, notes = read_predictions(file, ["x", "y"])
    assert (
        predictions.images == ("a", "b")
        and predictions.labels.tolist() == [0, 1]
        and predictions.predictions.tolist() == [0, 0]
    )
    assert predictions.confidence.tolist() == [1.0, 0.25] and predictions.probabilities is None and len(notes) == 2


@pytest.mark.parametrize("before, line", [([], 3), ([""], 4), (["", "", ""], 6), (['"two\nlines",x,x,0.5'], 5)])
def test_a_message_names_the_line_of_the_file(tmp_path, before, line):
    """Empty lines, and cells of several lines, shift the rows."""
    file = write(tmp_path / "p.csv", *before, "a,x,x,0.5", "b,x,z,0.5")
    with pytest.raises(UserError, match=rf"p\.csv line {line}: prediction 'z' is not a class"):
        read_predictions(file, ["x", "y"])


@pytest.mark.parametrize(
    "row, message",
    [
        ("b,x,x,nan", "line 3: 'confidence' is 'nan'"),
        ("b,x,x,1.1", "line 3: 'confidence' is '1.1'"),
        ("b,x,x,", "line 3: 'confidence' is ''"),
        ("a,x,x,0.5", "line 3: image 'a' appears twice"),
        ("b,x,x", "line 3: 3 cells; the header has 4: fix or remove the row"),
        ("b,'x,x,0.5", 'line 3: label "\'x" is not a class'),
    ],
)
def test_a_broken_row_is_named(tmp_path, row, message):
    with pytest.raises(UserError) as caught:
        read_predictions(write(tmp_path / "p.csv", "a,x,x,0.5", row), ["x"])
    assert message in str(caught.value)


def test_marks_against_formulas_are_removed(tmp_path):
    file = write(tmp_path / "p.csv", "'=a,'-x,'-x,0.5", "it's,'-x,'-x,0.5")
    assert read_predictions(file, ["-x"])[0].images == ("=a", "it's")


def test_probabilities_are_checked_row_by_row(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text(f"{HEADER},p_x,p_y\na,x,x,0.5,0.5,0.5\nb,x,x,0.5,0.5,0.4\n")
    with pytest.raises(UserError, match=r"line 3: the p_ columns sum to 0\.9;"):
        read_predictions(file, ["x", "y"])


def test_every_column_is_sorted_with_the_images(tmp_path):
    file = tmp_path / "p.csv"
    lines = ["c,x,x,0.9,0.9,0.1,p3", "a,x,y,0.8,0.2,0.8,p1", "b,y,y,0.7,0.3,0.7,"]
    file.write_text("\n".join([f"{HEADER},p_x,p_y,group", *lines]) + "\n")
    predictions, _ = read_predictions(file, ["x", "y"])
    assert predictions.images == ("a", "b", "c") and predictions.confidence.tolist() == [0.8, 0.7, 0.9]
    assert (predictions.labels.tolist(), predictions.predictions.tolist()) == ([0, 1, 0], [1, 1, 0])
    assert predictions.probabilities.tolist() == [[0.2, 0.8], [0.3, 0.7], [0.9, 0.1]]
    assert predictions.groups == ("p1", "image b", "p3")


def test_the_most_confident_mistakes_come_first_and_equal_ones_by_name():
    wrong, confidence = np.array([True, False, True, True, True]), np.array([0.5, 0.99, 0.7, 0.9, 0.7])
    assert most_confident_mistakes(wrong, confidence, ["e", "d", "c", "b", "a"]) == [3, 4, 2, 0]
    many = most_confident_mistakes(np.ones(30, bool), np.linspace(0, 1, 30), [f"{i}" for i in range(30)])
    assert many == list(range(29, 17, -1))


def test_rows_have_their_line_numbers(tmp_path):
    header, numbers, rows = read_rows(write(tmp_path / "p.csv", "a,x,x,0.5", "", "b,x,x,0.5"))
    assert header == HEADER.split(",") and list(numbers) == [2, 4] and [row[0] for row in rows] == ["a", "b"]
