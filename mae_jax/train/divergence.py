"""Handling of non-finite numbers: the run stops, or rolls back and lowers its learning rate (`train.on_divergence`).

`lowered.json` and every checkpoint list the steps to which the run rolled back, and the learning-rate factor from each
step on. The rate of a step depends only on this list and the step. A killed and resumed run therefore has the same
rates as an uninterrupted one, even from an earlier checkpoint.
"""

from pathlib import Path
from typing import Any

from mae_jax.checkpoints.saver import Checkpoints
from mae_jax.config.fields import RunConfig
from mae_jax.rundir import contents
from mae_jax.runtime.disk import exists
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count


class Diverged(Exception):
    """A number is not finite.

    `what` names the number and `value` is its value. `step` counts the updates done, including one in progress. The
    parameters after `unsound` or more updates cannot be used.
    """

    def __init__(self, what: str, value: float, step: int, unsound: int):
        super().__init__(f"{what} is {value} at step {step}")
        self.what, self.value, self.step, self.unsound = what, value, step, unsound


class RateReductions:
    """The reductions of a run's learning rate: the step from which each applies, and its factor."""

    def __init__(self, workdir: Path, config: RunConfig, leader: bool):
        """Reads `lowered.json` if it exists. Only the `leader` process writes it. Raises UserError."""
        self.path, self.config, self.leader = workdir / contents.LOWERED, config, leader
        self.entries: list[dict[str, Any]] = contents.read_json(self.path) if exists(self.path) else []
        if not isinstance(self.entries, list) or not all(map(_is_entry, self.entries)):
            raise UserError(
                f"{self.path} is not a list of learning-rate reductions; restore it, or remove it: the checkpoints "
                f"have a copy"
            )

    def resume(self, step: int, saved: list[dict[str, Any]]) -> int | None:
        """Merges the list `saved` in the checkpoint of `step`, in case the file is missing.

        Returns the step of a rollback that is newer than the checkpoint, or None.
        """
        if len(saved) > len(self.entries):
            self.entries = saved
        return next((e["back_to"] for e in self.entries[len(saved) :] if e["back_to"] < step), None)

    def factor(self, step: int) -> float:
        """The factor on the scheduled learning rate of update `step`, counted from 0."""
        return next((e["rate_factor"] for e in reversed(self.entries) if e["back_to"] <= step), 1.0)

    def rows(self, step: int) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl about reductions at `step`."""
        here = [entry for entry in self.entries if entry["back_to"] == step]
        return [{name: entry[name] for name in ("diverged_at", "rate_factor")} for entry in here]

    def roll_back(self, error: Diverged, checkpoints: Checkpoints, label: str) -> str:
        """Rolls back to the newest usable checkpoint, lowers the rate from there on, and returns a message.

        If a lower rate from that checkpoint already failed, rolls back to the previous one. Raises UserError if the
        config does not allow rollbacks, or no more of them.
        """
        checkpoints.wait()
        times = self.config.train.lower_rate_times if self.config.train.on_divergence == "lower_rate" else 0
        known, *before = [step for step in checkpoints.steps() if step < error.unsound] or [0]
        again = bool(self.entries) and self.entries[-1]["back_to"] == known
        sound = before[0] if before and again else known
        if len(self.entries) >= times or error.unsound == 0:
            good = f"the last good checkpoint is step {known} in" if known else "there is no good checkpoint yet in"
            raise UserError(f"{label}: {error}; {good} {checkpoints.directory}. {self._advice(error)}")
        factor = (self.entries[-1]["rate_factor"] if self.entries else 1.0) * self.config.train.lower_rate_factor
        entry = {"what": error.what, "value": str(error.value), "diverged_at": error.step, "back_to": sound}
        self.entries = [*self.entries, entry | {"rate_factor": factor}]
        if self.leader:
            contents.write_json(self.path, self.entries)  # must be on disk before checkpoints are removed
        checkpoints.drop(sound + 1)
        return (
            f"{label}: {error}; rolled back to {f'the checkpoint of step {sound}' if sound else 'the initial weights'}"
            f", continuing with {self.factor(sound):g} times the learning rate "
            f"(rollback {len(self.entries)} of {times})"
        )

    def _advice(self, error: Diverged) -> str:
        """What usually helps, as a sentence."""
        if error.unsound == 0:
            return "These are the initial weights, before any update: check data.mean, data.std and init_from"
        tried = (
            f"The learning rate was lowered {count(len(self.entries), 'time')}, to {self.factor(error.step):g} times "
            f"the scheduled one. "
        )
        more = "" if self.config.train.on_divergence == "lower_rate" else ", train.on_divergence=lower_rate"
        return (
            f"{tried if self.entries else ''}What usually helps: a lower optim.base_lr (now "
            f"{self.config.optim.base_lr:g}), optim.clip_norm=1, a longer optim.warmup_epochs, "
            f"model.dtype=float32{more}"
        )


def _is_entry(entry: Any) -> bool:
    numbers = {"diverged_at": int, "back_to": int, "rate_factor": float}
    return isinstance(entry, dict) and all(type(entry.get(name)) is kind for name, kind in numbers.items())
