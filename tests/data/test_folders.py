"""Folders of images: what is skipped, which links are followed, and what is said of a folder that is not there."""

import os

import pytest

from mae_jax.data import folders
from mae_jax.runtime.errors import UserError


@pytest.fixture
def top(tmp_path):
    for name in ("a/1.png", "a/deep/2.png", "b/3.png", ".hidden/4.png", "a/Thumbs.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def walk(top, barred=()):
    passed = {}
    return list(folders.walk(str(top), "", passed, set(), "data.dir", barred)), passed


def test_files_are_found_at_any_depth_and_hidden_ones_are_counted(top):
    assert walk(top) == (["a/1.png", "a/deep/2.png", "b/3.png"], {"hidden": [".hidden", "a/Thumbs.db"]})


def test_links_are_followed_once_and_not_into_barred_folders(top):
    (top / "b" / "loop").symlink_to(top, target_is_directory=True)
    (top / "c").symlink_to(top / "a" / "deep", target_is_directory=True)
    names, passed = walk(top)
    assert sorted(os.path.basename(name) for name in names) == ["1.png", "2.png", "3.png"]
    real = os.path.realpath(top)
    names, passed = walk(top / "b", (real, f"{real}/a"))
    assert names == ["3.png"] and passed == {"link to a folder of other classes": ["loop"]}


def test_a_broken_link_is_a_fault_only_where_it_may_be_a_class(top):
    (top / "gone").symlink_to(top / "nowhere")
    (entry,) = (entry for entry in folders.entries(top, "data.dir") if entry.name == "gone")
    assert not folders.is_folder(entry, "data.dir")
    with pytest.raises(UserError, match=r"^data.dir: '.*gone' is a broken link to '.*nowhere'; restore what it names"):
        folders.is_folder(entry, "data.dir", refuse_broken=True)


def test_a_folder_that_is_not_there_is_told_with_those_that_are(top):
    assert folders.existing(top, "/a/", "data.dir") == top / "a"
    with pytest.raises(UserError, match=r"^data.dir: '.*none/deeper' is not a folder; '.*' has a, b$"):
        folders.existing(top / "none", "deeper", "data.dir")


def test_class_folders_are_those_of_the_levels_asked_for(top):
    passed = {}
    of_class = folders.class_folders(top, "Train", folders.CLASS, passed, "data.dir")
    assert [place[:2] for place in of_class.values()] == [("a", "Train/a"), ("b", "Train/b")]
    assert passed == {"hidden": ["Train/.hidden"]}
    of_group = folders.class_folders(top, "Train", folders.GROUP_CLASS, {}, "data.dir")
    assert list(of_group.values()) == [("deep", "Train/a/deep", "a")]


def test_class_names_that_look_the_same_are_refused(top):
    with pytest.raises(UserError, match="'Mono' and 'mono ' in '.*' differ only in case or white space"):
        folders.check_classes(top, ["Mono", "mono "], None, "data.dir")
    with pytest.raises(UserError, match="a folder 'Mono', which is not a class .* is it 'mono', which differs only in"):
        folders.check_classes(top, ["Mono"], ["mono", "b"], "data.dir")
