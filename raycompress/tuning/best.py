"""Keeps only the best model and mask."""

from __future__ import annotations

from raycompress.errors import BundleError
from raycompress.experiment.objective import Objective
from raycompress.results.journal import Journal
from raycompress.results.record import Experiment as Record
from raycompress.results.store import ExperimentFolder


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
        self._folder.point_to_best(number, score)
        self._journal.append("promoted", trial=number, score=score)
        if loser is not None:
            self._prune(loser)

    def take_up(self, record: Record) -> list[int]:
        """Go on where an earlier run of the search was killed, wherever that was.

        Returns
        -------
        The trials whose model would be the best one, or could be, and is lost: they must be made again.
        """
        saved = {number: trial.score for number, trial in record.records.items() if trial.saved and number}
        scores = {number: score for number, score in sorted(saved.items()) if score is not None}
        lost = []
        pointed = record.best_number
        if pointed in scores and self._is_whole(pointed):
            self.number, self.score = pointed, scores[pointed]
            self._folder.link_best(pointed)
        else:
            self._folder.forget_best()
        for number, score in scores.items():
            if number == self.number:
                continue
            if self._is_whole(number):
                self.consider(number, score)
            elif self._is_better(number, score):
                lost.append(number)
            else:
                self._prune(number)
        self._folder.remove_candidates_but(self.number)
        return lost

    def _is_whole(self, number: int) -> bool:
        try:
            self._folder.check_candidate(number)
        except BundleError:
            return False
        return True

    def _is_better(self, number: int, score: float) -> bool:
        if self.number is None or self.score is None:
            return True
        if score == self.score:  # whichever ended first, the same search has the same best
            return number < self.number
        return self._objective.better(score, self.score)

    def _prune(self, number: int) -> None:
        self._folder.remove_candidate(number)
        self._journal.append("pruned", trial=number)
