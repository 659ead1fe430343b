"""What makes one trial better than another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

Key = TypeVar("Key")


@dataclass(frozen=True)
class Objective:
    """The goal of a search: the ``max`` or the ``min`` of the first number that a trial reports."""

    goal: Literal["max", "min"]

    def better(self, score: float, than: float) -> bool:
        """Tell whether `score` is strictly better than another one; NaN never is, and anything is better than NaN."""
        if than != than:
            return score == score
        return score > than if self.goal == "max" else score < than

    def best(self, scores: Iterable[tuple[Key, float]]) -> tuple[Key, float] | None:
        """Return the pair of the best score, of equal ones the first; None where there are none but NaN."""
        best: tuple[Key, float] | None = None
        for key, score in scores:
            if score == score and (best is None or self.better(score, best[1])):
                best = (key, score)
        return best
