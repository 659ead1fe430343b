"""Which saved models stay on disk: the best one, those of a Pareto front, or those of the finalists."""

from __future__ import annotations

from collections.abc import Mapping

from raycompress.config.objective import Objective, Sizes
from raycompress.errors import BundleError
from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal.journal import Journal
from raycompress.results.ranking import Ranking
from raycompress.results.record import SearchRecord
from raycompress.search.repeats import Finalist, choose


class BestKeeper:
    """Points ``best.json`` to the best candidate so far, and deletes candidates that are no longer needed.

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
        self._ranking = Ranking(objective)  # of those whose candidates are there, without repeats
        self._all = Ranking(objective)
        self._saved: set[int] = set()
        self._repeat_of: dict[int, int] = {}
        self.number: int | None = None

    @property
    def kept(self) -> frozenset[int]:
        """The trials whose candidates are on disk."""
        return frozenset(self._saved)

    @property
    def finalists(self) -> list[int]:
        """The trials to train again with other seeds, the best first; a repeat counts as the trial that it repeats."""
        return list(dict.fromkeys(self._repeat_of.get(number, number) for number in self._ranking.ranked))

    def add_dense(self, values: Mapping[str, float] | None) -> None:
        """Add the metrics reported of the dense model, which relative constraints are judged by."""
        self._ranking.add_dense(values)
        self._all.add_dense(values)
        self._settle()

    def add(
        self,
        number: int,
        values: Mapping[str, float],
        before: Sizes | None = None,
        after: Sizes | None = None,
        *,
        repeat_of: int | None = None,
    ) -> None:
        """Add the saved candidate of trial `number`: it becomes the best, is kept beside it, or is deleted.

        One that trained the sample of another trial again is kept until `conclude`.
        """
        self._saved.add(number)
        self._all.add(number, values, before, after)
        if repeat_of is not None:
            self._repeat_of[number] = repeat_of
            return
        self._ranking.add(number, values, before, after)
        self._settle()

    def restore(self, record: SearchRecord) -> list[int]:
        """Restore the state from the record of an earlier run, and finish a promotion that was interrupted by a kill.

        Returns
        -------
        The trials whose model would be worth keeping and is lost: they must be made again.
        """
        if record.baseline is not None:
            self._ranking.add_dense(record.baseline.values)
            self._all.add_dense(record.baseline.values)
        finished = {
            number: trial for number, trial in sorted(record.records.items()) if number and trial.score is not None
        }
        saved = [number for number, trial in finished.items() if trial.saved]
        self._saved = {number for number in saved if self._is_whole(number)}
        for number, trial in finished.items():
            self._all.add(number, trial.values, trial.before, trial.after)
            if trial.repeat_of is not None:
                self._repeat_of[number] = trial.repeat_of
            # of the repeats that an earlier run of the search has concluded, one is the best
            if number in saved and (trial.repeat_of is None or number == record.best_number):
                self._ranking.add(number, trial.values, trial.before, trial.after)
        repeats = [number for number in saved if number in self._repeat_of]
        lost = [number for number in dict.fromkeys([*self._ranking.ranked, *repeats]) if number not in self._saved]
        for number in saved:
            if number not in self._saved:
                self._forget(number)
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

    def conclude(self) -> None:
        """Choose the best finalist by the mean of its runs, where finalists were repeated."""
        if not self._repeat_of:
            return
        runs = {number: [number] for number in self.finalists}
        for number, of in sorted(self._repeat_of.items()):
            if of in runs:
                runs[of].append(number)
        finalists = [
            Finalist(of, {number: self._all.metrics(number) for number in numbers}) for of, numbers in runs.items()
        ]
        dense = self._all.dense(finalists[0].number)
        verdict = choose(self._all.objective, finalists, dense, self._saved)
        if verdict is None:
            return
        summaries = [
            {
                "trial": one.number,
                "runs": sorted(one.runs),
                "means": {name: value for name, value in one.means.items() if name},
                "spreads": {name: one.spread(name) for name in one.means if name},
            }
            for one in finalists
        ]
        facts = {"chosen": verdict.chosen, "run": verdict.run, "ties": list(verdict.ties), "spread": verdict.spread}
        self._journal.append("repeated", finalists=summaries, **facts)
        self._point_to(verdict.run)
        for number in sorted(self._saved - {verdict.run}):
            self._prune(number)

    def _settle(self) -> None:
        """Point to the best, and delete what is not worth keeping."""
        ranked = self._ranking.ranked
        if ranked:
            self._point_to(ranked[0])
        for number in sorted(self._saved - {*ranked, *self._ranking.waiting, *self._repeat_of}):
            self._prune(number)

    def _point_to(self, number: int) -> None:
        if number != self.number:
            self.number = number
            score = self._all.objective.score(self._all.metrics(number))
            self._folder.point_to_best(number, score or 0.0)
            judged = self._all.judged.get(number)
            self._journal.append("promoted", trial=number, score=score, feasible=judged is None or judged.is_feasible)

    def _is_whole(self, number: int) -> bool:
        try:
            self._folder.check_candidate(number)
        except BundleError:
            return False
        return True

    def _prune(self, number: int) -> None:
        self._forget(number)
        self._folder.remove_candidate(number)
        self._journal.append("pruned", trial=number)

    def _forget(self, number: int) -> None:
        self._saved.discard(number)
        self._ranking.forget(number)
