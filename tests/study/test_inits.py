"""Initial weights of a study: names, changed fields, and what is refused."""

import pytest

from mae_jax.config.fields import study_defaults
from mae_jax.runtime.errors import UserError
from mae_jax.study import cells as grid
from mae_jax.study import inits, label_study
from mae_jax.study.validation import validate_study


@pytest.fixture
def config(tiny_config):
    study = study_defaults(tiny_config("pretrain"), tiny_config("finetune"))
    study.fractions = (0.1, 1.0)
    return study


def test_an_arm_may_keep_the_name_of_the_baseline(config, tmp_path):
    config.inits, config.fractions = ("scratch=scratch:model.dropout=0.1", "mae=mae:mask_ratio=0.5"), (1.0,)
    study = validate_study(config)
    assert [path.name for path, _ in grid.pretrainings(study, tmp_path)] == ["pretrain"]
    cells = {path.name: cell for path, cell in grid.cells(study, tmp_path)}
    assert [(cell.init_name, cell.model.dropout) for cell in cells.values()] == [("", 0.1), ("", 0.0)]
    assert list(cells) == ["100pct-scratch-seed0", "100pct-mae-seed0"]


@pytest.mark.parametrize(
    ("inits", "message"),
    [
        (("scratch", "nowhere"), "'nowhere' is not allowed; use scratch, mae, mae:FIELD=VALUE"),
        (("mae", "mae"), "each once"),
        (("mae:mask_ratio=high",), "mask_ratio=high is not a valid float"),
        (("mae:ratio=0.5",), "ratio is not known; use exp, one of mask_ratio, "),
        (("mae:exp=9",), "exp=9 is not known"),
        (("mae=/tmp",), "is not allowed"),
        (("a=/tmp", "a=/"), "appears twice"),
        (("mae", "mae=mae:mask_ratio=0.5"), "appears twice"),
        (("scratch=mae",), "'scratch=mae' is not allowed"),
        (("scratch:model.droput=0.1",), "model.droput is not known; use exp, "),
        (("mae:finetune.seed=1",), "the study sets seed in each of its runs"),
        (("mae:model.depth=3.5",), "model.depth=3.5 is not a valid int"),
        (("mae:model.width=18",), "model.width=18"),
    ],
)
def test_invalid_inits_are_refused(config, tmp_path, inits, message):
    config.inits = inits
    with pytest.raises(UserError) as error:
        label_study.run(config, tmp_path / "study")
    assert message in str(error.value) and not (tmp_path / "study").exists()


def parsed(config, *texts):
    config.inits = texts
    return inits.inits(validate_study(config))


def test_an_init_has_a_name_a_path_and_the_fields_in_which_it_differs(config, tmp_path):
    (tmp_path / "my encoder").mkdir()
    texts = ("scratch", "mae", "big=mae:mask_ratio=0.5", f"other={tmp_path}/my encoder", f"{tmp_path}/my encoder")
    scratch, mae, big, other, folder = parsed(config, *texts)
    assert (scratch.name, scratch.trained, scratch.pretrain, scratch.path) == ("scratch", False, None, "")
    assert (mae.name, mae.trained, mae.pretrain) == ("mae", True, {})
    assert (big.name, big.pretrain, big.unnamed) == ("big", {"mae.mask_ratio": 0.5}, False)
    assert (other.name, other.path, other.trained) == ("other", f"{tmp_path}/my encoder", True)
    assert (folder.name, folder.slug) == ("my encoder", "my_encoder")


def test_names_that_are_equal_or_equal_as_files_are_refused(config):
    for texts in (
        ("a=mae:mask_ratio=0.5", "a=mae:mask_ratio=0.25"),
        ("a b=mae:mask_ratio=0.5", "a_b=mae:mask_ratio=0.25"),
    ):
        with pytest.raises(UserError, match="appears twice; give one of them another NAME="):
            parsed(config, *texts)


def test_features_from_a_file_are_an_arm(config, tmp_path):
    (tmp_path / "bloom.h5").write_bytes(b"")
    (tmp_path / "encoder").mkdir()
    texts = (f"bloom=features:{tmp_path}/bloom.h5,seen=raabin_wbc;pbc", f"uni={tmp_path}/encoder,seen=tcga")
    config.evaluations = ("finetune", "lbfgs", "knn")
    bloom, uni = parsed(config, *texts)
    assert (bloom.name, bloom.path, bloom.start) == ("bloom", f"{tmp_path}/bloom.h5", "features")
    assert (bloom.has_network, bloom.trained, bloom.seen) == (False, True, "raabin_wbc,pbc")
    assert (uni.name, uni.path, uni.seen, uni.has_network) == ("uni", f"{tmp_path}/encoder", "tcga", True)
    assert parsed(config, f"features:{tmp_path}/bloom.h5")[0].name == "bloom"
    with pytest.raises(UserError, match="inits: 'features:nowhere.npz': nowhere.npz does not exist; name a file of"):
        parsed(config, "features:nowhere.npz")
    config.evaluations = ("finetune",)
    with pytest.raises(UserError, match=r"'bloom=features:.*' has no network to train, .* add lbfgs or knn to evaluat"):
        parsed(config, texts[0])
    mae = parsed(config, f"mae:init={tmp_path}/encoder,seen=raabin_wbc;pbc")[0]
    assert mae.pretrain is not None and mae.pretrain["init_seen"] == "raabin_wbc,pbc"


def test_color_histograms_and_measurements_of_the_nucleus_are_arms(config, tmp_path):
    config.evaluations, config.fractions = ("finetune", "knn"), (1.0,)
    first, second = parsed(config, "histogram", "cells=nucleus")
    assert [(each.name, each.start, each.has_network, each.trained) for each in (first, second)] == [
        ("histogram", "histogram", False, False), ("cells", "nucleus", False, False)
    ]  # fmt: skip
    config.inits = ("scratch", "histogram", "cells=nucleus")
    cells = {path.name: cell for path, cell in grid.cells(validate_study(config), tmp_path)}
    assert list(cells) == [
        "100pct-scratch-seed0",
        *(f"knn-100pct-{n}-seed0" for n in ("scratch", "histogram", "cells")),
    ]
    cell = cells["knn-100pct-cells-seed0"]
    assert (cell.init, cell.init_name, cell.init_from) == ("nucleus", "cells", "")
