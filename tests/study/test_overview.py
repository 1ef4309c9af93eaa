"""The runs and studies that `mae-jax runs` finds."""

import json

from mae_jax.rundir import contents
from mae_jax.study import overview


def test_a_bundle_is_not_a_run(tmp_path):
    saved = {"config": {"task": "finetune"}, contents.BUNDLE: 1}
    (tmp_path / contents.CONFIG).write_text(json.dumps(saved))
    assert overview.read(tmp_path) is None
    del saved[contents.BUNDLE]
    (tmp_path / contents.CONFIG).write_text(json.dumps(saved))
    found = overview.read(tmp_path)
    assert found is not None and (found.task, found.state) == ("finetune", "not started")
