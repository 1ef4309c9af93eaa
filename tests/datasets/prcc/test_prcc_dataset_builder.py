import numpy as np
import pytest

from mae_jax.data import prepared
from mae_jax.data.decode import load_image
from mae_jax.datasets.prcc.prcc_dataset_builder import config_of, corners, cut
from mae_jax.runtime.errors import UserError


def test_a_region_of_2000_gives_sixteen_tiles_of_500():
    assert config_of("tile500").tile == 500
    assert corners(2000, 500) == [0, 500, 1000, 1500]


def test_the_last_tile_is_moved_back_from_the_edge():
    assert corners(1100, 500) == [0, 500, 600]
    assert corners(500, 500) == [0] and corners(499, 500) == []


def test_tiles_of_the_regions(prepared_sets, trees):
    source = prepared.unlabeled("prcc:tile50", prepared_sets[0])
    assert len(source) == 2 * 16 and set(source.groups) == {"1/12_34_2000", "3610_6089_2000"}
    i = source.names.index("3610_6089_2000/x00050_y00150.jpg")
    tile = load_image(source[i]["image"]).astype(int)
    region = load_image((trees / "prcc" / "3610_6089_2000.jpg").read_bytes()).astype(int)
    assert tile.shape == (50, 50, 3)
    assert np.abs(tile - region[150:200, 50:100]).mean() < 3
    assert "left out, smaller than a tile of 50 pixels: 1 (small.jpg)" in "\n".join(prepared_sets[1]["prcc:tile50"])


def test_coordinates_are_kept(trees):
    data = (trees / "prcc" / "3610_6089_2000.jpg").read_bytes()
    examples = dict(cut(150, "3610_6089_2000.jpg", data, load_image(data)))
    assert sorted((e["x"], e["y"]) for e in examples.values()) == [(0, 0), (0, 50), (50, 0), (50, 50)]


@pytest.mark.parametrize("name", ["500", "tile0", "tile9999", "tile5x"])
def test_other_configurations_are_refused(name):
    with pytest.raises(UserError, match=f"prcc:{name} is not known; use prcc:tile16"):
        config_of(name)
