"""What a checkpoint holds besides parameters and the optimizer's state."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass
class Cursor:
    """Where a run is: everything that a resumed run needs and that is not in its `TrainState`."""

    step: int = 0  # updates that are done
    data: dict[str, Any] = dataclasses.field(default_factory=dict)  # where the stream of batches is, see `loaders`
    pending: list[dict[str, float]] = dataclasses.field(default_factory=list)  # metrics of updates not yet in a row
    seconds: float = 0.0  # of training so far, over all starts
    best: dict[str, Any] | None = None  # step and score of the best epoch so far
    evaluation_owed: bool = False  # whether a signal interrupted the evaluation of this step
    rate_reductions: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # see `divergence`

    def to_json(self) -> dict[str, Any]:
        """The item `position` of a checkpoint."""
        return {
            "data": self.data,
            "pending": self.pending,
            "seconds": self.seconds,
            "best": self.best,
            "owed": self.evaluation_owed,
            "lowered": self.rate_reductions,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Cursor:
        """Reads the item `position`. Older checkpoints lack the fields that came later."""
        return cls(
            step=saved["data"]["next_batch"],
            data=saved["data"],
            pending=saved["pending"],
            seconds=saved["seconds"],
            best=saved.get("best"),
            evaluation_owed=saved.get("owed", False),
            rate_reductions=saved.get("lowered", []),
        )
