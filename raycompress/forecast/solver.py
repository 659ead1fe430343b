"""The sample of least loss that the budgets allow, where losses add up: an exact solver, as far as time allows.

The cost of a sample is no sum: what bits save depends on how wide a layer is, and what channels save on the layers
beside. It is only known that a dimension that leaves less never costs more. So samples are built dimension by
dimension, those of the greatest loss first, and a partial one is given up when it cannot lead to a better sample, or
when it costs too much even with the least of all others (branch and bound; Land and Doig, 1960).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycompress.config.dimension import Dimension
from raycompress.forecast.amounts import Sample, options

LossOf = Callable[[str, Any], float]
"""(name of a dimension, value) -> its loss."""
Fits = Callable[[Sample], bool]

_STEPS = 10
"""Values of a sparsity that are looked at."""
_MOST = 5_000
"""Samples whose cost is asked for, at most."""


@dataclass(frozen=True)
class Solution:
    """A sample, its loss, and whether no other sample of the options loses less."""

    sample: Sample
    loss: float
    is_optimal: bool


def solve(
    dimensions: Sequence[Dimension],
    loss_of: LossOf,
    fits: Fits,
    known: Sequence[Sample] = (),
    *,
    steps: int = _STEPS,
    most: int = _MOST,
) -> Solution:
    """Return the allowed sample with the least sum of losses.

    Parameters
    ----------
    dimensions
        Sparsities, of each of which `steps` even values count as options, bits and blocks.
    fits
        Whether a sample, with a value for each dimension, is within all budgets; one that leaves less of any dimension
        than another is within them if that is.
    known
        Samples that fit, to begin with; these may lie between the options.
    most
        So often `fits` is asked at most. The best sample so far is returned then.
    """
    return _Search(dimensions, loss_of, fits, known, steps, most).solution()


class _Search:
    """One run of `solve`."""

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        loss_of: LossOf,
        fits: Fits,
        known: Sequence[Sample],
        steps: int,
        most: int,
    ) -> None:
        every = {one.name: options(one, steps) for one in dimensions}
        losses = {name: [loss_of(name, value) for value in values] for name, values in every.items()}
        self._order = sorted(every, key=lambda name: -max(losses[name]))
        self._options = {name: _undominated(values, losses[name]) for name, values in every.items()}
        self._least = {name: values[-1] for name, values in every.items()}
        self._fits, self._left = fits, most
        # of the dimensions from each place on, the sum of their least losses
        smallest = [min(losses[name]) for name in self._order]
        self._rest = [sum(smallest[place:]) for place in range(len(smallest) + 1)]
        self._best, self._loss = dict(self._least), math.inf
        if fits(self._best):
            self._loss = sum(losses[name][-1] for name in every)
        for sample in known:
            self._note(dict(sample), sum(loss_of(name, sample[name]) for name in every))

    def solution(self) -> Solution:
        """Return the best sample; nothing fits where its loss is infinite."""
        is_whole = self._descend(0, dict(self._least), 0.0)
        return Solution({name: self._best[name] for name in self._options}, self._loss, is_whole)

    def _note(self, sample: Mapping[str, Any], loss: float) -> None:
        if loss < self._loss:
            self._best, self._loss = dict(sample), loss

    def _descend(self, place: int, partial: Sample, loss: float) -> bool:
        """Go through the samples that begin as `partial`, and tell whether all were seen that could be better."""
        if place == len(self._order):
            self._note(partial, loss)
            return True
        name = self._order[place]
        for more, value in self._options[name]:
            if loss + more + self._rest[place + 1] >= self._loss:
                break  # the options come by their loss
            if self._left <= 0:
                return False
            self._left -= 1
            step = {**partial, name: value}
            if self._fits(step) and not self._descend(place + 1, step, loss + more):
                return False
        return True


def _undominated(values: Sequence[Any], losses: Sequence[float]) -> list[tuple[float, Any]]:
    """Return (loss, value) by the loss, without those that lose no less than one that leaves less.

    `values` come from what leaves most to what leaves least.
    """
    found: list[tuple[float, Any]] = []
    for loss, value in zip(reversed(losses), reversed(values), strict=True):
        if not found or loss < found[-1][0]:
            found.append((loss, value))
    return found[::-1]
