import itertools
import json
import multiprocessing

import numpy as np
import pytest
from PIL import Image

from mae_jax.data import loaders, sources
from mae_jax.data.transforms import CenterResize, Decode, RandomFlip, RandomResizedCrop
from mae_jax.runtime.errors import UserError

TRAIN = (Decode(), RandomResizedCrop(8), RandomFlip())
EVAL = (Decode(), CenterResize(8))


def source_of(n: int, name: str = "s", bad: int = -1) -> sources.Source:
    """Noise images of differing sizes, encoded as PNG; example `bad` is broken."""
    rng = np.random.default_rng(n)
    arrays = [rng.integers(0, 256, (9 + i % 4, 12, 3), np.uint8) for i in range(n)]
    return sources.Source(
        names=tuple(f"{name}/{i}" for i in range(n)),
        labels=np.arange(n, dtype=np.int32) % 3,
        groups=("",) * n,
        classes=("a", "b", "c"),
        fingerprint=f"{name}{n}",
        read=lambda i: b"broken" if i == bad else arrays[i],
    )


def first(n: int, *args, **options) -> list[dict]:
    batches = loaders.train_batches(*args, **options)
    try:
        return list(itertools.islice(batches, n))
    finally:
        batches.close()


def same(left, right) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
            assert a[name].dtype == b[name].dtype


@pytest.fixture
def two():
    return [source_of(10), source_of(37, "t")]


def test_shapes_and_types(two):
    (batch,) = first(1, two, None, TRAIN, batch_size=6, seed=0)
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "image": ((6, 8, 8, 3), "uint8"),
        "label": ((6,), "int32"),
        "index": ((6,), "int32"),
        "source": ((6,), "int32"),
    }
    for source, index, label in zip(batch["source"], batch["index"], batch["label"], strict=True):
        assert two[source].labels[index] == label


def test_every_image_once_an_epoch_and_none_dropped_at_its_end():
    """Batches of 4 run across the ends of epochs of 10."""
    batches = first(15, [source_of(10)], None, TRAIN, batch_size=4, seed=0)
    order = np.concatenate([batch["index"] for batch in batches]).reshape(6, 10)
    assert (np.sort(order, 1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in order.tolist()}) == 6


def test_the_second_epoch_of_seed_0_is_not_the_first_of_seed_1():
    def epochs(seed):
        batches = first(3, [source_of(50)], None, TRAIN, batch_size=50, seed=seed)
        return [batch["index"].tolist() for batch in batches]

    assert epochs(0)[1] != epochs(1)[0]
    assert epochs(0) == epochs(0)


def test_only_the_subset_is_read(two):
    indices = [np.array([7, 2, 5]), np.array([30])]
    batches = first(6, two, indices, TRAIN, batch_size=8, seed=0)
    seen = {(int(s), int(i)) for b in batches for s, i in zip(b["source"], b["index"], strict=True)}
    assert seen == {(0, 7), (0, 2), (0, 5), (1, 30)}  # although smaller than a batch


def test_an_image_is_augmented_differently_each_time():
    batches = first(4, [source_of(1)], None, TRAIN, batch_size=4, seed=0)
    assert len({image.tobytes() for batch in batches for image in batch["image"]}) == 16


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_threads_change_nothing(two, threads):
    options = dict(batch_size=6, seed=4, weights=(1, 2))
    plain = first(7, two, None, TRAIN, threads=0, **options)
    same(plain, first(7, two, None, TRAIN, threads=threads, prefetch=2, **options))


def test_worker_processes_change_nothing(two):
    options = dict(batch_size=6, seed=4, start=3, rows=range(2, 5))
    plain = first(7, two, None, TRAIN, threads=0, **options)
    assert not multiprocessing.active_children()
    same(plain, first(7, two, None, TRAIN, workers=2, threads=4, **options))


@pytest.mark.parametrize("start", [1, 5, 1000])
def test_starting_at_k_is_skipping_k_batches(two, start):
    options = dict(batch_size=6, seed=4)
    images = TRAIN if start < 100 else ()
    if images:
        plain = first(start + 3, two, None, TRAIN, **options)
        same(plain[start:], first(3, two, None, TRAIN, start=start, **options))
    else:
        later = first(3, two, None, TRAIN, start=start, **options)
        same(later[1:], first(2, two, None, TRAIN, start=start + 1, **options))


def test_rows_of_all_processes_are_the_global_batch(two):
    options = dict(batch_size=6, seed=4, start=2)
    from_one_process = first(5, two, None, TRAIN, **options)
    parts = [first(5, two, None, TRAIN, rows=rows, **options)
             for rows in (slice(0, 1), range(1, 4), slice(4, 6))]  # fmt: skip
    joined = [
        {name: np.concatenate([part[k][name] for part in parts]) for name in from_one_process[0]} for k in range(5)
    ]
    same(from_one_process, joined)


@pytest.mark.parametrize("weights", [(), (3, 1), (0.5, 0.5)])
def test_sources_are_mixed_by_weight(two, weights):
    batches = first(50, two, None, TRAIN, batch_size=47, seed=0, weights=weights)
    drawn = np.bincount(np.concatenate([batch["source"] for batch in batches])) / 50
    expected = loaders.epoch_counts([10, 37], weights)
    assert sum(expected) == pytest.approx(47)
    np.testing.assert_allclose(drawn, expected, rtol=0.01)
    if not weights:
        np.testing.assert_allclose(expected, [10, 37])


def test_mixed_sources_still_run_through_their_epochs(two):
    batches = first(60, two, None, TRAIN, batch_size=10, seed=0, weights=(1, 1))
    index, source = (np.concatenate([b[name] for b in batches]) for name in ("index", "source"))
    for number, n in enumerate((10, 37)):
        mine = index[source == number]
        mine = mine[: len(mine) // n * n].reshape(-1, n)
        assert (np.sort(mine, 1) == np.arange(n)).all()


@pytest.mark.parametrize("weights", [(1,), (1, 0), (1, -1), (1, float("nan"))])
def test_weights_that_do_not_fit_are_refused(two, weights):
    with pytest.raises(UserError, match=r"data\.weights"):
        loaders.train_batches(two, None, TRAIN, batch_size=4, seed=0, weights=weights)


@pytest.mark.parametrize("rows", [slice(4, 9), range(3, 5), range(0)])
def test_rows_that_do_not_fit_are_refused(two, rows):
    with pytest.raises(UserError, match=r"train\.batch_size=4"):
        loaders.train_batches(two, None, TRAIN, batch_size=4, seed=0, rows=rows)


def test_an_empty_subset_is_refused(two):
    with pytest.raises(UserError, match="source 1"):
        loaders.train_batches(two, [None, np.array([], int)], TRAIN, batch_size=4, seed=0)


@pytest.mark.parametrize("threads", [0, 4])
def test_a_broken_image_stops_by_name(threads):
    with pytest.raises(UserError, match="s/3"):
        first(5, [source_of(10, bad=3)], None, TRAIN, batch_size=4, seed=0, threads=threads)


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (8, 4), (3, 8), (1, 1)])
def test_evaluation_has_every_image_once(n, batch_size):
    source = source_of(n)
    batches = list(loaders.eval_batches(source, None, EVAL, batch_size=batch_size))
    assert len(batches) == -(-n // batch_size)
    assert all(batch["image"].shape == (batch_size, 8, 8, 3) for batch in batches)
    index, label, mask, image = (
        np.concatenate([batch[name] for batch in batches]) for name in ("index", "label", "mask", "image")
    )
    assert mask.dtype == np.float32 and mask.tolist() == [1] * n + [0] * (len(mask) - n)
    assert index.tolist() == [*range(n)] + [-1] * (len(mask) - n)
    np.testing.assert_array_equal(label[:n], source.labels)
    assert (label[n:] == -1).all() and not image[n:].any()
    np.testing.assert_array_equal(image[0], CenterResize(8)(Decode()(source[0]))["image"])


def test_evaluation_by_index_and_by_rows():
    source, chosen = source_of(20), np.array([3, 9, 4, 17, 0, 5, 6])
    from_one_process = list(loaders.eval_batches(source, chosen, EVAL, batch_size=6))
    assert [batch["index"].tolist() for batch in from_one_process] == [[3, 9, 4, 17, 0, 5], [6, *[-1] * 5]]
    parts = [
        list(loaders.eval_batches(source, chosen, EVAL, batch_size=6, rows=rows, threads=threads))
        for rows, threads in ((slice(0, 3), 0), (slice(3, 6), 8))
    ]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*parts, strict=True)]
    same(from_one_process, joined)
    assert list(loaders.eval_batches(source, chosen[:0], EVAL, batch_size=6)) == []


def test_a_position_says_what_changed(two):
    def at(batch, given=two, indices=None, seed=0, batch_size=4, weights=()):
        place = loaders.position(batch, given, indices, seed=seed, batch_size=batch_size, weights=weights)
        return json.loads(json.dumps(place))

    saved = at(7)
    assert saved["next_batch"] == 7
    loaders.check_position(saved, at(0))
    loaders.check_position(saved, at(0, indices=[np.arange(10), None]))  # all is all
    for name, now in {
        "files": at(0, [two[0], source_of(36, "t")]),
        "subset": at(0, indices=[np.arange(9), None]),
        "seed": at(0, seed=1),
        "batch_size": at(0, batch_size=8),
        "weights": at(0, weights=(1, 2)),
    }.items():
        with pytest.raises(UserError, match=rf"\({name}\b") as raised:
            loaders.check_position(saved, now)
        assert "\n" not in str(raised.value)
        with pytest.raises(UserError, match=rf"\({name}\b.* but is None"):  # what is missing is not equal
            loaders.check_position(saved, {key: value for key, value in saved.items() if key != name})


def test_jpegs_from_files(tmp_path):
    for label in ("x", "y"):
        (tmp_path / label).mkdir()
        for i in range(3):
            noise = np.random.default_rng(i).integers(0, 256, (60, 50, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / label / f"{i}.jpg")
    source = sources.folder(tmp_path)
    options = dict(batch_size=5, seed=0)
    same(
        first(4, [source], None, TRAIN, threads=0, **options),
        first(4, [source], None, TRAIN, threads=4, **options),
    )


@pytest.mark.parametrize("weights", [(), (3.0, 1.0), (1.0, 1.0)])
def test_images_drawn_of_each_source_are_counted_without_reading_one(two, weights):
    batches = first(12, two, None, EVAL, batch_size=5, seed=0, weights=weights)
    for start, stop in ((0, 12), (4, 9), (7, 8), (0, 0)):
        seen = np.bincount(np.concatenate([b["source"] for b in batches[start:stop]] or [[]]).astype(int), minlength=2)
        np.testing.assert_array_equal(loaders.drawn((10, 37), weights, 5 * start, 5 * stop), seen)
    assert loaders.drawn((10,), (), 3, 9).tolist() == [6]


def test_a_balanced_epoch_has_classes_by_the_root_of_their_size():
    labels = np.repeat([0, 1, 2], [9, 100, 900])  # roots 3, 10, 30
    rng, drawn = np.random.default_rng(0), np.zeros(len(labels))
    for _ in range(200):
        epoch = loaders.balanced(labels, rng)
        times = np.bincount(epoch, minlength=len(labels))
        drawn += times
        assert len(epoch) == len(labels)
        for label in range(3):
            assert np.ptp(times[labels == label]) <= 1  # each image of a class as often as the others
    mean = [drawn[labels == label].sum() / 200 for label in range(3)]
    np.testing.assert_allclose(mean, np.array([3, 10, 30]) * len(labels) / 43, atol=0.1)
    assert drawn.min() > 0


def test_balanced_batches_are_a_function_of_the_place_alone():
    source = sources.synthetic("Train", 40, 16, 0)

    def drawn(start: int, n: int, **options) -> list[int]:
        stream = loaders.train_batches([source], None, [], batch_size=10, seed=1, start=start, threads=2, **options)
        return np.concatenate([batch["index"] for batch in itertools.islice(stream, n)]).tolist()

    from_one_process = drawn(0, 12, balance=True)
    assert drawn(7, 5, balance=True) == from_one_process[70:]
    assert sorted(drawn(0, 4)) == list(range(40)) != sorted(from_one_process[:40])
    counts = np.bincount(source.labels, minlength=5)
    rarest = int(np.where(counts > 0, counts, 99).argmin())
    assert sum(source.labels[i] == rarest for i in from_one_process) > 3 * counts[rarest]  # more than once an epoch
