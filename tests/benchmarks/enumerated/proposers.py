"""The proposers that are compared: each of the product's, an evolutionary one, and two that search stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import optuna

from raycompress.config.objective import Judgement
from raycompress.search.proposers.searchers import Proposer, Sample, make_proposer
from raycompress.search.stopping.policies import Scores
from tests.benchmarks.enumerated.prior import guided
from tests.benchmarks.enumerated.space import Task
from tests.benchmarks.enumerated.subject import BITS
from tests.benchmarks.enumerated.table import EVERY

_POPULATION = 20
_LOST = 0.01
"""The accuracy that fewer bits of the dense network may cost, where bits are chosen first."""


@dataclass(frozen=True)
class Entry:
    """A proposer that is compared.

    Attributes
    ----------
    make
        Task, seed and number of trials -> the proposer.
    plans
        Whether what it tries first depends on the number of trials: it is then run anew for each number.
    """

    make: Callable[[Task, int, int], Proposer]
    plans: bool = False


def _of_product(name: str) -> Callable[[Task, int, int], Proposer]:
    """Return a maker of the proposer that an experiment file calls `name`."""

    def make(task: Task, seed: int, _trials: int) -> Proposer:
        return make_proposer(name, task.space, objective=task.objective, seed=seed)

    return make


class Nsga2:
    """Optuna's NSGA-II (Deb et al., 2002), which the product does not offer; every dimension is a choice."""

    repeats = False
    note = ""

    def __init__(self, task: Task, seed: int, _trials: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._dimensions = task.space.dimensions
        sampler = optuna.samplers.NSGAIISampler(population_size=_POPULATION, seed=seed)
        self._study = optuna.create_study(directions=["minimize"] * len(task.objective.goals), sampler=sampler)
        self._asked: dict[int, optuna.Trial] = {}

    def propose(self, number: int) -> Sample | None:
        """Return the sample for trial `number`."""
        trial = self._asked[number] = self._study.ask()
        found: Sample = {}
        for one in self._dimensions:
            assert one.choices is not None
            found[one.name] = one.choices[trial.suggest_categorical(one.name, range(len(one.choices)))]
        return found

    def learn(self, number: int, score: float | None, scores: Scores, judgement: Judgement | None = None) -> None:
        """Learn the costs of trial `number`."""
        assert judgement is not None
        self._study.tell(self._asked.pop(number), list(judgement.costs))


class PruneThenQuantize:
    """Searches widths and depth in float for a half of the trials, then quantizes what was found, the best first.

    Of the models that no other beats those are quantized that lie evenly on the front, at equal bits of all layers;
    then, where trials are left, at other bits, and those of the front behind it.
    """

    repeats = False
    note = ""

    def __init__(self, task: Task, seed: int, trials: int) -> None:
        self._task, self._half, self._left = task, trials // 2, trials - trials // 2
        self._float = dict.fromkeys(task.bits, max(BITS))
        self._inner = make_proposer("tpe", task.within(self._float), objective=task.objective, seed=seed)
        self._tried: dict[int, Sample] = {}
        self._found: list[tuple[Sample, Judgement]] = []
        self._queue: Iterator[Sample] | None = None

    def propose(self, number: int) -> Sample | None:
        """Return the sample for trial `number`."""
        if number <= self._half:
            self._tried[number] = {**(self._inner.propose(number) or {}), **self._float}
            return self._tried[number]
        if self._queue is None:
            self._queue = self._quantized()
        return next(self._queue, None)

    def _quantized(self) -> Iterator[Sample]:
        equal = [dict.fromkeys(self._task.bits, bits) for bits in BITS if bits != max(BITS)]
        every = [dict(zip(self._task.bits, bits, strict=True)) for bits in EVERY]
        mixed = [one for one in every if one not in equal and one != self._float]
        for front in fronts(self._found):
            for sample in evenly(front, self._left // len(equal)):
                yield from ({**sample, **bits} for bits in equal)
            for sample in front:
                yield from ({**sample, **bits} for bits in mixed)

    def learn(self, number: int, score: float | None, scores: Scores, judgement: Judgement | None = None) -> None:
        """Learn the result of trial `number`, while widths are searched."""
        if number in self._tried and judgement is not None:
            self._inner.learn(number, score, scores, judgement)
            self._found.append((self._tried[number], judgement))


def fronts(found: Sequence[tuple[Sample, Judgement]]) -> Iterator[list[Sample]]:
    """Yield the samples that no other beats, then those that no other of the rest beats, and so on."""
    left = sorted({judged.costs: (sample, judged) for sample, judged in found}.values(), key=lambda one: one[1].costs)
    while left:
        front = [one for one in left if not any(other.dominates(one[1]) for _, other in left)]
        yield [sample for sample, _ in front]
        left = [one for one in left if one not in front]


def evenly(front: Sequence[Sample], number: int) -> list[Sample]:
    """Return so many samples of a front, or all of them, evenly along it."""
    if number >= len(front):
        return list(front)
    step = (len(front) - 1) / max(number - 1, 1)
    return [front[round(place * step)] for place in range(number)]


class QuantizeThenPrune:
    """Chooses the bits of the smallest dense file that loses at most a point, then searches widths and depth."""

    repeats = False
    note = ""

    def __init__(self, task: Task, seed: int, _trials: int) -> None:
        self._task, self._seed = task, seed
        self._dense: dict[int, Judgement] = {}
        self._inner: Proposer | None = None
        self._chosen: Sample = {}

    def propose(self, number: int) -> Sample | None:
        """Return the sample for trial `number`."""
        if number <= len(EVERY):
            return {**self._task.space.largest(), **dict(zip(self._task.bits, EVERY[number - 1], strict=True))}
        if self._inner is None:
            accuracy = max(-judged.costs[0] for judged in self._dense.values())
            good = [one for one, judged in self._dense.items() if -judged.costs[0] >= accuracy - _LOST]
            best = min(good, key=lambda one: self._dense[one].costs[1])
            self._chosen = dict(zip(self._task.bits, EVERY[best - 1], strict=True))
            space = self._task.within(self._chosen)
            self._inner = make_proposer("tpe", space, objective=self._task.objective, seed=self._seed)
        return {**(self._inner.propose(number) or {}), **self._chosen}

    def learn(self, number: int, score: float | None, scores: Scores, judgement: Judgement | None = None) -> None:
        """Learn the result of trial `number`."""
        assert judgement is not None
        if self._inner is None:
            self._dense[number] = judgement
        else:
            self._inner.learn(number, score, scores, judgement)


ENTRIES: Mapping[str, Entry] = {
    "guided": Entry(guided),
    "random": Entry(_of_product("random")),
    "TPE": Entry(_of_product("tpe")),
    "NSGA-II": Entry(Nsga2),
    "prune, then quantize": Entry(PruneThenQuantize, plans=True),
    "quantize, then prune": Entry(QuantizeThenPrune),
}
"""Row of the table -> proposer. A new one is one entry."""
