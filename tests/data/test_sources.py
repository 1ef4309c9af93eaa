import os
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
from PIL import Image

from mae_jax.data import sources
from mae_jax.data.decode import load_image
from mae_jax.runtime.errors import UserError


def write(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (value, 20, 30)).save(path)


@pytest.fixture
def root(tmp_path) -> Path:
    """Two splits; the second lacks a class."""
    for i, name in enumerate(("cat", "ant", "bee")):
        for j in range(3):
            write(tmp_path / "Train" / name / f"{j}.png", 10 * i + j)
    write(tmp_path / "Train" / "bee" / "deep" / "down" / "x.jpg")
    for name in ("ant", "cat"):
        write(tmp_path / "TestA" / name / "0.png")
    return tmp_path


def test_classes_in_alphabetical_order(root):
    source = sources.folder(root, "Train")
    assert source.classes == ("ant", "bee", "cat") and len(source) == 10
    assert source.labels.dtype == np.int32 and source.labels.tolist() == [0] * 3 + [1] * 4 + [2] * 3
    assert source.names[0] == "Train/ant/0.png" and "Train/bee/deep/down/x.jpg" in source.names
    assert source.counts == {} and len(set(source.names)) == 10
    example = source[8]
    assert load_image(example["image"])[0, 0].tolist() == [1, 20, 30]  # cat/1.png
    assert (example["label"], example["index"], example["name"]) == (2, 8, "Train/cat/1.png")
    assert example["label"].dtype == example["index"].dtype == np.int32


def test_a_split_that_lacks_a_class_keeps_the_labels(root):
    test = sources.folder(root, "TestA", classes=("ant", "bee", "cat"))
    assert test.labels.tolist() == [0, 2] and test.classes == ("ant", "bee", "cat")
    (root / "TestA" / "bee").mkdir()
    assert sources.folder(root, "TestA", classes=("ant", "bee", "cat")).labels.tolist() == [0, 2]


def test_an_extra_class_is_refused_by_name(root):
    with pytest.raises(UserError, match=r"'cat'.*ant, bee"):
        sources.folder(root, "TestA", classes=("ant", "bee"))


def test_a_class_without_images_is_refused_in_training(root):
    (root / "Train" / "dog").mkdir()
    (root / "Train" / "dog" / ".DS_Store").write_bytes(b"x")
    with pytest.raises(UserError, match=r"dog' has no image"):
        sources.folder(root, "Train")
    (root / "Train" / "dog" / "broken.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"dog' has no image"):
        sources.folder(root, "Train", bad_images="skip")


def test_hidden_and_system_files_are_skipped_and_counted(root):
    plain = sources.folder(root, "Train")
    ant = root / "Train" / "ant"
    for name in (".DS_1.jpg", "._0.png", "Thumbs.db", "desktop.ini"):
        (ant / name).write_bytes(b"junk")
    write(ant / ".ipynb_checkpoints" / "0.png")
    write(root / "Train" / "__MACOSX" / "0.png")
    write(root / "Train" / ".ipynb_checkpoints" / "0.png")
    (root / "Train" / "README.txt").write_text("about")
    source = sources.folder(root, "Train")
    assert source.names == plain.names and source.classes == plain.classes
    assert source.fingerprint == plain.fingerprint
    assert source.counts == {"hidden": 7, "outside a class folder": 1}
    assert len(source.skipped_files["hidden"]) == sources.SHOWN
    assert "Train/README.txt" in source.skipped_files["outside a class folder"]


@pytest.mark.parametrize("unlabeled", [False, True])
def test_files_that_are_not_images_stop_or_are_skipped(root, unlabeled):
    write(root / "whole.jpg")
    undamaged = (root / "whole.jpg").read_bytes()
    (root / "whole.jpg").unlink()
    bad = root / "Train" / "bee"
    (bad / "cut.jpg").write_bytes(undamaged[: len(undamaged) - 200])  # its header is whole
    (bad / "notes.txt").write_text("text")
    (bad / "eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")

    def read(**options):
        if unlabeled:
            return sources.unlabeled_folder(root / "Train", **options)
        return sources.folder(root, "Train", **options)

    with pytest.raises(UserError, match=r"my\.field.*cut\.jpg.*and 2 more") as raised:
        read(field="my.field")
    assert "\n" not in str(raised.value)
    source = read(bad_images="skip")
    assert len(source) == 10 and source.counts == {"not an image": 2, "damaged image": 1}
    assert source.labels.tolist() == ([-1] * 10 if unlabeled else [0] * 3 + [1] * 4 + [2] * 3)
    assert {name.rsplit("/", 1)[-1] for name in source.skipped_files["not an image"]} == {"notes.txt", "eps.png"}
    assert [name.rsplit("/", 1)[-1] for name in source.skipped_files["damaged image"]] == ["cut.jpg"]
    assert len(read(check=False)) == 13


def test_unlabeled_takes_the_whole_tree(root):
    write(root / "top.png")
    os.symlink(root / "TestA", root / "Train" / "link")
    os.symlink(root / "Train", root / "Train" / "loop")
    source = sources.unlabeled_folder(root)
    assert source.classes == () and set(source.labels.tolist()) == {-1}
    assert len(source) == 13 and "top.png" in source.names
    assert list(source.names) == sorted(source.names)


def test_a_link_to_other_classes_is_skipped_and_counted(root):
    plain = sources.folder(root, "Train")
    os.symlink(root / "Train", root / "Train" / "ant" / "up")
    os.symlink(root / "Train" / "bee" / "deep", root / "Train" / "ant" / "aside")
    os.symlink(root / "TestA" / "ant", root / "Train" / "ant" / "more")
    linked = sources.folder(root, "Train")
    assert linked.counts == {"link to a folder of other classes": 2}
    assert linked.skipped_files["link to a folder of other classes"] == ("Train/ant/aside", "Train/ant/up")
    assert set(linked.names) == {*plain.names, "Train/ant/more/0.png"}


@pytest.mark.parametrize("target", ["ant", "bee/deep"])
def test_two_class_folders_that_are_one_by_a_link_are_refused(root, target):
    os.symlink(root / "Train" / target, root / "Train" / "dog")
    with pytest.raises(UserError, match=f"'{target[:3]}' and 'dog' .* are the same folder by a link"):
        sources.folder(root, "Train")


def test_joined_and_taken_sources_read_the_same_images(root):
    first = sources.folder(root, "Train")
    second = sources.folder(root, "TestA", classes=first.classes)
    both = sources.join([first, second])
    assert tuple(both.names) == (*first.names, *second.names) and both.classes == first.classes
    for i in (0, 9, 10, 11):
        part, k = (first, i) if i < 10 else (second, i - 10)
        assert both[i]["image"] == part[k]["image"] and both[i]["label"] == part[k]["label"]
        assert both[i]["index"] == i and both[i]["name"] == part.names[k]
    some = sources.take(both, np.array([11, 3]))
    assert some.names == (second.names[1], first.names[3]) and some.labels.tolist() == [2, 1]
    assert cloudpickle.loads(cloudpickle.dumps(some))[0]["image"] == second[1]["image"]
    assert len({s.fingerprint for s in (first, second, both, some, sources.take(both, np.array([3, 11])))}) == 5


def test_fingerprint_tells_file_lists_apart(root):
    first = sources.folder(root, "Train").fingerprint
    os.utime(root / "Train" / "ant" / "0.png", (1, 1))
    assert sources.folder(root, "Train").fingerprint == first
    (root / "Train" / "ant" / "0.png").rename(root / "Train" / "ant" / "9.png")
    renamed = sources.folder(root, "Train").fingerprint
    (root / "Train" / "ant" / "9.png").rename(root / "Train" / "bee" / "9.png")
    moved = sources.folder(root, "Train").fingerprint
    with open(root / "Train" / "bee" / "9.png", "ab") as file:
        file.write(b"more")
    assert len({first, renamed, moved, sources.folder(root, "Train").fingerprint}) == 4


def test_progress_reaches_the_end(root):
    seen = []
    sources.folder(root, "Train", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 10) for i in range(1, 11)]


def test_paths_that_do_not_fit_are_refused(root):
    with pytest.raises(UserError, match=r"data\.dir.*Tain.*TestA, Train"):
        sources.folder(root, "Tain")
    with pytest.raises(UserError, match="no class folders"):
        sources.folder(root, "Train/ant")
    (root / "none").mkdir()
    with pytest.raises(UserError, match="no image"):
        sources.unlabeled_folder(root / "none")


def test_synthetic_is_the_same_each_time_and_each_split_its_own():
    first, again = (sources.synthetic("Train", 12, 32, 5) for _ in range(2))
    test, other = sources.synthetic("TestA", 12, 32, 5), sources.synthetic("Train", 12, 32, 6)
    assert first.names[3] == "cells/Train/00003" and len(first.classes) == 5
    assert first.fingerprint == again.fingerprint
    assert len({first.fingerprint, test.fingerprint, other.fingerprint}) == 3
    np.testing.assert_array_equal(first.labels, again.labels)
    for i in (11, 0, 4):  # in any order
        image = first[i]["image"]
        assert image.shape == (32, 32, 3) and image.dtype == np.uint8
        np.testing.assert_array_equal(image, again[i]["image"])
        assert (image != test[i]["image"]).any() and (image != other[i]["image"]).any()
    assert first[4]["image"] is first[4]["image"]  # drawn once


def test_synthetic_domains_have_equal_shares():
    source = sources.synthetic_unlabeled(8, 32, 5, "tissue+cells+xray")
    assert [name.split("/")[0] for name in source.names] == ["tissue"] * 4 + ["cells"] * 2 + ["xray"] * 2
    gray = [bool((source[i]["image"] == source[i]["image"][..., :1]).all()) for i in range(8)]
    assert gray == [False] * 6 + [True] * 2
    assert {name.split("/")[0] for name in sources.synthetic_unlabeled(6, 32, 5, "cells").names} == {"cells"}


def test_synthetic_unlabeled_is_half_tissue():
    source = sources.synthetic_unlabeled(7, 32, 5)
    assert source.classes == () and set(source.labels.tolist()) == {-1}
    assert [name.split("/")[0] for name in source.names] == ["tissue"] * 4 + ["cells"] * 3
    images = {source[i]["image"].tobytes() for i in range(7)}
    cells = sources.synthetic("Train", 7, 32, 5)
    assert len(images | {cells[i]["image"].tobytes() for i in range(7)}) == 14


def test_sources_can_be_sent_to_worker_processes(root):
    for source in (sources.folder(root, "Train"), sources.synthetic("Train", 3, 16, 0)):
        sent = cloudpickle.loads(cloudpickle.dumps(source))
        assert np.array_equal(sent[1]["image"], source[1]["image"])


def test_folders_of_groups_inside_or_around_class_folders(tmp_path):
    for patient, name in (("p1", "cat"), ("p2", "ant"), ("p3", "cat")):
        for j in range(2):
            write(tmp_path / "around" / patient / name / f"{j}.png", j)
            write(tmp_path / "inside" / name / patient / "deep" / f"{j}.png", j)
    write(tmp_path / "inside" / "ant" / "x.png")
    (tmp_path / "around" / "p1" / "notes.txt").write_text("x")
    around = sources.folder(tmp_path / "around", levels="group/class")
    assert around.classes == ("ant", "cat") and around.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert around.groups == ("p2", "p2", "p1", "p1", "p3", "p3") and around.kind == "folder"
    assert around.names[0] == "p2/ant/0.png" and around.counts == {"outside a class folder": 1}
    inside = sources.folder(tmp_path / "inside", levels="class/group")
    assert inside.classes == ("ant", "cat") and inside.groups == ("p2", "p2", "", "p1", "p1", "p3", "p3")
    assert sources.folder(tmp_path / "inside").groups == ("",) * 7
    pattern = sources.folder(tmp_path / "inside", levels="class/group", pattern=r"p(\d)")
    assert pattern.groups == ("2", "2", "", "1", "1", "3", "3") and pattern.kind == "patient or slide"
    os.symlink(tmp_path / "around" / "p1" / "cat", tmp_path / "around" / "p2" / "dog")
    with pytest.raises(UserError, match="'cat' and 'dog'.*same folder by a link"):
        sources.folder(tmp_path / "around", levels="group/class")


def test_missing_files_of_a_table_are_counted_and_the_first_is_named(tmp_path):
    write(tmp_path / "a.png")
    options: dict = {"classes": ("x",), "bad_images": "stop"}
    with pytest.raises(UserError, match=r"2 of 3 files do not exist, the first is .*/b.png; set data.dir.*bad_images"):
        sources.listed(tmp_path, ["a.png", "b.png", "c.png"], ["x"] * 3, **options)
    options["bad_images"] = "skip"
    kept = sources.listed(tmp_path, ["a.png", "b.png", "c.png"], ["x"] * 3, **options)
    assert kept.names == ("a.png",) and kept.counts == {"cannot be read": 2}
    with pytest.raises(UserError, match="2 of 2 files do not exist"):  # then skipping would hide a wrong folder
        sources.listed(tmp_path, ["b.png", "c.png"], ["x"] * 2, **options)
