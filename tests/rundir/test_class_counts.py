"""Classes with few images are named with their numbers."""

from mae_jax.rundir.class_counts import few_images


def test_classes_with_few_images_are_named_with_the_numbers_of_all_draws():
    counts = {"A": [0, 3, 2], "B": [4, 4, 4], "C": [5, 9, 7], "D": [4, 12, 6]}
    assert few_images(counts, "training") == (
        "fewer than 5 training images of A (0 to 3), B (4), D (4 to 12): their scores are mostly chance"
    )
    assert few_images({"A": [5]}, "validation") == ""
