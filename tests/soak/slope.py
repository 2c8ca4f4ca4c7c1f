"""How something grows: a line through its samples, and how sure that line is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

BLOCKS = 20
QUANTILE = 2.101
"""Of Student's t for 95 % with as many degrees of freedom as blocks less two."""


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth for each unit of time, and the interval that has it with 95 %."""

    value: float
    low: float
    high: float

    @property
    def grows(self) -> bool:
        """Whether it is surely more than zero."""
        return self.low > 0

    @property
    def distinguishable(self) -> bool:
        """Whether it is surely not zero."""
        return self.low > 0 or self.high < 0


def slope_of(samples: Sequence[tuple[float, float]]) -> Slope:
    """Return how the second values grow with the first, of at least BLOCKS samples in order.

    Samples close to each other are alike, and would make the line look surer than it is: so it goes
    through the means of blocks.
    """
    size = len(samples) / BLOCKS
    blocks = [samples[round(n * size) : round((n + 1) * size)] for n in range(BLOCKS)]
    times = [statistics.fmean(time for time, _ in block) for block in blocks]
    values = [statistics.fmean(value for _, value in block) for block in blocks]
    value, offset = statistics.linear_regression(times, values)
    errors = [y - (value * x + offset) for x, y in zip(times, values, strict=True)]
    middle = statistics.fmean(times)
    spread = sum((time - middle) ** 2 for time in times)
    doubt = QUANTILE * sqrt(sum(e * e for e in errors) / (BLOCKS - 2) / spread)
    return Slope(value, value - doubt, value + doubt)
