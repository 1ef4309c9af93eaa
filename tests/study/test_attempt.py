"""One run of a study: its outcome in words, and what remains of a finished classifier."""

import pytest

from mae_jax.checkpoints.steps import committed_steps
from mae_jax.config.validation import validate
from mae_jax.data.splits import DataCache
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.progress import Progress
from mae_jax.study import attempt


@pytest.mark.parametrize("clean", [True, False])
def test_a_run_that_finishes_now_keeps_what_is_asked_for(tiny_config, tmp_path, clean):
    config = validate(tiny_config())
    outcome = attempt.attempt(tmp_path, config, Progress(1.0, quiet=True), DataCache(), clean)
    assert outcome.startswith("test accuracy 0.") and ", macro F1 0." in outcome
    (step, *_) = committed_steps(tmp_path / "checkpoints")
    assert (tmp_path / "checkpoints" / str(step) / "params").exists()
    assert (tmp_path / "checkpoints" / str(step) / "optimizer").exists() is not clean
    # Another call reads the results, and removes nothing more.
    assert attempt.attempt(tmp_path, config, Progress(1.0, quiet=True), DataCache(), True) == outcome
    assert (tmp_path / "checkpoints" / str(step) / "optimizer").exists() is not clean


def test_a_state_that_cannot_be_removed_is_a_note(tmp_path, monkeypatch, capsys):
    def refuse(directory):
        raise UserError("checkpoint 8 is damaged")

    monkeypatch.setattr(attempt.cleaning, "keep_weights", refuse)
    attempt._keep_weights(tmp_path, Progress(1.0))
    assert capsys.readouterr().out == f"note: {tmp_path} keeps its optimizer state: checkpoint 8 is damaged\n"
