"""Numbers that are not finite: the run stops, or rolls back and lowers its learning rate (`train.on_divergence`).

`lowered.json` of the run directory and every checkpoint list the steps that the run rolled back to, with the rate
from there on. The rate of a step is a function of that list and the step alone. So a run that is killed and resumed,
even from an earlier checkpoint, has the same rates as one that was not.
"""

from pathlib import Path
from typing import Any

from mae_jax.checkpoints.saver import Checkpoints
from mae_jax.config.fields import RunConfig
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError


class Diverged(Exception):
    """A number that is not finite.

    `what` names it, `value` is its value, `step` the number of updates that were done or under way; the parameters
    after `unsound` updates and later cannot be used.
    """

    def __init__(self, what: str, value: float, step: int, unsound: int):
        super().__init__(f"{what} is {value} at step {step}")
        self.what, self.value, self.step, self.unsound = what, value, step, unsound


class RateReductions:
    """The reductions of a run's learning rate: from which step on, and by which factor."""

    def __init__(self, workdir: Path, config: RunConfig, leader: bool):
        """Reads the file of an earlier start. Only the `leader` of several processes writes it. Raises UserError."""
        self.path, self.config, self.leader = workdir / contents.LOWERED, config, leader
        self.entries: list[dict[str, Any]] = contents.read_json(self.path) if self.path.exists() else []
        if not isinstance(self.entries, list) or not all(map(_is_entry, self.entries)):
            raise UserError(
                f"{self.path} is not the list of the steps where the rate was lowered; restore it, or remove it: the "
                f"checkpoints hold the same"
            )

    def resume(self, step: int, saved: list[dict[str, Any]]) -> int | None:
        """Takes over the list `saved` in the checkpoint of `step`, where the file is gone.

        Returns the step of a rollback that the checkpoint has not seen yet, or None.
        """
        if len(saved) > len(self.entries):
            self.entries = saved
        return next((e["back_to"] for e in self.entries[len(saved) :] if e["back_to"] < step), None)

    def factor(self, step: int) -> float:
        """The factor on the scheduled learning rate of update number `step`, from 0."""
        return next((e["rate_factor"] for e in reversed(self.entries) if e["back_to"] <= step), 1.0)

    def rows(self, step: int) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl for the reductions at `step`."""
        here = [entry for entry in self.entries if entry["back_to"] == step]
        return [{name: entry[name] for name in ("diverged_at", "rate_factor")} for entry in here]

    def roll_back(self, error: Diverged, checkpoints: Checkpoints, label: str) -> str:
        """Rolls back to the newest sound checkpoint and lowers the rate from there on; returns a line about it.

        Where a lower rate from that checkpoint did not help, it rolls back to the one before. Raises UserError where
        the config does not ask for rollbacks, or allows no more.
        """
        checkpoints.wait()
        times = self.config.train.lower_rate_times if self.config.train.on_divergence == "lower_rate" else 0
        known, *before = [step for step in checkpoints.steps() if step < error.unsound] or [0]
        again = bool(self.entries) and self.entries[-1]["back_to"] == known
        sound = before[0] if before and again else known
        if len(self.entries) >= times or error.unsound == 0:
            raise UserError(
                f"{label}: {error}; the last good checkpoint is {f'step {known}' if known else 'none yet'} in "
                f"{checkpoints.directory}. {self._advice(error)}"
            )
        factor = (self.entries[-1]["rate_factor"] if self.entries else 1.0) * self.config.train.lower_rate_factor
        entry = {"what": error.what, "value": str(error.value), "diverged_at": error.step, "back_to": sound}
        self.entries = [*self.entries, entry | {"rate_factor": factor}]
        if self.leader:
            contents.write_json(self.path, self.entries)  # on disk before the checkpoints change
        checkpoints.drop(sound + 1)
        return (
            f"{label}: {error}; back to {f'the checkpoint of step {sound}' if sound else 'the first weights'}, from "
            f"there on with {self.factor(sound):g} of the learning rate ({len(self.entries)} of {times} times)"
        )

    def _advice(self, error: Diverged) -> str:
        """What usually helps, in a sentence."""
        if error.unsound == 0:
            return "Those are the first weights, before any update: look at data.mean, data.std and init_from"
        tried = f"The rate was lowered {len(self.entries)} times, to {self.factor(error.step):g} of it. "
        more = "" if self.config.train.on_divergence == "lower_rate" else ", train.on_divergence=lower_rate"
        return (
            f"{tried if self.entries else ''}What usually helps: a lower optim.base_lr (now "
            f"{self.config.optim.base_lr:g}), optim.clip_norm=1, a longer optim.warmup_epochs, "
            f"model.dtype=float32{more}"
        )


def _is_entry(entry: Any) -> bool:
    numbers = {"diverged_at": int, "back_to": int, "rate_factor": float}
    return isinstance(entry, dict) and all(type(entry.get(name)) is kind for name, kind in numbers.items())
