"""Nested dicts of parameters: paths, parts by regular expression, and digests."""

import numpy as np
import pytest

from mae_jax.models.params import digest, join, map_paths, part

PARAMS = {
    "encoder": {"block_00": {"kernel": np.ones((2, 3)), "bias": np.zeros(3)}, "norm": {"scale": np.ones(3)}},
    "head": {"kernel": np.full((3, 2), 2.0)},
}


def test_a_function_gets_each_path_and_the_structure_stays():
    paths = []
    doubled = map_paths(lambda path, leaf: paths.append(path) or 2 * leaf, PARAMS)
    assert sorted(paths) == [
        *("encoder/block_00/bias", "encoder/block_00/kernel", "encoder/norm/scale", "head/kernel"),
    ]
    assert doubled["head"]["kernel"][0, 0] == 4 and set(doubled["encoder"]) == {"block_00", "norm"}


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("^head/", ["head/kernel"]),
        ("kernel$", ["encoder/block_00/kernel", "head/kernel"]),
        ("nothing", []),
        ("", ["encoder/block_00/bias", "encoder/block_00/kernel", "encoder/norm/scale", "head/kernel"]),
    ],
)
def test_two_parts_have_every_parameter_once_and_join_again(pattern, matching):
    one, other = part(PARAMS, pattern)
    names = [[], []]
    for collected, tree in zip(names, (one, other), strict=True):
        map_paths(lambda path, leaf, paths=collected: paths.append(path), tree)
    assert sorted(names[0]) == matching and len(names[0]) + len(names[1]) == 4
    assert {} not in [value for tree in (one, other) for value in tree.values()]  # no empty parts
    joined = join(one, other)
    assert digest(joined) == digest(PARAMS)
    assert digest(join(other, one)) == digest(PARAMS)


def test_a_digest_depends_on_every_name_type_shape_and_value():
    base = {"a": {"b": np.arange(6, dtype=np.float32)}}
    others = [
        {"a": {"c": base["a"]["b"]}},
        {"a": {"b": base["a"]["b"].reshape(2, 3)}},
        {"a": {"b": base["a"]["b"].view(np.int32)}},
        {"a": {"b": base["a"]["b"] + np.float32(1e-6)}},
    ]
    assert len({digest(each) for each in (base, *others)}) == 5
    assert digest({"a": {"b": np.arange(12, dtype=np.float32)[::2] / 2}}) == digest(base)  # wherever it lies in memory
