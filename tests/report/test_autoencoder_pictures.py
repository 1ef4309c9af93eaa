"""The autoencoders behind a study's classifiers, on its page."""

import base64
import errno
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_jax.report import autoencoder_pictures
from mae_jax.report.page import write_report
from mae_jax.report.runs import read_runs

MEANS = {
    "mask_ratio": 0.75, "removed_normalised": 0.5, "visible_normalised": 0.9, "removed_pixel": 0.01,
    "visible_pixel": 0.02, "removed_pixel_borrowed": 0.005, "removed_pixel_no_network": 0.04, "spam": 0.25,
}  # fmt: skip


@pytest.fixture
def study(tmp_path, make):
    """A pre-training with its files, and cells that began with it, at a place they were moved to."""
    pretraining = tmp_path / "study" / "pretrain"
    pretraining.mkdir(parents=True)
    (pretraining / "reconstructions.json").write_text(json.dumps({"means": [MEANS], "statistics": "estimated"}))
    Image.fromarray(np.zeros((20, 2000, 3), np.uint8)).save(pretraining / "reconstructions.png")
    cells = tmp_path / "study" / "cells"
    for init, origin in (("scratch", ""), ("mae", "/where/it/was/pretrain")):
        for seed in (0, 1):
            make.run(cells / f"{init}{seed}", init, 0.1, seed=seed, init_from=origin)
    return sorted(cells.iterdir())


def test_an_autoencoder_is_shown_once(study, tmp_path):
    (shown,) = autoencoder_pictures.sheets(read_runs(study)[0])
    assert shown["init"] == "mae" and shown["statistics"] == "estimated"
    assert shown["rows"][0]["spam"] == 0.25 and shown["uri"].startswith("data:image/jpeg")
    assert shown["rows"][0]["removed_pixel_grey"] == pytest.approx(25.5)
    page = write_report(study, tmp_path / "out").paths["page"].read_text()
    assert "Reconstructions by mae" in page and "25.5" in page and "51.0" in page
    beside = tmp_path / "out" / "figures" / "reconstructions_mae"
    with Image.open(beside.with_suffix(".png")) as sheet:
        assert sheet.size == (2000, 20)
    assert 'width="2000" height="20"' in beside.with_suffix(".svg").read_text()
    assert "0.75,0.5,0.9" in beside.with_suffix(".csv").read_text()


@pytest.mark.parametrize("text", ["{", "[]", '{"means": [{"spam": 1}]}', '{"means": 3, "statistics": ""}'])
def test_broken_files_are_left_out(study, text):
    (study[0].parent.parent / "pretrain" / "reconstructions.json").write_text(text)
    assert autoencoder_pictures.sheets(read_runs(study)[0]) == []


def test_a_missing_picture_does_not_stop_the_report(study):
    (study[0].parent.parent / "pretrain" / "reconstructions.png").write_bytes(b"no png")
    (shown,) = autoencoder_pictures.sheets(read_runs(study)[0])
    assert shown["uri"] == ""


def test_the_page_shows_the_first_rows_of_a_tall_sheet(tmp_path):
    """A sheet of ten rows of pictures, 110 pixels wide: the page has those above the last gap within 126 pixels."""
    sheet = np.full((300, 110, 3), 255, np.uint8)
    for row in range(10):
        sheet[30 * row : 30 * row + 25] = 90
    Image.fromarray(sheet).save(tmp_path / "sheet.png")
    result = autoencoder_pictures._sheet(tmp_path / "sheet.png")
    with Image.open(io.BytesIO(base64.b64decode(result["uri"].partition(",")[2]))) as shown:
        assert shown.size == (110, 3 * 30 + 25)  # three rows with their gaps, and the fourth
    assert result["shortened"] and result["size"] == (110, 300)
    Image.fromarray(sheet[:110]).save(tmp_path / "sheet.png")
    assert not autoencoder_pictures._sheet(tmp_path / "sheet.png")["shortened"]


def test_a_run_that_began_with_a_file_has_no_pretraining(make, tmp_path):
    (tmp_path / "encoder.pth").write_bytes(b"")
    run = make.run(tmp_path / "a", "mae", 0.1, rows=60, init_from=str(tmp_path / "encoder.pth"))
    (read,), _ = read_runs([run])
    assert autoencoder_pictures.pretrainings([read]) == []


@pytest.mark.parametrize("name", ["reconstructions.json", "reconstructions.png"])
def test_a_storage_error_is_not_taken_for_missing_pictures(study, monkeypatch, name):
    runs = read_runs(study)[0]
    real = Path.open

    def fail(path, *args, **options):
        if path.name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match="Input/output error"):
        autoencoder_pictures.sheets(runs)
