"""The one searcher that Ray Tune sees.

It numbers the trials, puts the dense model first, tells the proposer of failures as failures, and, with a seed, of
results in the order of the trials, so that the same seed gives the same proposals however fast each trial was.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.search import Searcher

from raycompress.backend.tune.scheduler import RUNG0, TIME
from raycompress.backend.tune.slots import Slots
from raycompress.backend.tune.stop import DriverOnly
from raycompress.config.objective import Objective
from raycompress.results.ranking import Ranking
from raycompress.search.history import SearchHistory
from raycompress.search.proposers.searchers import Proposer, Sample
from raycompress.search.stopping.policies import Scores
from raycompress.states import TrialState


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
    past
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


def repeated(config: Mapping[str, Any], repeat: Repeat) -> dict[str, Any]:
    """Return the config of a repeat: its seed is one of its own even where the experiment has none."""
    seed = config["seed"] if config["seed"] is not None else repeat.number
    script = {**config["config"], "random_seed": seed}
    return {**config, "seed": seed, "config": script, "repeat_of": repeat.of}


class Proposals(DriverOnly, Searcher):
    """The trials of an experiment, one after another.

    Parameters
    ----------
    proposer
        Where samples come from.
    n_samples
        How many samples at most, the dense model not counted.
    baseline
        A sample to run the dense model with, as trial 0; None to leave it out.
    slots
        Each trial is given a free one.
    make_config
        Makes what the trial actor needs of a trial's number and sample; a new object each time.
    lag
        With a seed: proposal `n` knows exactly the results of the trials up to ``n - lag``, and waits for them. None:
        it knows whatever is in.
    past
        What an earlier run has tried: what has ended there is not made again, what had begun is, with its own sample.
    ranking
        Judges what the proposer learns.
    next_repeats
        Called once all samples have ended: says which of them are to be trained again.
    tell
        Called with what the proposer has to say of how the search goes on.
    """

    def __init__(
        self,
        proposer: Proposer,
        *,
        n_samples: int,
        baseline: Sample | None,
        lag: int | None,
        slots: Slots,
        make_config: Callable[[int, Sample], dict[str, Any]],
        history: SearchHistory = SearchHistory(),  # noqa: B008 - it cannot be changed
        ranking: Ranking | None = None,
        tell: Callable[[str], None] = lambda _note: None,
        next_repeats: Callable[[], Sequence[Repeat]] = tuple,
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._tell, self._noted = tell, ""
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
        self._baseline = baseline
        self._lag = lag
        self._make_config = make_config
        self._number_of: dict[str, int] = {}
        self._slots = slots
        self._slot_of: dict[str, int] = {}
        self._scores: defaultdict[int, Scores] = defaultdict(dict)
        self._ended: dict[int, float | None] = {number: trial.score for number, trial in history.taught.items()}
        self._learnt = 0
        if 0 in history.ended:
            self._baseline = None

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the config of the next trial; None: not yet; Tune's FINISHED: no more."""
        no_more: Any = Searcher.FINISHED
        self._skip_what_has_ended()
        if self._baseline is None and self._next is None:
            return self._suggest_repeat(trial_id)
        if self._baseline is None and not self._learn_up_to(self._next):
            return None
        slot = self._slots.take()
        if slot is None:
            return None
        proposal = self._proposal()
        if proposal is None:
            self._slots.give_back(slot)
            return no_more  # type: ignore[no-any-return]
        number, sample = proposal
        self._number_of[trial_id], self._slot_of[trial_id] = number, slot
        return {**self._make_config(number, copy.deepcopy(sample)), "slot": slot}

    def _suggest_repeat(self, trial_id: str) -> dict[str, Any] | None:
        """Return the config of the next repeat, which all samples have to end before; None: not yet."""
        if self._repeats is None:
            if self._slot_of:
                return None
            self._repeats = list(self._next_repeats())
        no_more: Any = Searcher.FINISHED
        if not self._repeats:
            return no_more  # type: ignore[no-any-return]
        slot = self._slots.take()
        if slot is None:
            return None
        repeat = self._repeats.pop(0)
        self._number_of[trial_id], self._slot_of[trial_id] = repeat.number, slot
        config = self._make_config(repeat.number, copy.deepcopy(repeat.sample))
        return {**repeated(config, repeat), "slot": slot}

    def _proposal(self) -> tuple[int, Sample] | None:
        """Return the number of the next trial and what it tries; None where the proposer has no more."""
        if self._baseline is not None:
            sample, self._baseline = self._baseline, None
            return 0, sample
        assert self._next is not None
        if self._next in self._history:
            return self._past_proposal(self._next)
        proposed = self._proposer.propose(self._next)
        number, self._next = self._next, None if proposed is None else next(self._numbers, None)
        return None if proposed is None else (number, proposed)

    def _skip_what_has_ended(self) -> None:
        while self._next in self._ended_before:
            self._past_proposal(self._next)

    def _past_proposal(self, number: int) -> tuple[int, Sample]:
        """Take a proposal of the history: its number and sample."""
        if self._proposer.repeats:
            self._proposer.propose(number)
        self._next = next(self._numbers, None)
        return number, self._history[number].sample

    def _learn_up_to(self, number: int | None) -> bool:
        """Teach the proposer what it may know before proposal `number`; False when it has to wait."""
        if self._lag is None or number is None:
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
            return  # it was told when it was made
        score, judgement = self._ended[number], self._ranking.judged.get(number)
        if score is not None and judgement is not None:
            score = self._ranking.objective.scalar(score, judgement)
        self._proposer.learn(number, score, self._scores.pop(number, {}), judgement)
        if self._proposer.note != self._noted:
            self._noted = self._proposer.note
            if self._noted:
                self._tell(self._noted)
        self._ranking.forget(number)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep an intermediate result for the trial's end."""
        score = None if result.get(RUNG0) else result.get("score")
        if self._repeats is None and score is not None and math.isfinite(score):
            self._scores[self._number_of[trial_id]][result[TIME]] = score

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take the end of a trial; a failed one has no score."""
        number = self._number_of[trial_id]
        self._slots.give_back(self._slot_of.pop(trial_id))
        if number == 0:
            self._take_dense(result)
            return
        if self._repeats is not None:
            return
        score = None if result is None or error or result.get(RUNG0) else result.get("score")
        valid = score is not None and math.isfinite(score)
        self._ended[number] = score if valid else None
        if valid and result is not None:
            self.on_trial_result(trial_id, result)
            if result.get("state", TrialState.FINISHED) == TrialState.FINISHED:
                self._ranking.add(number, result.get("values"), result.get("before"), result.get("after"))
        if self._lag is None and self._dense_known:
            self._learn(number)

    def _take_dense(self, result: dict[str, Any] | None) -> None:
        """Take the dense model's result, and learn of the trials whose worth hangs on it."""
        self._ranking.add_dense((result or {}).get("values"))
        waiting = (
            [] if self._dense_known or self._lag is not None else sorted(set(self._ended) - self._ended_before.keys())
        )
        self._dense_known = True
        for number in waiting:
            self._learn(number)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the truth, and a resumed search is told from it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as `save`."""
