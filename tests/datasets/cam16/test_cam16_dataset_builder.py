from mae_jax.data import prepared
from mae_jax.datasets.cam16.cam16_dataset_builder import Builder


def test_groups_are_slides(prepared_sets):
    made = prepared.labelled("cam16", "train", prepared_sets[0])
    assert made.classes == ("normal", "tumor") and made.labels.tolist() == [0] * 4 + [1] * 4
    assert made.names[0] == "train/data/normal/normal_000-0-2-384ver.jpg"
    assert list(made.groups) == [f"{c}_{s:03}" for c in made.classes for s in (0, 1, 1, 2)]


def test_pre_training_leaves_the_test_images_alone(prepared_sets):
    made = prepared.unlabelled("cam16", prepared_sets[0])
    assert len(made) == 16 and made.classes == () and set(made.labels.tolist()) == {-1}
    assert {name.split("/")[0] for name in made.names} == {"train", "val"}
    assert len({made[i]["image"] for i in range(16)}) == 16  # each record once, over both splits


def test_published_counts_are_compared(prepared_sets):
    said = prepared_sets[1]["cam16"][-1]
    assert "train normal 4 (published 379), train tumor 4 (published 378), val normal 4 (published 54)" in said
    assert "test tumor 4 (published 108)" in said


def test_published_counts_are_those_of_the_paper_s_tiles():
    totals = {split: sum(classes.values()) for split, classes in Builder.PUBLISHED.items()}
    assert totals == {"train": 757, "val": 108, "test": 216} and sum(totals.values()) == 1081
