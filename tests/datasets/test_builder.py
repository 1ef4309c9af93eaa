"""The writer of data sets: every file is written unchanged, cut, or left out with its reason."""

import io
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mae_jax.data import jpeg
from mae_jax.data.checking import ReadError
from mae_jax.data.sources import Source
from mae_jax.datasets.builder import ImageBuilder, LeftOut, root_of
from mae_jax.runtime.errors import UserError


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (value,) * 3).save(file, "PNG")
    return file.getvalue()


def source(data, classes=("a", "b"), **fields):
    return Source(
        names=tuple(data), labels=np.arange(len(data), dtype=np.int32) % 2, groups=("g",) * len(data), classes=classes,
        fingerprint="", read=lambda i: list(data.values())[i], **fields,
    )  # fmt: skip


class Bare(ImageBuilder):
    """A builder of no data set."""

    def _info(self):
        raise NotImplementedError

    def _split_generators(self, dl_manager):
        raise NotImplementedError


@pytest.fixture
def builder():
    """The part of a builder that needs no TFDS."""
    result = object.__new__(Bare)
    result.left_out, result.unnamed, result.assumed = {}, Counter(), Counter()
    result._files = result._done = 0
    result.stain = None
    result.seen = []
    result.progress = lambda done, total: result.seen.append((done, total))
    return result


def test_files_are_written_unchanged_and_bad_ones_left_out(builder):
    data = {"a.png": png(1), "b.png": b"no image", "c\n.png": png(2), "d.png": png(3)}
    result = dict(builder.examples(source(data)))
    assert list(result) == ["a.png", "d.png"]
    assert result["d.png"] == {"image": data["d.png"], "name": "d.png", "group": "g", "label": 1}
    assert builder.left_out["unusable name"] == ["c\n.png"] and sum(map(len, builder.left_out.values())) == 2
    assert builder.seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_file_may_be_cut_or_refused_and_without_classes_there_is_no_label(builder):
    def cut(name, data, pixels):
        if name == "b.png":
            raise LeftOut("too small")
        assert pixels.shape == (3, 4, 3)
        return [(f"{name}/{i}", {"image": data, "part": i}) for i in range(2)]

    data = {name: png(5) for name in ("a.png", "b.png")}
    skipped = {"counts": {"hidden": 7}, "skipped_files": {"hidden": (".x", ".y")}}
    result = list(builder.examples(source(data, (), **skipped), cut))
    assert [key for key, _ in result] == ["a.png/0", "a.png/1"]
    assert builder.left_out == {"hidden": [".x", ".y"], "too small": ["b.png"]} and builder.unnamed["hidden"] == 5
    assert "label" not in dict(builder.examples(source({"e.png": png(1)}, ())))["e.png"]


@pytest.mark.parametrize(("subsampling", "halved"), [("4:2:0", True), ("4:4:4", False), (None, False)])
def test_pixels_are_encoded_with_chroma_as_fine_as_that_of_the_file(builder, subsampling, halved):
    """Parts of a 4:2:0 JPEG are 4:2:0, too; those of other images keep all chroma."""
    file, pixels = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    image = Image.fromarray(pixels)
    image.save(file, "JPEG", quality=95, subsampling=subsampling) if subsampling else image.save(file, "PNG")
    cut = lambda name, data, pixels: [(name, {"image": pixels[:32]})]  # noqa: E731
    result = dict(builder.examples(source({"a": file.getvalue()}, ()), cut))
    header = jpeg.read_header(result["a"]["image"])
    assert header.halved == halved and header.interval and header.height == 32  # restart markers


def test_nothing_usable_and_a_fault_of_the_storage_are_errors(builder):
    with pytest.raises(UserError, match="none of the 2 files can be used; the first is a.png"):
        list(builder.examples(source({"a.png": b"", "b.png": b"x"})))

    def fails(i):
        raise ReadError("a.png cannot be read (Input/output error)")

    broken = source({"a.png": png(1)})
    with pytest.raises(ReadError, match="Input/output error"):
        list(builder.examples(Source(**{**vars(broken), "read": fails})))


def test_a_level_that_an_archive_added_is_passed(tmp_path):
    manager = SimpleNamespace(manual_dir=tmp_path)
    (tmp_path / "other").mkdir()
    assert root_of(manager) == root_of(manager, "Train") == tmp_path
    (tmp_path / "added" / "Train").mkdir(parents=True)
    assert root_of(manager, "Train") == tmp_path / "added"
    (tmp_path / "second" / "Train").mkdir(parents=True)
    assert root_of(manager, "Train") == tmp_path  # which of the two is not known
