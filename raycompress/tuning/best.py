"""Keeps only the best model and mask."""

from __future__ import annotations

from raycompress.experiment.objective import Objective
from raycompress.results.journal import Journal
from raycompress.results.store import ExperimentFolder, write_json


class BestKeeper:
    """Promotes a candidate that is better than the best so far, and deletes the one that lost.

    The order makes any kill harmless: the pointer is replaced in one step after the new candidate is whole, and before
    the old one goes.
    """

    def __init__(self, folder: ExperimentFolder, journal: Journal, objective: Objective) -> None:
        self._folder = folder
        self._journal = journal
        self._objective = objective
        self.number: int | None = None
        self.score: float | None = None

    def consider(self, number: int, score: float) -> None:
        """Take the saved candidate of trial `number`: it becomes the best, or it goes."""
        if not self._is_better(number, score):
            self._prune(number)
            return
        loser = self.number
        self.number, self.score = number, score
        bundle = self._folder.candidate(number).relative_to(self._folder.root)
        write_json(self._folder.best_pointer, {"trial": number, "score": score, "bundle": str(bundle)})
        self._folder.link_best(number)
        self._journal.append("promoted", trial=number, score=score)
        if loser is not None:
            self._prune(loser)

    def _is_better(self, number: int, score: float) -> bool:
        if self.number is None or self.score is None:
            return True
        if score == self.score:  # whichever ended first, the same search has the same best
            return number < self.number
        return self._objective.better(score, self.score)

    def _prune(self, number: int) -> None:
        self._folder.remove_candidate(number)
        self._journal.append("pruned", trial=number)
