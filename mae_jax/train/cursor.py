"""`Cursor`: what a checkpoint holds besides parameters and optimizer state."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass
class Cursor:
    """The position of a run: all that resuming needs and that is not in the `TrainState`."""

    step: int = 0  # number of updates done
    data: dict[str, Any] = dataclasses.field(default_factory=dict)  # position of the batches, see `data.loaders`
    pending: list[dict[str, float]] = dataclasses.field(default_factory=list)  # metrics since the last row of the log
    seconds: float = 0.0  # training time so far, over all resumes
    parts: dict[str, float] = dataclasses.field(default_factory=dict)  # and of each part, see `runtime.clock`
    best: dict[str, Any] | None = None  # step and score of the best epoch so far
    evaluation_owed: bool = False  # whether a signal interrupted the evaluation at this step
    rate_reductions: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # see `train.divergence`

    def to_json(self) -> dict[str, Any]:
        """Converts to the item `position` of a checkpoint."""
        return {
            "data": self.data,
            "pending": self.pending,
            "seconds": self.seconds,
            "parts": self.parts,
            "best": self.best,
            "owed": self.evaluation_owed,
            "lowered": self.rate_reductions,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Cursor:
        """Reads the item `position`; fields that an older checkpoint lacks get their defaults."""
        return cls(
            step=saved["data"]["next_batch"],
            data=saved["data"],
            pending=saved["pending"],
            seconds=saved["seconds"],
            parts=saved.get("parts", {}),
            best=saved.get("best"),
            evaluation_owed=saved.get("owed", False),
            rate_reductions=saved.get("lowered", []),
        )
