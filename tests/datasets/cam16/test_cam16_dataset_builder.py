from mae_jax.data import prepared
from mae_jax.datasets.cam16.cam16_dataset_builder import Builder


def test_groups_are_slides(prepared_sets):
    source = prepared.labeled("cam16", "train", prepared_sets[0])
    assert source.classes == ("normal", "tumor") and source.labels.tolist() == [0] * 4 + [1] * 4
    assert source.names[0] == "train/data/normal/normal_000-0-2-384ver.jpg"
    assert list(source.groups) == [f"{c}_{s:03}" for c in source.classes for s in (0, 1, 1, 2)]


def test_pre_training_leaves_the_test_images_alone(prepared_sets):
    source = prepared.unlabeled("cam16", prepared_sets[0])
    assert len(source) == 16 and source.classes == () and set(source.labels.tolist()) == {-1}
    assert {name.split("/")[0] for name in source.names} == {"train", "val"}
    assert len({source[i]["image"] for i in range(16)}) == 16  # each record once, over both splits


def test_published_counts_are_compared(prepared_sets):
    text = prepared_sets[1]["cam16"][-1]
    assert "train normal 4 (published 379), train tumor 4 (published 378), val normal 4 (published 54)" in text
    assert "test tumor 4 (published 108)" in text


def test_published_counts_are_those_of_the_paper_s_tiles():
    totals = {split: sum(classes.values()) for split, classes in Builder.PUBLISHED.items()}
    assert totals == {"train": 757, "val": 108, "test": 216} and sum(totals.values()) == 1081
