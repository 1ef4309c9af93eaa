"""Names of the files of a run directory: the ratio of headlines."""

import pytest

from mae_jax.rundir import contents


@pytest.mark.parametrize(
    ("ratios", "chosen"), [((0.25, 0.5, 0.75, 0.9), 0.75), ((0.5, 0.9), 0.9), ((0.25, 0.4), 0.4), ((0.95,), 0.95)]
)
def test_headlines_are_at_the_ratio_nearest_to_three_quarters(ratios, chosen):
    assert contents.reference_ratio(ratios) == contents.reference_ratio(ratios[::-1]) == chosen
