"""Keeps only the best model and mask, or the models of a Pareto front."""

from __future__ import annotations

from collections.abc import Mapping

from raycompress.errors import BundleError
from raycompress.experiment.objective import Objective
from raycompress.results.journal import Journal
from raycompress.results.record import Experiment as Record
from raycompress.results.standing import Sizes, Standing
from raycompress.results.store import ExperimentFolder


class BestKeeper:
    """Promotes a candidate that is better than the best so far, and deletes those that are not worth keeping.

    The order makes any kill harmless: the pointer is replaced in one step after the new candidate is whole, and before
    an old one goes.

    Attributes
    ----------
    number
        The trial whose candidate is the best one; None while there is none.
    """

    def __init__(self, folder: ExperimentFolder, journal: Journal, objective: Objective) -> None:
        self._folder = folder
        self._journal = journal
        self._standing = Standing(objective)
        self._saved: set[int] = set()
        self.number: int | None = None

    @property
    def kept(self) -> frozenset[int]:
        """The trials whose candidates are there."""
        return frozenset(self._saved)

    def take_dense(self, values: Mapping[str, float] | None) -> None:
        """Take what was reported of the dense model, which others may have waited for."""
        self._standing.take_dense(values)
        self._settle()

    def consider(
        self, number: int, values: Mapping[str, float], before: Sizes | None = None, after: Sizes | None = None
    ) -> None:
        """Take the saved candidate of trial `number`: it becomes the best, is kept beside it, or goes."""
        self._saved.add(number)
        self._standing.take(number, values, before, after)
        self._settle()

    def take_up(self, record: Record) -> list[int]:
        """Go on where an earlier run of the search was killed, wherever that was.

        Returns
        -------
        The trials whose model would be worth keeping and is lost: they must be made again.
        """
        if record.baseline is not None:
            self._standing.take_dense(record.baseline.values)
        saved = {number: trial for number, trial in sorted(record.records.items()) if trial.saved and number}
        saved = {number: trial for number, trial in saved.items() if trial.score is not None}
        self._saved = {number for number in saved if self._is_whole(number)}
        for number, trial in saved.items():
            self._standing.take(number, trial.values, trial.before, trial.after)
        lost = [number for number in self._standing.ranked if number not in self._saved]
        for number in saved:
            if number not in self._saved:
                self._standing.forget(number)
                if number not in lost:
                    self._prune(number)
        if record.best_number in self._saved:
            self.number = record.best_number
            self._folder.link_best(record.best_number)
        else:
            self._folder.forget_best()
        self._settle()
        self._folder.remove_candidates_but(self._saved)
        return sorted(lost)

    def _settle(self) -> None:
        """Point to the best, and delete what is not worth keeping."""
        ranked = self._standing.ranked
        if ranked and ranked[0] != self.number:
            self.number = ranked[0]
            score = self._standing.objective.score(self._standing.metrics(self.number))
            self._folder.point_to_best(self.number, score or 0.0)
            self._journal.append("promoted", trial=self.number, score=score)
        for number in sorted(self._saved - {*ranked, *self._standing.waiting}):
            self._prune(number)

    def _is_whole(self, number: int) -> bool:
        try:
            self._folder.check_candidate(number)
        except BundleError:
            return False
        return True

    def _prune(self, number: int) -> None:
        self._saved.discard(number)
        self._standing.forget(number)
        self._folder.remove_candidate(number)
        self._journal.append("pruned", trial=number)
