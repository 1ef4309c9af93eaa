"""The cells of a study: their configs and labels."""

import pytest

from mae_jax.config import validation
from mae_jax.config.fields import study_defaults
from mae_jax.config.loading import flatten
from mae_jax.data import splits
from mae_jax.runtime.errors import UserError
from mae_jax.study import cells as grid
from mae_jax.study.validation import validate_study
from mae_jax.train import finetune


@pytest.fixture
def config(tiny_config):
    study = study_defaults(tiny_config("pretrain"), tiny_config("finetune"))
    study.fractions = (0.1, 1.0)
    return study


def test_arms_differ_only_in_their_initial_weights(config, tmp_path):
    config.seeds, config.subset_seeds = (0, 1), (5, 6)
    cells = {path.name: cell for path, cell in grid.cells(validate_study(config), tmp_path)}
    assert len(cells) == 8
    for seed in (0, 1):
        scratch, mae = (flatten(cells[f"10pct-{init}-seed{seed}"]) for init in ("scratch", "mae"))
        assert {k for k in scratch if scratch[k] != mae[k]} == {"init", "init_from", "name"}
        assert (scratch["seed"], scratch["data.subset_seed"]) == (seed, seed + 5)
        assert scratch["data.val_seed"] == 0


def test_arms_with_the_same_pre_training_share_it(config, tmp_path):
    config.inits, config.fractions = ("mae", "tuned=mae:finetune.model.dropout=0.1", "mae:mask_ratio=0.5"), (1.0,)
    study = validate_study(config)
    assert [path.name for path, _ in grid.pretrainings(study, tmp_path)] == ["pretrain", "pretrain-mask_ratio=0.5"]
    cells = {path.name: cell for path, cell in grid.cells(study, tmp_path)}
    assert cells["100pct-mae-seed0"].init_from == cells["100pct-tuned-seed0"].init_from == str(tmp_path / "pretrain")
    # A study that pre-trained for each arm keeps doing so.
    (tmp_path / "pretrain-tuned").mkdir()
    assert {path.name for path, _ in grid.pretrainings(study, tmp_path)} == {
        "pretrain-tuned", "pretrain-mask_ratio=0.5"
    }  # fmt: skip
    (tmp_path / "pretrain").mkdir()
    assert [path.name for path, _ in grid.pretrainings(study, tmp_path)][:2] == ["pretrain", "pretrain-tuned"]
    cells = {path.name: cell for path, cell in grid.cells(study, tmp_path)}
    assert cells["100pct-tuned-seed0"].init_from == str(tmp_path / "pretrain-tuned")


def test_without_subset_seeds_every_seed_has_the_labels_of_subset_seed_0(config, tmp_path):
    config.seeds, config.subset_seeds = (3, 4), ()
    cells = [cell for _, cell in grid.cells(validate_study(config), tmp_path)]
    assert {cell.seed for cell in cells} == {3, 4} and {cell.data.subset_seed for cell in cells} == {0}


def test_cells_with_as_many_updates_as_the_largest_fraction(config, tmp_path):
    config.fractions, config.step_matched, config.seeds = (0.01, 0.1, 0.5, 1.0), 0.1, (3,)
    cells = {path.name: cell for path, cell in grid.cells(validate_study(config), tmp_path)}
    assert [name for name in cells if "-as" in name] == [
        f"{fraction}-as100pct-{init}-seed3" for fraction in ("1pct", "10pct") for init in ("scratch", "mae")
    ]
    plain, matched = cells["10pct-mae-seed3"], cells["10pct-as100pct-mae-seed3"]
    differ = {k for k, v in flatten(plain).items() if v != flatten(matched)[k]}
    assert differ == {"train.match_fraction", "name"} and matched.train.match_fraction == 1.0
    data = splits.labeled(plain.data)
    all_labels = splits.labeled(cells["100pct-mae-seed3"].data)
    few, many, all_labels = (
        finetune.resolve_finetune(cell, d, 1)
        for cell, d in ((plain, data), (matched, data), (cells["100pct-mae-seed3"], all_labels))
    )
    assert few.steps < many.steps == all_labels.steps and few.n_train == many.n_train < all_labels.n_train
    assert (many.warmup_steps, many.eval_every) == (all_labels.warmup_steps, all_labels.eval_every)


def test_frozen_encoders_have_no_cells_at_equal_updates(config, tmp_path):
    """Their classifiers are fitted, or trained on features, so a gain there is not one of more updates."""
    config.step_matched, config.evaluations = 1.0, ("finetune", "linear_probe", "lbfgs", "knn")
    places = [place.name for place, _ in grid.cells(validate_study(config), tmp_path)]
    assert {name.partition("-")[0] for name in places if "-as" in name} == {"10pct"}
    assert {name.partition("-")[0] for name in places} == {"10pct", "100pct", "linear_probe", "lbfgs", "knn"}


def test_labels_by_their_number(config, tmp_path):
    config.label_counts, config.step_matched, config.seeds, config.inits = (20, 50), 0.1, (3,), ("scratch",)
    config.evaluations = ("finetune", "lbfgs")
    cells = {path.name: cell for path, cell in grid.cells(validate_study(config), tmp_path)}
    assert list(cells) == [
        "20labels-scratch-seed3",
        "50labels-scratch-seed3",
        "20labels-as50labels-scratch-seed3",
        "lbfgs-20labels-scratch-seed3",
        "lbfgs-50labels-scratch-seed3",
    ]
    for cell in cells.values():
        validation.validate(cell)
        assert cell.data.fraction == 1.0 and cell.train.match_fraction == 0
    matched = cells["20labels-as50labels-scratch-seed3"]
    assert (matched.data.label_count, matched.train.match_count) == (20, 50)
    assert matched.name == "finetune 20 labels as 50 labels scratch"
    full = cells["50labels-scratch-seed3"]
    steps = [finetune.resolve_finetune(cell, splits.labeled(cell.data), 1).steps for cell in (matched, full)]
    assert steps[0] == steps[1] == 8  # 2 epochs of 50 images in batches of 16
    config.label_counts = (20, 20)
    with pytest.raises(UserError, match=r"label_counts=\(20, 20\) is not allowed; use at least one value, each once"):
        validate_study(config)


def test_features_from_a_file_differ_from_an_encoder_only_in_where_they_come_from(config, tmp_path):
    (tmp_path / "bloom.npz").write_bytes(b"")
    config.inits, config.evaluations = ("scratch", "mae", f"bloom=features:{tmp_path}/bloom.npz,seen=pbc"), (
        "finetune", "lbfgs", "knn"
    )  # fmt: skip
    config.step_matched = 1.0
    cells = {path.name: cell for path, cell in grid.cells(validate_study(config), tmp_path)}
    assert [name for name in cells if "bloom" in name] == [
        *("lbfgs-10pct-bloom-seed0", "lbfgs-100pct-bloom-seed0", "knn-10pct-bloom-seed0", "knn-100pct-bloom-seed0")
    ]
    for task in ("lbfgs", "knn"):
        theirs, ours = (flatten(cells[f"{task}-10pct-{init}-seed0"]) for init in ("bloom", "mae"))
        differing = {key: value for key, value in theirs.items() if value != ours[key] and key != "name"}
        assert differing == {
            "init": "features", "init_from": str(tmp_path / "bloom.npz"), "init_name": "bloom", "init_seen": "pbc"
        }  # fmt: skip
        validation.validate(cells[f"{task}-10pct-bloom-seed0"])


def test_an_arm_may_be_a_resnet(config, tmp_path):
    config.inits, config.fractions = ("scratch", "mae", "resnet=scratch:model.family=resnet18"), (1.0,)
    config.evaluations = ("finetune", "lbfgs")
    cells = {path.name: cell for path, cell in grid.cells(validate_study(config), tmp_path)}
    for task in ("", "lbfgs-"):
        ours, theirs = (flatten(cells[f"{task}100pct-{init}-seed0"]) for init in ("resnet", "scratch"))
        differing = {key: value for key, value in ours.items() if value != theirs[key] and key != "name"}
        assert differing == {"init_name": "resnet", "model.family": "resnet18"}
    for inits, message in (
        (("mae:model.family=resnet18",), "model.family=resnet18 is a classifier, but .*task=pretrain trains without"),
        (("mae:finetune.model.family=resnet18",), "model.family=resnet18, but its pre-training model.family=vit"),
        (
            ("mae:finetune.model.mlp=swiglu",),
            "the fine-tuning has model.mlp=swiglu, but its pre-training model.mlp=gelu",
        ),
        (("r=scratch:model.family=resnet18,model.norm=frozen_batch",), "needs the statistics of trained weights"),
    ):
        config.inits = inits
        with pytest.raises(UserError, match=message):
            validate_study(config)
