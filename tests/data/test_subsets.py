import itertools
import json

import numpy as np
import pytest

from mae_jax.data import subsets
from mae_jax.data.sources import Source
from mae_jax.runtime.errors import UserError

CLASSES = ("a", "b", "c", "d")
COUNTS = (1, 7, 60, 400)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(4), COUNTS)).astype(np.int32)


def count(labels, indices):
    return np.bincount(labels[indices], minlength=len(CLASSES)).tolist()


def test_subsets_are_nested_and_stratified(labels):
    fractions = (0.01, 0.05, 0.1, 0.5, 1.0)
    parts = [set(subsets.nested_subset(labels, f, 3, CLASSES).tolist()) for f in fractions]
    for small, large in itertools.pairwise(parts):
        assert small < large
    assert parts[-1] == set(range(len(labels)))
    for fraction, part in zip(fractions, parts, strict=True):
        expected = [max(1, round(fraction * n)) for n in COUNTS]
        assert count(labels, sorted(part)) == expected


def test_subsets_depend_on_the_seed_and_not_on_other_classes(labels):
    first = subsets.nested_subset(labels, 0.1, 3, CLASSES)
    assert first.tolist() == sorted(first.tolist())
    np.testing.assert_array_equal(first, subsets.nested_subset(labels, 0.1, 3, CLASSES))
    assert first.tolist() != subsets.nested_subset(labels, 0.1, 4, CLASSES).tolist()
    fewer = labels.copy()
    fewer[fewer == 1] = 2  # b's images become c's: nothing changes for d
    fewer[np.flatnonzero(labels == 1)[0]] = 1
    second = subsets.nested_subset(fewer, 0.1, 3, CLASSES)
    assert second[fewer[second] == 3].tolist() == first[labels[first] == 3].tolist()


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, 10, float("nan")])
def test_a_fraction_out_of_range_is_refused(labels, fraction):
    with pytest.raises(UserError, match=r"data\.fraction="):
        subsets.nested_subset(labels, fraction, 0, CLASSES)


def test_a_class_without_images_is_refused_by_name(labels):
    with pytest.raises(UserError, match="'e'"):
        subsets.nested_subset(labels, 0.5, 0, (*CLASSES, "e"))


def test_validation_without_groups_is_stratified(labels):
    train, val = subsets.split_validation(labels, [""] * len(labels), 0.1, 0)
    assert sorted([*train, *val]) == list(range(len(labels)))
    assert train.tolist() == sorted(train.tolist()) and val.tolist() == sorted(val.tolist())
    assert count(labels, val) == [0, 1, 6, 40]  # the one image of a is trained on
    again = subsets.split_validation(labels, [""] * len(labels), 0.1, 0)[1]
    np.testing.assert_array_equal(val, again)
    assert val.tolist() != subsets.split_validation(labels, [""] * len(labels), 0.1, 1)[1].tolist()


def test_a_class_of_two_images_or_more_has_one_for_validation():
    counts = (1, 2, 3, 4, 5, 60)  # a tenth of 2 to 4 images rounds to none
    labels = np.repeat(np.arange(6), counts).astype(np.int32)
    for groups in ([""] * 75, [f"patient {i}" for i in range(75)]):
        train, val = subsets.split_validation(labels, groups, 0.1, 0)
        assert np.bincount(labels[val], minlength=6).tolist() == [0, 1, 1, 1, 1, 6]
        assert np.bincount(labels[train], minlength=6).tolist() == [1, 1, 2, 3, 4, 54]


def test_validation_keeps_a_training_image_of_each_class(labels):
    train, val = subsets.split_validation(labels, [""] * len(labels), 0.99, 0)
    assert min(count(labels, train)) >= 1
    assert count(labels, val)[1:] == [6, 59, 396]


@pytest.mark.parametrize("seed", range(5))
def test_groups_do_not_straddle_the_split(seed):
    rng = np.random.default_rng(seed)
    field = rng.integers(0, 120, 1000)  # fields of view with cells of several classes
    labels = rng.choice(4, 1000, p=(0.02, 0.08, 0.3, 0.6)).astype(np.int32)
    groups = [f"slide{g}" if g < 100 else "" for g in field]
    train, val = subsets.split_validation(labels, groups, 0.2, seed)
    assert not {groups[i] for i in train} & {groups[i] for i in val} - {""}
    assert sorted([*train, *val]) == list(range(1000))
    total = np.bincount(labels)
    share = np.array(count(labels, val)) / total
    assert (np.abs(share - 0.2) < 0.1).all(), share
    assert min(count(labels, val)) >= 1 and min(count(labels, train)) >= 1


def test_a_rare_class_in_large_groups_still_gets_validated():
    """Both groups with the rare class are too large for the target; one is taken all the same."""
    labels = np.array([0] * 80 + [1, 0] * 10 + [1, 0] * 10, np.int32)
    groups = [f"s{i}" for i in range(80)] + ["x"] * 20 + ["y"] * 20
    train, val = subsets.split_validation(labels, groups, 0.05, 0)
    assert 1 in labels[val] and 1 in labels[train]


@pytest.mark.parametrize("fraction", [0.3, 0.7])
def test_one_group_for_all_leaves_nothing_to_validate(fraction):
    train, val = subsets.split_validation(np.zeros(9, np.int32), ["s"] * 9, fraction, 0)
    assert len(train) == 9 and not len(val)


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
def test_a_validation_fraction_out_of_range_is_refused(labels, fraction):
    with pytest.raises(UserError, match=r"data\.val_fraction="):
        subsets.split_validation(labels, [""] * len(labels), fraction, 0)


def test_no_validation(labels):
    train, val = subsets.split_validation(labels, [""] * len(labels), 0, 0)
    assert len(train) == len(labels) and not len(val)


def test_describe_counts_and_names(labels):
    names = tuple(f"{i}.png" for i in range(len(labels)))
    source = Source(names, labels, ("",) * len(labels), CLASSES, "f00", read=lambda i: b"")
    train, val = subsets.split_validation(labels, source.groups, 0.1, 0)
    subset = train[subsets.nested_subset(labels[train], 0.1, 5, CLASSES)]
    kept = dict(fraction=0.1, subset_seed=5, validation_seed=0)
    lines = subsets.describe(source, train, val, subset, **kept)
    assert lines == json.loads(json.dumps(lines))
    assert lines["train"] == {"a": 1, "b": 6, "c": 54, "d": 360}
    assert lines["requested"]["c"] == pytest.approx(5.4)
    assert lines["actual"] == {"a": 1, "b": 1, "c": 5, "d": 36}
    assert lines["validation"] == {"a": 0, "b": 1, "c": 6, "d": 40}
    assert lines["source_sha256"] == "f00" and lines["subset_seed"] == 5
    other = subsets.describe(source, train, val, subset[1:], **kept)
    assert other["subset_sha256"] != lines["subset_sha256"]
    assert other["validation_sha256"] == lines["validation_sha256"] != lines["subset_sha256"]


def test_an_allocation_is_in_proportion_and_nested():
    counts = [3, 40, 57, 400]
    sizes = [subsets.allocation(counts, n) for n in range(4, 501)]
    assert sizes[0] == [1, 1, 1, 1] and sizes[-1] == counts
    for n, (now, after) in enumerate(itertools.pairwise(sizes), 4):
        assert sum(now) == n and all(0 <= b - a <= 1 for a, b in zip(now, after, strict=True))
    assert subsets.allocation(counts, 50) == [1, 4, 6, 39]
    for n in (3, 501):
        with pytest.raises(UserError, match=rf"data.label_count={n} is out of range; 4 classes .* allow 4 to 500"):
            subsets.allocation(counts, n)


def test_label_counts_are_nested_and_share_the_order_of_fractions():
    labels = np.repeat([0, 1, 2], [10, 60, 130])
    twenty, fifty = (set(subsets.nested_subset(labels, 1.0, 3, "abc", n).tolist()) for n in (20, 50))
    assert len(twenty) == 20 and len(fifty) == 50 and twenty < fifty
    assert set(subsets.nested_subset(labels, 0.1, 3, "abc").tolist()) == twenty  # 1, 6 and 13 of each class
    assert np.bincount(labels[sorted(fifty)]).tolist() == [3, 15, 32]


def test_random_subsets_are_nested_and_do_not_look_at_labels():
    few, many = (set(subsets.random_subset(100, n, 3).tolist()) for n in (10, 40))
    assert len(few) == 10 and len(many) == 40 and few < many
    assert few != set(subsets.random_subset(100, 10, 4).tolist())
    sizes = [
        subsets.unstratified_size(100, 0.001),
        subsets.unstratified_size(99, 0.5),
        subsets.unstratified_size(9, 1, 4),
    ]
    assert sizes == [1, 50, 4]
    with pytest.raises(UserError, match="data.label_count=10 is out of range; there are 9 training images"):
        subsets.unstratified_size(9, 1.0, 10)


def test_unlabeled_subsets_are_in_proportion_and_nested():
    sources = np.arange(10), np.arange(100, 190), np.arange(5, 6)
    few, many = (subsets.unlabeled_subset(sources, n, 3) for n in (20, 60))
    assert [len(part) for part in few] == [3, 16, 1] and sum(map(len, many)) == 60
    for one, two, every_image in zip(few, many, sources, strict=True):
        assert set(one) <= set(two) <= set(every_image) and (np.diff(one) > 0).all()
    assert [len(part) for part in subsets.unlabeled_subset(sources, 101, 0)] == [10, 90, 1]
    for size in (2, 102):
        with pytest.raises(UserError, match=f"data.unlabeled_count={size} is out of range; 101 images in 3 sources"):
            subsets.unlabeled_subset(sources, size, 0)


def test_sources_of_one_size_draw_different_places():
    one, two = subsets.unlabeled_subset((np.arange(100), np.arange(100)), 40, 3)
    assert len(one) == len(two) == 20 and set(one) != set(two)


def test_a_class_without_images_has_no_weight():
    assert subsets.inverse_frequency([5, 0, 15]) == (2.0, 0.0, pytest.approx(2 / 3))


def test_inverse_frequencies_have_mean_one_over_the_images():
    counts = [5, 20, 75]
    weights = subsets.inverse_frequency(counts)
    np.testing.assert_allclose(weights, [100 / 15, 100 / 60, 100 / 225])
    assert sum(w * n for w, n in zip(weights, counts, strict=True)) == pytest.approx(100)


def test_folds_have_equally_many_images_of_each_class():
    labels = np.repeat([0, 1, 2], (50, 11, 3))
    fold = subsets.folds(labels, [""] * 64, 5, 0)
    counts = np.array([np.bincount(labels[fold == f], minlength=3) for f in range(5)])
    assert counts[:, 0].tolist() == [10] * 5
    assert sorted(counts[:, 1]) == [2, 2, 2, 2, 3] and sorted(counts[:, 2]) == [0, 0, 1, 1, 1]
    assert np.ptp(counts.sum(1)) <= 1
    assert (fold != subsets.folds(labels, [""] * 64, 5, 1)).any()
    np.testing.assert_array_equal(fold, subsets.folds(labels, [""] * 64, 5, 0))


def test_folds_never_split_a_group():
    rng = np.random.default_rng(0)
    group = np.sort(rng.integers(0, 12, 90))
    labels, groups = rng.integers(0, 3, 90).astype(int), [f"patient {g}" for g in group]
    fold = subsets.folds(labels, groups, 4, 0)
    assert set(fold) == {0, 1, 2, 3}
    assert all(len(set(fold[group == g])) == 1 for g in set(group))
    assert np.bincount(fold).max() <= 2 * np.bincount(fold).min()
    few = subsets.folds(labels, ["one"] * 30 + ["two"] * 60, 5, 0)
    assert len(set(few)) == 2  # a fold for each group
    with pytest.raises(
        UserError, match=r"probe.folds=5 needs images of two groups or more, but these are all of 'one'"
    ):
        subsets.folds(labels, ["one"] * 90, 5, 0)


def test_the_largest_groups_are_divided_among_the_folds_first():
    """Five images of one patient are as many as those of five others; taken last, they would make a fold of seven."""
    groups = ["large"] * 5 + [f"patient {i}" for i in range(5)]
    for seed in range(5):
        assert np.bincount(subsets.folds(np.zeros(10, int), groups, 2, seed)).tolist() == [5, 5]


def test_a_rare_class_counts_as_much_as_a_common_one_in_folds():
    """The last group brings few images to the smaller fold, but a third of the rare class, which that fold has."""
    groups = ["first"] * 12 + ["second"] * 10 + ["third"] * 5
    labels = np.array([0] * 12 + [0] * 8 + [1] * 2 + [0] * 4 + [1])
    first, second, third = subsets.folds(labels, groups, 2, 0)[[0, 12, 22]]
    assert first == third != second
