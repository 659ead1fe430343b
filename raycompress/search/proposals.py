"""The trials of a search, one after another.

They are numbered, the dense model's comes first, the proposer learns of failures as failures, and, with a seed, of
results in the order of the trials, so that the same seed gives the same proposals however fast each trial was.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from raycompress.config.objective import Objective, Sizes
from raycompress.results.ranking import Ranking
from raycompress.search.history import SearchHistory
from raycompress.search.proposers.searchers import Proposer
from raycompress.search.stopping.policies import Scores
from raycompress.search.trials import Sample, TrialRequest


@dataclass(frozen=True)
class Repeat:
    """A trial that trains the sample of another one again, with another seed."""

    number: int
    of: int
    sample: Sample


def repeats_due(
    finalists: Sequence[int], times: int, history: Mapping[int, tuple[int, bool]], first: int
) -> list[tuple[int, int]]:
    """Return the number of each trial that trains a finalist again, and that finalist's.

    Parameters
    ----------
    times
        How often each is trained, its first trial included.
    history
        Those of an earlier run of the search, and whether each has ended: one that has not keeps its number.
    first
        The number of the first new one.
    """
    fresh, due = itertools.count(first), []
    for finalist in finalists:
        begun = [number for number, (of, is_ended) in sorted(history.items()) if of == finalist and not is_ended]
        missing = times - 1 - sum(of == finalist and is_ended for of, is_ended in history.values())
        due += [(number, finalist) for number in itertools.islice(itertools.chain(begun, fresh), max(0, missing))]
    return due


def repeated(trial: TrialRequest, repeat: Repeat) -> TrialRequest:
    """Return the request of a repeat: its seed is one of its own even where the experiment has none."""
    seed = trial.seed if trial.seed is not None else repeat.number
    return replace(trial, seed=seed, config={**trial.config, "random_seed": seed}, repeat_of=repeat.of)


class Proposals:
    """The trials of an experiment, one after another.

    Parameters
    ----------
    proposer
        Where samples come from.
    n_samples
        How many samples at most, the dense model not counted.
    baseline
        A sample to run the dense model with, as trial 0; None to leave it out.
    lag
        With a seed: proposal `n` knows exactly the results of the trials up to ``n - lag``, and waits for them. None:
        it knows whatever is in.
    make_request
        Makes what is to be run of a trial's number and sample; a new object each time.
    history
        What an earlier run has tried: what has ended there is not made again, what had begun is, with its own sample.
    ranking
        Judges what the proposer learns.
    notify
        Called with what the proposer has to say of how the search goes on.
    next_repeats
        Called once all samples have ended: returns which of them are to be trained again.
    """

    def __init__(
        self,
        proposer: Proposer,
        *,
        n_samples: int,
        baseline: Sample | None,
        lag: int | None,
        make_request: Callable[[int, Sample], TrialRequest],
        history: SearchHistory = SearchHistory(),  # noqa: B008 - it cannot be changed
        ranking: Ranking | None = None,
        notify: Callable[[str], None] = lambda _note: None,
        next_repeats: Callable[[], Sequence[Repeat]] = tuple,
    ) -> None:
        self._notify, self._noted = notify, ""
        self._ranking = ranking or Ranking(Objective.of_score("max"))
        self._dense_known = baseline is None or 0 in history.ended or not self._ranking.objective.needs_dense_result
        self._history = history.trials
        self._ended_before = history.ended
        self._proposer = proposer
        fresh = (number for number in itertools.count(1) if number not in history.repeats)
        self._numbers = itertools.islice(fresh, n_samples)
        self._gaps = frozenset(history.repeats)  # numbers that are no samples'
        self._next_repeats = next_repeats
        self._repeats: list[Repeat] | None = None
        self._next: int | None = next(self._numbers, None)
        self._baseline = None if 0 in history.ended else baseline
        self._lag = lag
        self._make_request = make_request
        self._running: set[int] = set()
        self._scores: defaultdict[int, Scores] = defaultdict(dict)
        self._ended: dict[int, float | None] = {number: trial.score for number, trial in history.results.items()}
        self._learnt = 0

    @property
    def is_over(self) -> bool:
        """Whether all trials have been proposed and have ended."""
        return not self._running and self._baseline is None and self._next is None and self._repeats == []

    def propose(self) -> TrialRequest | None:
        """Return the next trial; None where it has to wait for others, or where there is no more."""
        self._skip_what_has_ended()
        if self._baseline is None and self._next is not None and not self._learn_up_to(self._next):
            return None
        proposal = self._proposal()
        if proposal is None:
            return self._propose_repeat()
        number, sample = proposal
        self._running.add(number)
        return self._make_request(number, copy.deepcopy(sample))

    def _propose_repeat(self) -> TrialRequest | None:
        """Return the next repeat, which all samples have to end before; None where it waits, or there is no more."""
        if self._repeats is None:
            if self._running:
                return None
            self._repeats = list(self._next_repeats())
        if not self._repeats:
            return None
        repeat = self._repeats.pop(0)
        self._running.add(repeat.number)
        return repeated(self._make_request(repeat.number, copy.deepcopy(repeat.sample)), repeat)

    def _proposal(self) -> tuple[int, Sample] | None:
        """Return the number of the next trial and what it tries; None where the proposer has no more."""
        if self._baseline is not None:
            sample, self._baseline = self._baseline, None
            return 0, sample
        if self._next is None:
            return None
        if self._next in self._history:
            return self._past_proposal(self._next)
        proposed = self._proposer.propose(self._next)
        if proposed is None:
            self._pass_on_note()
        number, self._next = self._next, None if proposed is None else next(self._numbers, None)
        return None if proposed is None else (number, proposed)

    def _skip_what_has_ended(self) -> None:
        while self._next in self._ended_before:
            self._past_proposal(self._next)

    def _past_proposal(self, number: int) -> tuple[int, Sample]:
        """Return a proposal of the history: its number and sample."""
        if self._proposer.repeats:
            self._proposer.propose(number)
        self._next = next(self._numbers, None)
        return number, self._history[number].sample

    def _learn_up_to(self, number: int) -> bool:
        """Teach the proposer what it may know before proposal `number`; False when it has to wait."""
        if self._lag is None:
            return True
        if not self._dense_known:
            return number <= self._lag
        while self._learnt < number - self._lag:
            if self._learnt + 1 not in self._gaps:
                if self._learnt + 1 not in self._ended:
                    return False
                self._learn(self._learnt + 1)
            self._learnt += 1
        return True

    def _learn(self, number: int) -> None:
        if number in self._ended_before:
            return  # the proposer knew it when it was made
        score, judgement = self._ended[number], self._ranking.judged.get(number)
        if score is not None and judgement is not None:
            score = self._ranking.objective.scalar(score, judgement)
        self._proposer.learn(number, score, self._scores.pop(number, {}), judgement)
        self._pass_on_note()
        self._ranking.forget(number)

    def _pass_on_note(self) -> None:
        """Tell the user what the proposer has found, where that has changed."""
        if self._proposer.note != self._noted:
            self._noted = self._proposer.note
            if self._noted:
                self._notify(self._noted)

    def add_result(self, number: int, step: int, score: float | None) -> None:
        """Keep a result for the trial's end: what it is worth after `step` iterations."""
        if self._repeats is None and score is not None and math.isfinite(score):
            self._scores[number][step] = score

    def add_end(
        self,
        number: int,
        score: float | None,
        step: int = 0,
        *,
        values: Mapping[str, float] | None = None,
        sizes: tuple[Sizes | None, Sizes | None] | None = None,
    ) -> None:
        """Take the end of a trial.

        Parameters
        ----------
        score
            What it reported last; None where it has failed.
        step
            After how many iterations.
        values
            All that it reported.
        sizes
            Of the dense and of the saved model, each None where it is not known; None for a trial that was ended early,
            which cannot be judged.
        """
        self._running.discard(number)
        if number == 0:
            self._add_dense(values)
            return
        if self._repeats is not None:
            return
        valid = score is not None and math.isfinite(score)
        self._ended[number] = score if valid else None
        if valid:
            self.add_result(number, step, score)
            if sizes is not None and values is not None:
                self._ranking.add(number, values, *sizes)
        if self._lag is None and self._dense_known:
            self._learn(number)

    def _add_dense(self, values: Mapping[str, float] | None) -> None:
        """Take the dense model's result, and learn of the trials whose worth hangs on it."""
        self._ranking.add_dense(values)
        is_late = self._lag is None and not self._dense_known
        self._dense_known = True
        if is_late:
            for number in sorted(set(self._ended) - self._ended_before.keys()):
                self._learn(number)
