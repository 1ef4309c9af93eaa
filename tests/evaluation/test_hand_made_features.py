"""Color histograms and measurements of the nucleus, compared with scikit-image's where it has them."""

import numpy as np
import pytest
from skimage import feature, filters, measure

from mae_jax.data import sources
from mae_jax.evaluation import hand_made_features
from mae_jax.evaluation.feature_cache import Features
from mae_jax.evaluation.hand_made_features import NUCLEUS


def cell(angle=0.3, lobes=1):
    """A white image with a pink cell and a purple nucleus, an ellipse of axes 30 and 15 pixels for each lobe."""
    rows, columns = np.indices((128, 128)) - 64
    image = np.full((128, 128, 3), 245, np.uint8)
    image[rows**2 + columns**2 < 50**2] = (240, 200, 220)
    centers = [(0, 0)] if lobes == 1 else [(-28, 0), (28, 0)]
    for down, right in centers:
        one = (rows - down) * np.cos(angle) + (columns - right) * np.sin(angle)
        two = -(rows - down) * np.sin(angle) + (columns - right) * np.cos(angle)
        long, short = (30, 15) if lobes == 1 else (10, 8)
        image[(one / long) ** 2 + (two / short) ** 2 < 1] = (90, 30, 120)
    return image


def measured(image):
    return dict(zip(NUCLEUS, hand_made_features.nucleus(image[None])[0].tolist(), strict=True))


def test_a_histogram_counts_shares_of_colors_wherever_they_are():
    image = np.zeros((1, 4, 4, 3), np.uint8)
    image[0, 0, :, 0] = 255  # a quarter red
    features = hand_made_features.histogram(image)
    assert features.shape == (1, 216) and features[0, 0] ** 2 == pytest.approx(0.75)
    assert features[0, 5 * 36] ** 2 == pytest.approx(0.25) and (features > 0).sum() == 2
    np.testing.assert_array_equal(features, hand_made_features.histogram(image[:, ::-1, ::-1]))


def test_the_shape_is_that_of_scikit_image():
    for image in (cell(), cell(angle=1.2), cell(lobes=2)):
        inside = hand_made_features.region(image)
        (theirs,) = measure.regionprops(inside.astype(int))
        ours = measured(image)
        assert ours["area"] == pytest.approx(theirs.area / 128**2)
        assert ours["eccentricity"] == pytest.approx(theirs.eccentricity, abs=1e-5)
        assert ours["elongation"] == pytest.approx(theirs.axis_minor_length / theirs.axis_major_length, abs=1e-5)
        assert ours["extent"] == pytest.approx(theirs.extent, abs=1e-5)
        assert ours["solidity"] == pytest.approx(theirs.solidity, abs=0.03)  # their hull ends in the pixels' centers
        assert ours["parts"] == measure.label(inside).max()
    assert measured(cell(lobes=2))["parts"] == 2 and measured(cell())["area"] == pytest.approx(
        np.pi * 30 * 15 / 128**2, rel=0.1
    )


def test_the_threshold_and_the_texture_are_those_of_scikit_image():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 400), rng.normal(5, 1, 300)])
    assert hand_made_features.otsu(values) == pytest.approx(filters.threshold_otsu(values), abs=1e-9)
    gray = rng.random((24, 20))
    levels = np.minimum((gray * 8).astype(np.uint8), 7)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    pairs = feature.graycomatrix(levels, [1], angles, 8, symmetric=True).sum(axis=(2, 3))
    everywhere = np.ones((24, 20), bool)
    ours = hand_made_features.cooccurrence(
        levels.astype(int), np.ones((24, 20), bool), ((0, 1), (1, 0), (1, 1), (1, -1))
    )
    np.testing.assert_array_equal(ours, pairs)
    p = (pairs / pairs.sum())[:, :, None, None]
    *_, contrast, homogeneity, energy, correlation = hand_made_features.texture(gray, everywhere)
    for name, value in (("contrast", contrast), ("homogeneity", homogeneity), ("correlation", correlation)):
        assert value == pytest.approx(float(feature.graycoprops(p, name)[0, 0])), name
    assert energy == pytest.approx(float(feature.graycoprops(p, "energy")[0, 0]))


def test_entropy_is_in_bits_and_the_gradient_is_that_of_a_ramp():
    everywhere = np.ones((8, 8), bool)
    four_grays = np.tile([0.1, 0.35, 0.6, 0.85], (8, 2))  # equally often
    assert hand_made_features.texture(four_grays, everywhere)[1] == pytest.approx(2)
    ramp = np.tile(np.arange(8) / 10, (8, 1))
    gradient, entropy, *_ = hand_made_features.texture(ramp, everywhere)
    assert gradient == pytest.approx(0.1) and entropy == pytest.approx(3)


def test_colors_are_those_of_the_nucleus_and_around_it():
    features = measured(cell())
    assert [features[name] for name in ("red", "green", "blue")] == pytest.approx(
        np.array([90, 30, 120]) / 255, abs=0.05
    )
    around = np.array([features[f"{name}_around"] for name in ("red", "green", "blue")])
    assert (around > 0.7).all()


def test_smaller_lobes_belong_to_the_nucleus_and_specks_do_not():
    image = np.full((128, 128, 3), 245, np.uint8)
    for rows, columns in (
        (slice(20, 60), slice(20, 60)),
        (slice(20, 60), slice(80, 100)),
        (slice(100, 104), slice(20, 40)),
    ):
        image[rows, columns] = (90, 30, 120)  # 1,600, 800 and 80 pixels
    features = measured(image)
    assert features["parts"] == 2 and features["area"] == pytest.approx(2400 / 128**2, rel=0.15)


def test_an_image_without_a_nucleus_gets_zeros():
    assert not hand_made_features.nucleus(np.full((1, 32, 32, 3), 200, np.uint8)).any()
    features = hand_made_features.nucleus(np.stack([np.eye(32, dtype=np.uint8)[..., None].repeat(3, 2) * 255] * 2))
    assert features.shape == (2, len(NUCLEUS)) and np.isfinite(features).all()


@pytest.mark.parametrize("name", hand_made_features.COMPUTED)
def test_generated_cells_give_finite_features_that_differ(name):
    source = sources.synthetic("Train", 12, 128, 0)
    images = np.stack([source[i]["image"] for i in range(12)])
    features = hand_made_features.COMPUTED[name](images)
    assert features.dtype == np.float32 and np.isfinite(features).all() and len(np.unique(features, axis=0)) == 12
    np.testing.assert_array_equal(features[3:5], hand_made_features.COMPUTED[name](images[3:5]))


def test_features_are_computed_once_for_each_image(monkeypatch):
    asked = []
    function = hand_made_features.COMPUTED["histogram"]
    counted = lambda images: asked.append(len(images)) or function(images)  # noqa: E731
    monkeypatch.setitem(hand_made_features.COMPUTED, "histogram", counted)
    source, cached = sources.synthetic("Train", 12, 40, 0), Features()
    one = hand_made_features.Computed("histogram", 2, cached).of(source, np.array([3, 1, 3]))
    two = hand_made_features.Computed("histogram", 2, cached)
    np.testing.assert_array_equal(two.of(source, np.array([1, 3, 3])), one[[1, 0, 2]])
    assert sum(asked) == 2 and two.digest.startswith("histogram ")
