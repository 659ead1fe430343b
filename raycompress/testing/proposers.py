"""What a proposer must do; subclass `ProposerSuite`."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from raycompress.catalog.proposers import PROPOSERS
from raycompress.config.dimension import Dimension
from raycompress.config.objective import Bound, Goal, Judgement, Objective
from raycompress.config.search_space import SearchSpace
from raycompress.search.history import PastTrial, SearchHistory
from raycompress.search.proposers.searchers import Proposer, Sample, make_proposer
from raycompress.testing.lightness import heavy_imports

SPACE = SearchSpace(
    (
        Dimension("conv/1.sparsity", "float", 0.1, 0.9),
        Dimension("lr", "float", 1e-4, 1e-1, log=True),
        Dimension("epochs", "int", 1, 3),
        Dimension("schedule", "choice", choices=([1, 2], [3], "cosine")),
    ),
    {},
)
"""One dimension of each kind; a name with a slash, choices that are lists."""


class ProposerSuite:
    """Tests of a proposer.

    Attributes
    ----------
    proposer
        Its name.
    options
        What `raycompress.search.proposers.searchers.make_proposer` takes beside.
    is_seeded
        Whether equal seeds give equal proposals, and other seeds others.
    """

    proposer: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    is_seeded: ClassVar[bool] = True

    def make(
        self,
        space: SearchSpace = SPACE,
        objective: Objective | None = None,
        seed: int | None = 0,
        history: SearchHistory = SearchHistory(),  # noqa: B008 - it cannot be changed
    ) -> Proposer:
        """Return a new one."""
        objective = objective or Objective.of_score("max")
        return make_proposer(self.proposer, space, objective=objective, seed=seed, history=history, **self.options)

    def some(self, proposer: Proposer, count: int = 6, first: int = 1) -> list[Sample]:
        """Let it propose some samples, and teach it the score of each."""
        samples = []
        for number in range(first, first + count):
            sample = proposer.propose(number)
            assert sample is not None
            samples.append(sample)
            proposer.learn(number, _score(sample), {}, Judgement((-_score(sample),)))
        return samples

    def test_its_entry_is_read_without_heavy_libraries(self) -> None:
        """A command that only asks for names must not wait for torch or Ray."""
        assert heavy_imports("raycompress.catalog.proposers:PROPOSERS", self.proposer) == []

    def test_its_entry_has_a_summary(self) -> None:
        """For people who choose one."""
        (entry,) = PROPOSERS.find(self.proposer)
        assert entry.summary.endswith(".") and "\n" not in entry.summary

    def test_it_has_the_attributes_of_a_proposer(self) -> None:
        """``repeats`` is a bool, ``note`` a text."""
        proposer = self.make()
        assert isinstance(proposer.repeats, bool) and isinstance(proposer.note, str)

    def test_samples_are_in_the_space(self) -> None:
        """Every dimension has a value of its range, a plain one that a journal can hold."""
        for sample in self.some(self.make(), count=12):
            assert list(sample) == [dimension.name for dimension in SPACE.dimensions]
            assert json.loads(json.dumps(sample)) == sample
            for dimension in SPACE.dimensions:
                _check(dimension, sample[dimension.name])

    def test_equal_seeds_give_equal_proposals(self) -> None:
        """And another seed gives others."""
        if not self.is_seeded:
            pytest.skip("it says that it is not seeded")
        first, second, other = (self.some(self.make(seed=seed)) for seed in (0, 0, 1))
        assert first == second != other

    def test_it_works_without_a_seed(self) -> None:
        """A search need not have one."""
        assert len(self.some(self.make(seed=None))) == 6

    def test_trials_run_in_parallel_and_end_in_any_order(self) -> None:
        """It proposes before it has learnt of what it proposed, and learns in the order in which trials end."""
        proposer = self.make()
        running: dict[int, Sample] = {}
        for number in range(1, 13):
            sample = proposer.propose(number)
            assert sample is not None
            running[number] = sample
            if len(running) == 4:
                ended = sorted(running)[number % 4]
                proposer.learn(ended, _score(running.pop(ended)), {})

    def test_failed_and_early_ended_trials_are_learnt_of(self) -> None:
        """A failed trial has no score; one that was ended early has its scores until then."""
        proposer = self.make()
        for number in range(1, 4):
            assert proposer.propose(number) is not None
        proposer.learn(1, None, {})
        proposer.learn(2, 0.5, {1: 0.2, 2: 0.5})
        proposer.learn(3, 0.7, {1: 0.7}, Judgement((-0.7,)))
        assert proposer.propose(4) is not None

    def test_several_objectives_and_constraints(self) -> None:
        """A judgement has a cost for each objective, all to be small, and an excess for each constraint."""
        goals = (Goal("accuracy", "max"), Goal("params", "min"))
        objective = Objective(goals, (Bound("flops", "max_ratio", 0.5),))
        proposer = self.make(objective=objective)
        for number in range(1, 8):
            sample = proposer.propose(number)
            assert sample is not None
            costs = (-_score(sample), float(number))
            proposer.learn(number, _score(sample), {}, Judgement(costs, (0.1 * (number % 2),)))

    def test_a_resumed_search_goes_on(self) -> None:
        """One that repeats proposes the past once more; another is handed the past, and proposes something new."""
        before = self.make()
        past = self.some(before, count=5)
        trials = {number: PastTrial(sample, True, _score(sample)) for number, sample in enumerate(past, 1)}
        after = self.make(history=SearchHistory(trials))
        if after.repeats:
            assert [after.propose(number) for number in range(1, 6)] == past
        sample = after.propose(6)
        assert sample is not None and sample not in past
        after.learn(6, _score(sample), {})

    def test_a_proposal_is_the_callers(self) -> None:
        """A caller that changes a sample changes nothing of the next ones."""
        untouched = self.some(self.make())
        proposer, changed = self.make(copy.deepcopy(SPACE)), []
        for number in range(1, 7):
            sample = proposer.propose(number)
            assert sample is not None
            changed.append(json.loads(json.dumps(sample)))
            score = _score(sample)
            if isinstance(sample["schedule"], list):
                sample["schedule"].append(9)
            proposer.learn(number, score, {}, Judgement((-score,)))
        assert changed == untouched or not self.is_seeded


def _score(sample: Sample) -> float:
    sparsity, lr, epochs = (float(sample[name]) for name in ("conv/1.sparsity", "lr", "epochs"))
    return -abs(sparsity - 0.3) - abs(math.log10(lr) + 2) - abs(epochs - 2)


def _check(dimension: Dimension, value: Any) -> None:
    if dimension.choices is not None:
        assert value in dimension.choices
        return
    assert dimension.low is not None and dimension.high is not None
    assert type(value) is (int if dimension.kind == "int" else float), dimension.name
    assert dimension.low <= value <= dimension.high, dimension.name
