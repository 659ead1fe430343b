"""One dimension of a search: a name and the values that it may take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Dimension:
    """One dimension of a search.

    Attributes
    ----------
    name
        Which layer and key, e.g. ``conv1.sparsity``.
    kind
        ``float``, ``int`` or ``choice``.
    low, high
        The ends, both included; None for a choice.
    log
        Whether the logarithm is searched.
    choices
        The values of a choice; None otherwise.
    interval, n
        The step, or the number of values, on a grid; None where the file says none.
    """

    name: str
    kind: Literal["float", "int", "choice"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None
    interval: float | None = None
    n: int | None = None

    @classmethod
    def of(cls, name: str, value: Mapping[str, Any]) -> Dimension:
        """Return the dimension that the search range `value`, already checked, describes."""
        if value["type"] == "choice":
            return cls(name, "choice", choices=tuple(value["range"]))
        number = float if value["type"] == "float" else int
        low, high = (number(end) for end in value["range"])
        log, interval = value.get("log", False), value.get("interval")
        return cls(name, value["type"], low, high, log, interval=interval, n=value.get("n"))

    @property
    def most(self) -> Any:
        """The largest value; of choices that are no numbers the last one."""
        if self.choices is None:
            return self.plain(self.high)
        return max(self.choices) if all(isinstance(one, (int, float)) for one in self.choices) else self.choices[-1]

    def plain(self, raw: Any) -> Any:
        """Return a sampled value as a Python number of this dimension's kind; a choice as it is."""
        if self.kind == "choice":
            return raw
        return float(raw) if self.kind == "float" else int(raw)

    def centre(self) -> Any:
        """Return the middle of the range, the geometric one if `log`; the first choice."""
        if self.choices is not None:
            return self.choices[0]
        low, high = self._ends()
        if self.kind == "int" and not self.log:
            return int(low) + (int(high) - int(low)) // 2
        middle = math.sqrt(low * high) if self.log else low + (high - low) / 2
        return min(max(round(middle), low), high) if self.kind == "int" else middle

    def nearest(self, value: float) -> Any:
        """Return the value of this dimension, whose choices are numbers if it has any, that is nearest to `value`."""
        if self.choices is not None:
            return min(self.choices, key=lambda choice: abs(choice - value))
        low, high = self._ends()
        inside = min(max(value, low), high)
        return round(inside) if self.kind == "int" else inside

    def _ends(self) -> tuple[float, float]:
        assert self.low is not None and self.high is not None
        return self.low, self.high

    @property
    def grid_size(self) -> int:
        """How many values a grid has here.

        Raises
        ------
        ValueError
            For a float without `interval` or `n`: it has no end of values.
        """
        if self.choices is not None:
            return len(self.choices)
        low, high = self._ends()
        if self.interval is not None:
            return math.floor((high - low) / self.interval * (1 + 1e-12) + 1e-9) + 1
        if self.kind == "int":
            every = int(high - low) + 1
            return every if self.n is None else min(self.n, every)
        if self.n is None:
            raise ValueError(f"{self.name} has neither interval nor n")
        return self.n

    def grid_value(self, index: int) -> Any:
        """Return value `index` of the grid, 0 <= index < `grid_size`; ascending, both ends of a range included."""
        if self.choices is not None:
            return self.choices[index]
        low, high = self._ends()
        steps = self.grid_size - 1
        if index == 0:
            return low
        if self.interval is not None:
            value = low + index * self.interval
        elif index == steps:
            return high
        elif self.log and self.n is not None:
            value = low * (high / low) ** (index / steps)
        else:
            value = low + (high - low) * index / steps
        if self.kind == "int":
            return self._distinct(round(value), index, steps)
        return min(max(float(f"{value:.12g}"), low), high)

    def _distinct(self, value: int, index: int, steps: int) -> int:
        """Keep the rounded values of a log grid apart: each at least one above those before it."""
        low, high = self._ends()
        return int(min(max(value, low + index), high - (steps - index)))


def grid(dimensions: tuple[Dimension, ...]) -> Iterator[dict[str, Any]]:
    """Yield every sample of the grid, one at a time; the last dimension changes fastest."""
    sizes = [dimension.grid_size for dimension in dimensions]
    for position in range(math.prod(sizes)):
        sample: dict[str, Any] = {}
        for dimension, size in zip(reversed(dimensions), reversed(sizes), strict=True):
            position, index = divmod(position, size)
            sample[dimension.name] = dimension.grid_value(index)
        yield {dimension.name: sample[dimension.name] for dimension in dimensions}
