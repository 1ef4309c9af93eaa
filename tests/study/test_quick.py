"""A quick look: which images, encoder and numbers of labels it takes, and the full study that it proposes."""

import shlex
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mae_jax.config.fields import StudyConfig
from mae_jax.config.loading import as_json, load
from mae_jax.config.validation import typed
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.study import quick, validation


@pytest.fixture
def cells(tmp_path):
    """A folder without splits: 3 classes of 20 images."""
    for number in range(60):
        path = tmp_path / "cells" / "ABC"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return tmp_path / "cells"


@pytest.mark.parametrize(
    "n, classes, expected",
    [
        (2012, 5, (20, 63, 200, 640, 2012)),
        (60, 3, (12, 18, 27, 40, 60)),
        (30, 5, (15, 18, 21, 25, 30)),
        (4, 2, (2, 3, 4)),
    ],
)
def test_numbers_of_labels_rise_in_equal_ratios_to_all_of_them(n, classes, expected):
    assert quick.label_counts(np.arange(n) % classes, classes) == expected


def test_too_few_labels_are_refused():
    with pytest.raises(UserError, match="3 training images for 2 classes are too few"):
        quick.label_counts(np.array([0, 0, 1]), 2)


def test_without_unlabeled_images_the_training_images_are_pre_trained_on(cells):
    config = quick.configured({"dir": str(cells)})
    assert config.pretrain.data.part == "train" and config.pretrain.data.dir == str(cells)
    assert config.label_counts[-1] == 60 - 12 - 6  # all but the test and the validation images
    study = validation.validate_study(config)
    assert study.inits == ("scratch", "mae", "histogram", "nucleus")
    assert study.evaluations == ("lbfgs",) and len(study.seeds) == 3
    given = quick.configured({"dir": str(cells)}, str(cells / "A"), steps=7)
    assert (given.pretrain.data.part, given.pretrain.data.dir) == ("all", str(cells / "A"))
    assert given.pretrain.train.steps == 7


def test_a_given_encoder_determines_network_and_normalization(cells, tiny_config):
    run = cells.parent / "pretrained"
    run.mkdir()
    fields = {"model.width": 24, "model.heads": 3, "data.mean": (0.5, 0.4, 0.3), "data.std": (0.2, 0.2, 0.2)}
    contents.write_json(run / contents.CONFIG, {"config": as_json(tiny_config("pretrain", **fields))})
    study = validation.validate_study(quick.configured({"dir": str(cells)}, init=str(run)))
    assert study.inits == ("scratch", str(run), "histogram", "nucleus")
    for part in (study.pretrain, study.finetune):
        assert (part.model.width, part.model.heads, part.model.image_size) == (24, 3, 16)
        assert (part.data.mean, part.data.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    with pytest.raises(UserError, match="--init="):
        quick.configured({"dir": str(cells)}, init=str(cells))


def test_a_table_and_its_columns(cells):
    table = cells.parent / "labels.csv"
    rows = [f"cells/{path.parent.name}/{path.name},{path.parent.name}" for path in sorted(cells.glob("*/*.png"))]
    table.write_text("\n".join(["file,kind", *rows]))
    config = quick.configured({"labels": str(table), "columns": "path=file,label=kind"})
    assert config.finetune.data.labels == config.pretrain.data.labels == str(table)
    assert config.label_counts[-1] == 42


def test_the_full_study_is_what_its_command_says(cells):
    arguments, config = quick.full_study(quick.configured({"dir": str(cells), "group_pattern": r"(\d)\d"}))
    written = load("configs/study.py", "data=folder,scale=laptop")
    for argument in shlex.split(arguments)[1:]:
        name, _, value = argument.removeprefix("--config.").partition("=")
        written.update_from_flattened_dict({name: value})
    assert as_json(written) == as_json(config)
    assert typed(config, StudyConfig).pretrain.data.part == "train"


@pytest.mark.slow
def test_the_command_ends_with_a_report_and_the_next_step(cells, tmp_path, capsys, monkeypatch):
    """And it decodes each image once for label counts, check, study and plan."""
    from mae_jax.__main__ import dispatch
    from mae_jax.data import checking

    decoded, decode = Counter(), checking.decode
    monkeypatch.setattr(checking, "decode", lambda data, name: decoded.update([name]) or decode(data, name))
    out = tmp_path / "quick"
    dispatch(["quick", str(cells), f"--workdir={out}", "--steps=4", "--seeds=2"])
    printed = capsys.readouterr().out
    assert (out / "report" / "index.html").is_file() and (out / "check.csv").is_file()
    assert (
        "groups: not known" in printed and "This was a quick look" in printed and "  mae-jax run --config=" in printed
    )
    assert "\nIt takes about" in printed and "\nCheckpoints will take about" in printed
    assert len(list((out / "cells").iterdir())) == 5 * 4 * 2
    assert set(decoded) == {str(path) for path in cells.glob("*/*.png")} and set(decoded.values()) == {1}


def test_more_arms_are_compared(cells):
    file = cells.parent / "bloom.npz"
    file.write_bytes(b"")
    config = quick.configured({"dir": str(cells)}, arms=[f"bloom=features:{file}"])
    study = validation.validate_study(config)
    assert study.inits == ("scratch", "mae", "histogram", "nucleus", f"bloom=features:{file}")
    with pytest.raises(UserError, match="inits: 'nothing' is not allowed"):
        quick.configured({"dir": str(cells)}, arms=["nothing"])
