"""Which images and encoders the robustness index is about, and their nearest neighbors."""

import numpy as np
import pytest

from mae_jax.data.sources import Source
from mae_jax.evaluation import probes
from mae_jax.predict import loading, robustness_index
from mae_jax.report.robustness_index import NotKnown
from mae_jax.runtime.progress import Progress
from mae_jax.train import loop

QUIET = Progress(1.0, quiet=True)


def source(labels, groups=None, classes=("a", "b", "c")) -> Source:
    labels = np.array(labels, np.int32)
    return Source(
        tuple(f"{i}.png" for i in range(len(labels))), labels, tuple(groups or [""] * len(labels)), classes, "",
        lambda i: np.full((4, 4, 3), i, np.uint8),
    )  # fmt: skip


def test_data_sets_have_equally_many_images_of_the_classes_that_they_share():
    first, second = source([0] * 7 + [1] * 5 + [2] * 4), source([1] * 9 + [0] * 3, ["s"] * 2 + [""] * 10)
    part = robustness_index.among_sets({"TestA": first, "TestB": second})
    assert part.values == ("TestA", "TestB") and len(part.source) == 12
    counts = {(c, s): int(((part.labels == c) & (part.center == s)).sum()) for c in (0, 1) for s in (0, 1)}
    assert set(counts.values()) == {3}
    assert [part.source[i]["label"] for i in range(12)] == part.labels.tolist()
    again = robustness_index.among_sets({"TestA": first, "TestB": second})
    assert again.source.names == part.source.names


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ({"TestA": source([0, 1])}, "there is one test set"),
        ({"TestA": source([0, 1]), "B": source([1, 2])}, "fewer than two classes are in all test sets"),
    ],
)
def test_data_sets_that_cannot_be_compared_have_a_reason(tests, reason):
    part = robustness_index.among_sets(tests)
    assert isinstance(part, NotKnown) and reason in part.reason


def test_groups_have_several_classes_and_classes_several_groups():
    """Group z has one class. Without it, class c is in one group only."""
    part = robustness_index.among_groups(source([0, 1, 0, 1, 2, 2, 0], ["x", "x", "y", "y", "y", "z", ""]))
    assert part.source.names == ("0.png", "1.png", "2.png", "3.png") and part.values == ("x", "y")
    assert part.center.tolist() == [0, 0, 1, 1] and part.apart.tolist() == [0, 1, 2, 3]
    unknown = robustness_index.among_groups(source([0, 1]))
    assert "the test images have no groups" in unknown.reason
    single = robustness_index.among_groups(source([0, 0, 1, 1], ["x", "y", "v", "w"]))
    assert single.reason == "no two groups of test images have the same two classes"


def test_neighbors_are_the_most_similar_others_outside_the_group():
    x = np.random.default_rng(0).normal(size=(40, 5))
    apart = np.repeat(np.arange(20), 2)
    near = robustness_index.nearest(x, apart)
    assert near.shape == (40, 39)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for i in range(40):
        expected = [j for j in np.argsort(-(unit @ unit[i]), kind="stable") if apart[j] != apart[i]]
        assert near[i].tolist() == [*expected, -1]


@pytest.fixture(scope="module")
def runs(tiny_config, tmp_path_factory):
    top = tmp_path_factory.mktemp("runs")
    for name, changes in (("one", {}), ("again", {"optim.base_lr": 0.1}), ("seed", {"seed": 1})):
        loop.run(tiny_config(**changes), top / name)
    return top


@pytest.mark.slow
def test_each_encoder_counts_once_as_it_was_before_training(runs):
    encoders = robustness_index._encoders(
        [("scratch", runs / "one"), ("scratch", runs / "again"), ("scratch", runs / "seed"), ("x", runs / "one")], QUIET
    )
    assert {name: len(models) for name, models in encoders.items()} == {"scratch": 2, "x": 1}
    same = robustness_index._encoders([("mae", runs / "one"), ("jitter", runs / "again")], QUIET)
    assert list(same) == ["mae, jitter"]
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), np.uint8)
    frozen, trained = encoders["x"][0].embed(images), loading.load(runs / "one").embed(images)
    assert np.abs(frozen - trained).max() > 1e-3


@pytest.mark.slow
def test_generated_cells_have_no_second_test_set_and_no_groups(runs):
    parts = robustness_index.measure([("scratch", runs / "one")], QUIET)
    assert [part.reason.split(";")[0] for part in parts] == [
        "there is one test set",
        "the test images have no groups",
    ]


@pytest.mark.slow
def test_features_of_a_run_give_the_neighbors(runs, monkeypatch):
    """Groups are given to the generated cells: the neighbors are those of the frozen encoder's own features."""
    images = robustness_index.Images(
        "groups", ("x", "y"), source([0, 1] * 4), np.array([0, 1] * 4), np.repeat([0, 1], 4), np.arange(8), np.arange(8)
    )
    monkeypatch.setattr(robustness_index, "among_groups", lambda test: images)
    one, two = robustness_index.measure([("scratch", runs / "one")], QUIET)
    assert isinstance(one, NotKnown) and list(two.neighbors) == ["scratch"]
    model, _ = loading.frozen(runs / "one")
    x = probes.unit(model.embed([np.full((4, 4, 3), i, np.uint8) for i in range(8)]))
    similarity = x @ x.T
    np.fill_diagonal(similarity, -np.inf)
    assert (two.neighbors["scratch"][0] == np.argsort(-similarity, axis=1, kind="stable")[:, :7]).all()
