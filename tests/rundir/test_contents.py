"""Names of the files of a run directory: the ratio of headlines."""

import pytest

from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError


@pytest.mark.parametrize(
    ("ratios", "chosen"), [((0.25, 0.5, 0.75, 0.9), 0.75), ((0.5, 0.9), 0.9), ((0.25, 0.4), 0.4), ((0.95,), 0.95)]
)
def test_headlines_are_at_the_ratio_nearest_to_three_quarters(ratios, chosen):
    assert contents.reference_ratio(ratios) == contents.reference_ratio(ratios[::-1]) == chosen


def test_below_a_file_there_is_no_json_file(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"")
    assert contents.peek(tmp_path / "model.pth" / contents.CONFIG) is None
    with pytest.raises(UserError, match="is missing"):
        contents.read_json(tmp_path / "model.pth" / contents.CONFIG)
