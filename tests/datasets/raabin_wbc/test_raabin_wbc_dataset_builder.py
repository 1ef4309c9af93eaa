import numpy as np
import pytest

from mae_jax.data import prepared, sources, splits
from mae_jax.data.decode import load_image
from mae_jax.runtime.errors import UserError

CELLS = ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil")


def test_images_labels_and_groups_are_those_of_the_folder(prepared_sets, trees):
    top, _ = prepared_sets
    source = prepared.labeled("raabin_wbc", "Train", top)
    same = sources.folder(trees / "raabin_wbc", "Train", bad_images="skip")
    assert source.classes == CELLS == same.classes
    assert tuple(source.names) == tuple(same.names) and tuple(source.groups) == tuple(same.groups)
    np.testing.assert_array_equal(source.labels, same.labels)
    assert source.groups[0] == "95-8-10-0" and len(set(source.groups)) == 10 and source.kind == "film"
    assert source.compared[0] == "95-8-10-0_300" and source.fields == same.fields
    for i in range(len(source)):
        assert source[i]["image"] == same[i]["image"]
        assert source[i]["label"].dtype == np.int32 and source[i]["name"] == source.names[i]


def test_test_b_lacks_classes_and_keeps_the_numbers(prepared_sets):
    source = prepared.labeled("raabin_wbc", "TestB", prepared_sets[0], classes=CELLS, field="data.test_split")
    assert source.classes == CELLS and sorted(set(source.labels.tolist())) == [2, 4]
    with pytest.raises(UserError, match="class Basophil has no image"):
        prepared.labeled("raabin_wbc", "TestB", prepared_sets[0])


def test_what_was_left_out_and_how_counts_differ_is_reported(prepared_sets):
    text = "\n".join(prepared_sets[1]["raabin_wbc"])
    assert "left out, hidden: 1 (Train/Neutrophil/.DS_1.jpg)" in text
    assert "left out, damaged image: 1 (Train/Monocyte/95-8-13-0_300_7.jpg)" in text
    assert "left out, not an image: 1 (Train/Neutrophil/95-8-14" in text
    assert "Train Basophil 4 (published 212)" in text and "Train Neutrophil 4 (published 6231)" in text
    assert "TestA Monocyte 4 (published 234)" in text and "TestB Neutrophil 4 (published 1971)" in text
    assert "  Train         4           4           4         4           4      20      10" in text


def test_description_citation_homepage_and_license():
    from mae_jax.datasets.raabin_wbc.raabin_wbc_dataset_builder import Builder

    totals = {split: sum(counts.values()) for split, counts in Builder.PUBLISHED.items()}
    assert totals == {"Train": 10_175, "TestA": 4_339, "TestB": 2_119}
    assert Builder.name == "raabin_wbc"


def test_a_run_by_name_sees_what_a_run_by_folder_sees(tiny_config, prepared_sets, trees):
    config = tiny_config(**{"data.fraction": 0.5})
    config.data.update(source="raabin_wbc", prepared_dir=str(prepared_sets[0]))
    named = splits.labeled(config.data)
    config.data.update(source="folder", dir=str(trees / "raabin_wbc"), bad_images="skip")
    folder = splits.labeled(config.data)
    for key in ("subset_sha256", "validation_sha256", "actual"):
        assert named.subset[key] == folder.subset[key]
    held = {named.train.groups[i] for i in named.val_idx}
    assert held and not held & {named.train.groups[i] for i in named.train_idx}
    assert load_image(named.test[0]["image"]).shape == (20, 24, 3)
    for one, two in ((named.train, folder.train), (named.test, folder.test)):
        sizes = [dict(zip(source.names, source.sizes.tolist(), strict=True)) for source in (one, two)]
        assert sizes[0] == sizes[1] and len(sizes[0]) > 10
