import numpy as np
import pytest

from mae_jax.data import prepared, sources, splits
from mae_jax.data.decode import load_image
from mae_jax.runtime.errors import UserError

CELLS = ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil")


def test_images_labels_and_groups_are_those_of_the_folder(prepared_sets, trees):
    top, _ = prepared_sets
    made = prepared.labelled("raabin_wbc", "Train", top)
    same = sources.folder(trees / "raabin_wbc", "Train", bad_images="skip")
    assert made.classes == CELLS == same.classes
    assert tuple(made.names) == tuple(same.names) and tuple(made.groups) == tuple(same.groups)
    np.testing.assert_array_equal(made.labels, same.labels)
    assert made.groups[0] == "95-8-10-0" and len(set(made.groups)) == 10 and made.kind == "film"
    assert made.compared[0] == "95-8-10-0_300" and made.fields == same.fields
    for i in range(len(made)):
        assert made[i]["image"] == same[i]["image"]
        assert made[i]["label"].dtype == np.int32 and made[i]["name"] == made.names[i]


def test_test_b_lacks_classes_and_keeps_the_numbers(prepared_sets):
    made = prepared.labelled("raabin_wbc", "TestB", prepared_sets[0], classes=CELLS, field="data.test_split")
    assert made.classes == CELLS and sorted(set(made.labels.tolist())) == [2, 4]
    with pytest.raises(UserError, match="class Basophil has no image"):
        prepared.labelled("raabin_wbc", "TestB", prepared_sets[0])


def test_what_was_left_out_and_how_counts_differ_is_reported(prepared_sets):
    said = "\n".join(prepared_sets[1]["raabin_wbc"])
    assert "left out, hidden: 1 (Train/Neutrophil/.DS_1.jpg)" in said
    assert "left out, damaged image: 1 (Train/Monocyte/95-8-13-0_300_7.jpg)" in said
    assert "left out, not an image: 1 (Train/Neutrophil/95-8-14" in said
    assert "Train Basophil 4 (published 212)" in said and "Train Neutrophil 4 (published 6231)" in said
    assert "TestA Monocyte 4 (published 234)" in said and "TestB Neutrophil 4 (published 1971)" in said
    assert "  Train         4           4           4         4           4      20      10" in said


def test_description_citation_homepage_and_license():
    from mae_jax.datasets.raabin_wbc.raabin_wbc_dataset_builder import Builder

    totals = {split: sum(counts.values()) for split, counts in Builder.PUBLISHED.items()}
    assert totals == {"Train": 10_175, "TestA": 4_339, "TestB": 2_119}
    assert Builder.name == "raabin_wbc"


def test_a_run_by_name_sees_what_a_run_by_folder_sees(tiny_config, prepared_sets, trees):
    config = tiny_config(**{"data.fraction": 0.5})
    config.data.update(source="raabin_wbc", prepared_dir=str(prepared_sets[0]))
    named = splits.labelled(config.data)
    config.data.update(source="folder", dir=str(trees / "raabin_wbc"), bad_images="skip")
    folder = splits.labelled(config.data)
    for key in ("subset_sha256", "validation_sha256", "actual"):
        assert named.subset[key] == folder.subset[key]
    held = {named.train.groups[i] for i in named.val_idx}
    assert held and not held & {named.train.groups[i] for i in named.train_idx}
    assert load_image(named.test[0]["image"]).shape == (20, 24, 3)
    for one, two in ((named.train, folder.train), (named.test, folder.test)):
        sizes = [dict(zip(source.names, source.sizes.tolist(), strict=True)) for source in (one, two)]
        assert sizes[0] == sizes[1] and len(sizes[0]) > 10
