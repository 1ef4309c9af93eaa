"""Ranges of numbers, which config fields and options of commands allow."""

import dataclasses
import math

INF = math.inf


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers in [low, high]; ends named in `open` are excluded."""

    low: float = -INF
    high: float = INF
    open: str = ""  # "low", "high" or "low high"

    def holds(self, value: float) -> bool:
        """Whether a number is within the range; false for NaN."""
        above = value > self.low if "low" in self.open else value >= self.low
        return above and (value < self.high if "high" in self.open else value <= self.high)

    def __str__(self) -> str:
        """The range as an interval, such as "[0, 1)"."""
        left, right = "(" if "low" in self.open else "[", ")" if "high" in self.open else "]"
        return f"{left}{self.low:.10g}, {self.high:.10g}{right}"

    @property
    def words(self) -> str:
        """The range in words, such as "1 to 64", "1 or more" or "above 0 and at most 1"."""
        least = f"above {self.low:.10g}" if "low" in self.open else f"at least {self.low:.10g}"
        most = f"below {self.high:.10g}" if "high" in self.open else f"at most {self.high:.10g}"
        if self.low == -INF:
            return most
        if self.high == INF:
            return least if "low" in self.open else f"{self.low:.10g} or more"
        return f"{least} and {most}" if self.open else f"{self.low:.10g} to {self.high:.10g}"
