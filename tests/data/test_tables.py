"""Tables of labels: columns by usual and by given names, groups and splits, and what is refused."""

import math
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from mae_jax.data import tables
from mae_jax.runtime.errors import UserError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_usual_columns_in_any_case_and_order(tmp_path):
    table = tables.read(write(tmp_path / "l.csv", "Label,Patient_ID,Path,age\nb,p1,x/1.png,4\na,,.\\y\\2.png,5\n"))
    assert table.names == ("x/1.png", "y/2.png") and table.labels == ("b", "a") and table.classes == ("a", "b")
    assert table.groups == ("p1", "") and table.splits is None and table.directory == tmp_path
    assert table.columns == {"path": "Path", "label": "Label", "group": "Patient_ID"} and table.unused == ("age",)
    assert "2 rows, path from column Path" in table.in_words() and table.in_words().endswith("not used: age")


def test_given_columns_a_directory_and_a_semicolon(tmp_path):
    file = write(tmp_path / "l.csv", "\ufeffpath;file;cell type;fold\nq;a.png;10;train\nr;b.png;9;test\n\n")
    table = tables.read(file, "/images", "path=file,label=cell type,split=fold")
    assert table.names == ("a.png", "b.png") and table.splits == ("train", "test") and table.groups is None
    assert table.classes == ("9", "10") and table.directory == Path("/images")


def test_parquet_gives_what_csv_gives(tmp_path):
    columns = {"path": ["1.png", "2.png"], "label": [0, 1], "group": ["p", None]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "l.parquet")
    file = write(tmp_path / "l.csv", "path,label,group\n1.png,0,p\n2.png,1,\n")
    assert tables.read(tmp_path / "l.parquet") == tables.read(file)


def test_a_row_that_is_there_twice_counts_once(tmp_path):
    assert tables.read(write(tmp_path / "l.csv", "path,label\n1.png,a\n./1.png,a\n")).names == ("1.png",)


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("path,label\n1.png,a\n1.png,b\n", "", "1.png is in row 1 with label 'a' and in row 2 with 'b'"),
        ("path,label\n1.png,a\n2.png,\n", "", "row 2: column 'label' is empty"),
        ("path,label\n1.png,a,b\n", "", "row 1: 3 values for 2 columns"),
        ("path,kind\n1.png,a\n", "", "has the columns path, kind; name the label column with data.columns='label=COL"),
        ("file,kind\n1.png,a\n", "", "columns file, kind; name the label column with data.columns='label=COLUMN'"),
        ("plik,typ\n1.png,a\n", "", "name the path and label columns with data.columns='path=COLUMN,label=COLUMN'"),
        ("path,label\n1.png,a\n", "label=kind", "'kind' is not a column"),
        ("path,label\n1.png,a\n", "klass=label", "'klass=label' is not ROLE=COLUMN"),
        ("path,label\n", "", "has no rows"),
        ("", "", "is empty"),
        ('path,label\n"1.png,a\n', "", "is not valid CSV"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path, text, columns, message):
    with pytest.raises(UserError, match="^data[.](labels|columns)") as error:
        tables.read(write(tmp_path / "l.csv", text), columns=columns)
    assert message in str(error.value)


def test_files_that_are_not_tables_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        tables.read(tmp_path / "none.csv")
    (tmp_path / "l.parquet").write_bytes(b"junk")
    with pytest.raises(UserError, match="is not a Parquet file"):
        tables.read(tmp_path / "l.parquet")
    (tmp_path / "l.csv").write_bytes(b"path,label\n\xff,a\n")
    with pytest.raises(UserError, match=r"is not UTF-8 \(byte 11\)"):
        tables.read(tmp_path / "l.csv")


@pytest.mark.parametrize("path", ["filename", "File Name", "IMAGE_PATH", "image-path", "img_path"])
@pytest.mark.parametrize("label", ["celltype", "Cell Type", "cell_type", "class_name", "Class"])
@pytest.mark.parametrize("group", ["slide_id", "SlideID", "Case ID", "patient id"])
def test_usual_columns_are_known_with_spaces_underscores_and_in_any_case(tmp_path, path, label, group):
    table = tables.read(write(tmp_path / "l.csv", f"{label},{group},{path}\na,g,1.png\n"))
    assert (table.names, table.labels, table.groups) == (("1.png",), ("a",), ("g",))
    assert tables.read_paths(tmp_path / "l.csv") == (tmp_path, ["1.png"])


def test_home_directories_in_a_table_are_expanded_and_addresses_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    file = write(tmp_path / "l.csv", "path,label\n~/x/1.png,a\n/y/2.png,b\n")
    assert tables.read(file).names == ("/home/me/x/1.png", "/y/2.png")
    assert tables.read_paths(file, directory="/z") == (Path("/z"), ["/home/me/x/1.png", "/y/2.png"])
    for address, message in (
        ("s3://bucket/1.png", "s3:// addresses are neither read"),
        ("C:\\x\\1.png", "a path of Windows"),
    ):
        write(file, f"path,label\n1.png,a\n{address},b\n")
        with pytest.raises(UserError, match=f"^data.labels: .*row 2: path.*{message}"):
            tables.read(file)
        with pytest.raises(UserError, match=f"^--images: .*row 2: path.*{message}"):
            tables.read_paths(file)


def test_whole_numbers_in_parquet_are_written_as_such_and_nan_is_empty(tmp_path):
    columns = {"path": ["1.png", "2.png", "3.png"], "label": [0.0, 10.0, 2.0], "group": [7.0, math.nan, 0.5]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "l.parquet")
    table = tables.read(tmp_path / "l.parquet")
    assert table.labels == ("0", "10", "2") and table.classes == ("0", "2", "10") and table.groups == ("7", "", "0.5")
    parquet.write_table(pyarrow.table(columns | {"label": [0.0, math.nan, 2.0]}), tmp_path / "l.parquet")
    with pytest.raises(UserError, match="row 2: column 'label' is empty"):
        tables.read(tmp_path / "l.parquet")


@pytest.mark.parametrize(
    ("written", "file"),
    [("zdjecia/img_1.JPG", "Zdjecia/IMG_1.jpg"), ("kom\u00f3rki/1.png", "komo\u0301rki/1.png")],
    ids=["case", "accents"],
)
def test_a_file_with_almost_the_name_of_a_missing_one_is_named(tmp_path, monkeypatch, written, file):
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).touch()
    words = tables.missing_in_words([written], 2, tmp_path, "set data.dir")
    assert words.startswith(f"1 of 2 files does not exist, the first is {tmp_path / written}; {tmp_path / file} exists")
    monkeypatch.chdir(tmp_path)
    assert tables.other_spelling("", written) == file and tables.other_spelling(".", str(tmp_path / written))
    assert tables.other_spelling("", "other/1.png") == tables.other_spelling(tmp_path / file, "x") == ""
    assert tables.missing_in_words(["other.png"], 1, "", "set data.dir").endswith("other.png; set data.dir")
