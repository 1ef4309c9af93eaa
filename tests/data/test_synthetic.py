"""Generated cells and tissue: same seed same bytes, classes differ as meant, clear refusals."""

import numpy as np
import pytest

from mae_jax.data import synthetic
from mae_jax.runtime.errors import UserError

BASOPHIL, EOSINOPHIL, LYMPHOCYTE, MONOCYTE, NEUTROPHIL = range(5)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def measure(label: int, cells: int = 40) -> tuple[float, float]:
    """Mean area of the cell (share of the field) and mean area of the nucleus over the cell's."""
    areas, ratios = [], []
    for seed in range(cells):
        r = rng(seed, label)
        kind = synthetic._KINDS[label]
        _, y, x = synthetic._window(np.zeros((3, 64, 64), np.float32))
        body, nucleus = synthetic._outlines(r, kind, y, x, r.uniform(*kind.radius))
        assert not ((nucleus < 0) & (body >= 0)).any()  # no nucleus outside its cell
        areas.append((body < 0).mean())
        ratios.append((nucleus < 0).sum() / (body < 0).sum())
    return float(np.mean(areas)), float(np.mean(ratios))


def stain(label: int, cells: int = 30) -> tuple[np.ndarray, float]:
    """Mean density of the cytoplasm (red, green, blue) and of the whole cell, before the light."""
    cytoplasm, densities = [], []
    for seed in range(cells):
        density = np.zeros((3, 64, 64), np.float32)
        synthetic._white_cell(rng(seed, label), density, label, 0.5, 0.5, 0.2)
        total = density.sum(0)
        cytoplasm.append(density[:, (total > 0.3) & (total < 2.3)].mean(1))
        densities.append(total[total > 0.3].mean())
    return np.mean(cytoplasm, 0), float(np.mean(densities))


def test_names_and_proportions():
    assert synthetic.CLASSES == ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil")
    assert sum(synthetic.PROPORTIONS) == pytest.approx(1.0)
    assert synthetic.PROPORTIONS[NEUTROPHIL] == pytest.approx(6231 / 10175)


@pytest.mark.parametrize("size", [16, 33, 48, 96, 128])
def test_shape_and_type_at_every_size(size):
    images = [synthetic.draw_cell(rng(1, label), label, size) for label in range(5)]
    images.append(synthetic.draw_tissue(rng(1), size))
    for image in images:
        assert image.shape == (size, size, 3) and image.dtype == np.uint8
        assert image.flags.c_contiguous
        assert image.std() > 10  # something is drawn


def test_many_seeds_draw_without_a_fault_or_a_warning():
    with np.errstate(all="raise", under="ignore"):
        for seed in range(120):
            synthetic.draw_cell(rng(seed), seed % 5, 16)
            synthetic.draw_tissue(rng(seed), 16)


def test_a_window_is_cut_at_the_border_and_empty_beyond_it():
    density = np.zeros((3, 20, 20), np.float32)
    for centre, side in ((0.5, 8), (0.0, 4), (1.0, 4), (-0.5, 0), (1.5, 0)):
        part, y, x = synthetic._window(density, centre, centre, 0.2)
        assert part.shape == (3, side, side) and y.shape == (side, 1) and x.shape == (1, side)


def test_same_seed_same_bytes_whatever_was_drawn_before():
    cell, tissue = synthetic.draw_cell(rng(3), MONOCYTE), synthetic.draw_tissue(rng(3))
    np.random.seed(0)
    synthetic.draw_cell(rng(4), BASOPHIL)
    np.testing.assert_array_equal(cell, synthetic.draw_cell(rng(3), MONOCYTE))
    np.testing.assert_array_equal(tissue, synthetic.draw_tissue(rng(3)))


def test_a_radiograph_is_gray_with_two_dark_lungs():
    images = np.stack([synthetic.draw_xray(np.random.default_rng(i), 64) for i in range(8)])
    assert images.dtype == np.uint8 and (images == images[..., :1]).all()
    mean = images[..., 0].mean(0)
    lungs = (mean[24:40, 16:22].mean() + mean[24:40, 42:48].mean()) / 2
    assert mean[24:40, 30:34].mean() > lungs + 30  # the spine and the heart lie between them
    np.testing.assert_array_equal(images[3], synthetic.draw_xray(np.random.default_rng(3), 64))


def test_other_seed_other_image():
    cells = {synthetic.draw_cell(rng(seed), NEUTROPHIL, 48).tobytes() for seed in range(30)}
    tissue = {synthetic.draw_tissue(rng(seed), 48).tobytes() for seed in range(30)}
    assert len(cells) == len(tissue) == 30


def test_nucleus_fills_a_lymphocyte_and_a_monocyte_is_largest():
    areas, ratios = zip(*(measure(label) for label in range(5)), strict=True)
    assert ratios[LYMPHOCYTE] == max(ratios) and areas[LYMPHOCYTE] == min(areas)
    assert areas[MONOCYTE] == max(areas)
    assert ratios[LYMPHOCYTE] > 1.4 * ratios[NEUTROPHIL]
    assert areas[MONOCYTE] > 1.4 * areas[LYMPHOCYTE]


def test_stain_of_the_classes():
    colors, darkness = zip(*(stain(label) for label in range(5)), strict=True)
    blue_over_red = np.array([color[2] / color[0] for color in colors])
    others = np.delete(blue_over_red, EOSINOPHIL)
    assert blue_over_red[EOSINOPHIL] > 1.6 * max(others)  # orange: blue light is absorbed
    assert blue_over_red[LYMPHOCYTE] == min(others)  # blue: red light is absorbed
    assert darkness[BASOPHIL] > 1.2 * max(darkness[EOSINOPHIL], darkness[NEUTROPHIL])  # granules


def test_the_color_of_the_whole_image_does_not_give_the_class_away():
    labels = np.tile(np.arange(5), 40)
    means = np.stack([synthetic.draw_cell(rng(i, 7), int(c), 32).mean((0, 1)) for i, c in enumerate(labels)])
    train, test = means[:100], means[100:]
    centres = np.stack([train[labels[:100] == label].mean(0) for label in range(5)])
    guess = np.square(test[:, None] - centres).sum(-1).argmin(1)
    assert (guess == labels[100:]).mean() < 0.5


@pytest.mark.parametrize("n", [0, 1, 9, 10, 37, 150, 1500])
def test_labels_are_counted_out_in_proportion(n):
    labels = synthetic.draw_labels(rng(n), n)
    assert labels.shape == (n,) and labels.dtype == np.int32
    counts = np.bincount(labels, minlength=5)
    if n >= 10:
        assert counts.min() >= 2
    if n >= 150:
        np.testing.assert_allclose(counts, np.asarray(synthetic.PROPORTIONS) * n, atol=1)
    again = synthetic.draw_labels(rng(n + 1), n)
    np.testing.assert_array_equal(counts, np.bincount(again, minlength=5))
    if n >= 37:
        assert (labels != again).any()


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_that_is_not_a_class_is_refused(label):
    with pytest.raises(UserError, match=rf"label is {label}: it must be 0 to 4.*Basophil") as error:
        synthetic.draw_cell(rng(0), label)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [15, 0, -8])
def test_a_size_too_small_is_refused(size):
    for draw in (
        lambda: synthetic.draw_cell(rng(0), 0, size),
        lambda: synthetic.draw_tissue(rng(0), size),
    ):
        with pytest.raises(UserError, match=rf"size is {size}: .* >= 16") as error:
            draw()
        assert "\n" not in str(error.value)


def test_a_negative_number_of_labels_is_refused():
    with pytest.raises(UserError, match=r"n is -3: .* 0 or more"):
        synthetic.draw_labels(rng(0), -3)
