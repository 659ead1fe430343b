"""Proposers of pruning ratios under a budget of multiply-adds: equal training of candidates, equal fine-tuning."""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raycompress import create_compressor
from raycompress.compressors.analysis.imitation import STEPS
from raycompress.compressors.analysis.statistics import recompute_statistics
from raycompress.config.objective import Objective
from raycompress.errors import RaycompressError
from raycompress.forecast.candidates import score_cheaply
from raycompress.forecast.prior import Prior, first_guesses
from raycompress.search.proposers.budget import BudgetProposer
from tests.benchmarks.budgets.subject import ACROSS, HIGH, Counts, Sample, Subject, Trained
from tests.benchmarks.budgets.tables import Record, key, outcome, plot
from tests.benchmarks.compression.networks import NETWORKS, OUTPUTS
from tests.benchmarks.outcome import Outcome
from tests.benchmarks.peers import fastnas, one_shot

BUDGETS = (0.5, 0.25)
METHODS = (
    "dense",
    "uniform",
    "uniform compensated",
    "obs compensated",
    "obs global compensated",
    "tp global",
    "tp isomorphic",
    "fastnas",
    "random",
    "hyperopt",
    "guided",
    "uniform long",
    "random cpu",
    "amc",
)
TRIALS: Mapping[str, tuple[int, ...]] = {"random": (16, 64), "hyperopt": (16, 64), "guided": (1, 4, 16)}
AS_LONG_AS = "guided 16"
"""The row whose CPU seconds `uniform long` and `random cpu` have."""
SPARSITIES = (0.25, 0.5, 0.7, 0.9)
CHEAP = 48
"""Candidates that guided scores before its first trial."""
EPISODES, WARM_UP = 60, 20
"""Of AMC's agent."""
AMC = ("resnet", "mobilenet", "vit")
"""The networks that AMC is tried on; its episodes on the others would take as long as all else together."""


def measure(
    seeds: int,
    say: Callable[[str], None],
    *,
    networks: Sequence[str] = tuple(NETWORKS),
    budgets: Sequence[float] = BUDGETS,
    methods: Sequence[str] = METHODS,
    path: Path | None = None,
    picture: Path | None = None,
) -> Outcome:
    """Let each method search on each network and budget, each seed with a network and data of its own.

    What is in the file at `path` is not measured again; it is written after each method. `picture` is drawn of what is
    left before any fine-tuning.
    """
    torch.set_num_threads(1)
    known: dict[str, Record] = json.loads(path.read_text()) if path is not None and path.exists() else {}
    for seed in range(seeds):
        for network in networks:
            missing = [
                (budget, method)
                for budget in budgets
                for method in methods
                if not all(key(network, budget, row, seed) in known for row in rows_of(method))
            ]
            bench = _Bench(network, seed) if missing else None
            for budget, method in missing:
                assert bench is not None
                for row, record in bench.run(method, budget, known.get(key(network, budget, AS_LONG_AS, seed))).items():
                    known[key(network, budget, row, seed)] = record
                if path is not None:
                    _write(path, known)
                say(f"seed {seed}, {network} at {budget:g}: {method} done")
    places = [(network, budget) for network in networks for budget in budgets]
    if picture is not None:
        plot(known, seeds, places, picture)
    return outcome(known, seeds, places, [row for method in methods for row in rows_of(method)])


def rows_of(method: str) -> list[str]:
    """Return the rows that a method has in the table: one for each number of trials."""
    if method == "amc":
        return ["amc", "amc ratios"]
    return [f"{method} {trials}" for trials in TRIALS[method]] if method in TRIALS else [method]


class _Bench:
    """All methods on one network of one seed; what was trained once is not trained again, but it is counted."""

    def __init__(self, network: str, seed: int) -> None:
        self.subject = Subject(network, seed)
        self._cheap: dict[tuple[Counts, int], Trained] = {}
        self._fastnas: Mapping[float, fastnas.Found] = {}

    def run(self, method: str, budget: float, as_long_as: Record | None) -> dict[str, Record]:
        """Return row -> what was found.

        Parameters
        ----------
        as_long_as
            What was found by the row whose seconds others are given; these have no record without it.
        """
        alone: Mapping[str, Callable[[], Record]] = {
            "dense": self._dense,
            "uniform": lambda: self._one_shot(self.subject, budget),
            "uniform compensated": lambda: self._one_shot(self.subject, budget, compensated=True),
            "obs compensated": lambda: self._one_shot(self._by_error, budget, compensated=True),
            "obs global compensated": lambda: self._one_shot_across(budget),
            "fastnas": lambda: self._found_by_fastnas(budget),
            **{row: lambda: self._torch_pruning(method, budget) for row in one_shot.WAYS},
        }
        if method in alone:
            return {method: alone[method]()}
        if method == "amc":
            return self._amc(budget)
        if method in ("uniform long", "random cpu"):
            if as_long_as is None:
                return {}
            long = self._uniform_long if method == "uniform long" else self._random_cpu
            return {method: long(budget, as_long_as)}
        proposed = {"random": self._random, "hyperopt": self._hyperopt, "guided": self._guided}
        samples, cpu_s, note = proposed[method](budget)
        subject = self._by_error if method == "guided" else self.subject
        return {f"{method} {number}": _winner(subject, samples[:number], cpu_s, note) for number in TRIALS[method]}

    def _dense(self) -> Record:
        accuracy = self.subject.task.accuracy(self.subject.dense, self.subject.task.held_out)
        return {"held_out": accuracy, "epochs": 0, "cpu_s": 0.0}

    @functools.cached_property
    def _by_error(self) -> Subject:
        """The same network as ours is pruned: channels ranked by `group_obs`, trials compensated."""
        return self.subject.ranked_by("group_obs")

    @staticmethod
    def _one_shot(subject: Subject, budget: float, *, compensated: bool = False) -> Record:
        """Prune all groups by one share; the seconds are those without the ranking of channels."""
        started = time.thread_time()
        counts = subject.counts(_uniform(subject, budget))
        subject.small(counts, compensated)
        cpu_s = time.thread_time() - started
        return {**_record(subject.final(counts, compensated), cpu_s), "counts": counts}

    def _one_shot_across(self, budget: float) -> Record:
        """Prune by ``global``: one ranking of the channels of all groups; the seconds are those of the ranking, too."""
        started = time.thread_time()
        subject = self.subject.ranked_by(ACROSS)
        counts = subject.counts_across(budget)
        subject.small(counts, compensated=True)
        cpu_s = time.thread_time() - started
        return {**_record(subject.final(counts, True), cpu_s), "counts": counts}

    def _uniform_long(self, budget: float, as_long_as: Record) -> Record:
        """Fine-tune what uniform pruning leaves, without a search, for the seconds of a whole search and its winner."""
        counts = self.subject.counts(_uniform(self.subject, budget))
        once = self.subject.final(counts)
        epochs = max(Subject.FINAL, round(_seconds(as_long_as) * Subject.FINAL / once.cpu_s))
        found = _record(self.subject.finish(self.subject.small(counts), epochs), 0.0)
        return {**found, "epochs": epochs, "counts": counts}

    def _torch_pruning(self, way: str, budget: float) -> Record:
        subject, started, model = self.subject, time.thread_time(), self.subject.copy()
        most = int(budget * subject.flops(model))
        isomorphic = one_shot.WAYS[way]
        try:
            one_shot.prune(
                model,
                subject.task.dummy,
                subject.flops,
                most,
                outputs=OUTPUTS[subject.network],
                isomorphic=isomorphic,
                most=HIGH,
            )
        except Exception as error:  # noqa: BLE001 - whatever a pruner of others makes of a network
            return _failed(str(error))
        return self._finished(model, time.thread_time() - started)

    def _found_by_fastnas(self, budget: float) -> Record:
        subject = self.subject
        if budget not in self._fastnas:
            asked = fastnas.Asked(
                network=subject.network, seed=subject.seed, state=subject.dense.state_dict(), budgets=BUDGETS
            )
            try:
                self._fastnas = fastnas.search(asked)
            except FileNotFoundError as error:
                return _failed(str(error))
        found = self._fastnas[budget]
        if found["why_not"]:
            return _failed(found["why_not"])
        model = fastnas.fitted(subject.dense, found["state"])
        recompute_statistics(model, subject.inputs)  # its own scores are of models with new ones
        return self._finished(model, found["cpu_s"])

    def _finished(self, model: torch.nn.Module, cpu_s: float) -> Record:
        """Train what another tool has pruned."""
        left = self.subject.flops(model) / self.subject.flops(self.subject.dense)
        return {**_record(self.subject.finish(model), cpu_s), "flops": left}

    def _drawn(self, budget: float) -> Iterator[Sample]:
        """Yield random candidates without an end, the same for each number of them."""
        random = np.random.default_rng(self.subject.seed)
        while True:
            sample = {one.name: float(random.uniform(0, HIGH)) for one in self.subject.dimensions}
            yield self.subject.project(sample, budget)

    def _random(self, budget: float) -> tuple[list[Sample], float, str]:
        return list(itertools.islice(self._drawn(budget), max(TRIALS["random"]))), 0.0, ""

    def _random_cpu(self, budget: float, as_long_as: Record) -> Record:
        """Try random candidates for as many CPU seconds as a search took."""
        samples: list[Sample] = []
        spent: dict[Counts, float] = {}
        for sample in self._drawn(budget):
            counts = self.subject.counts(sample)
            spent[counts] = self.subject.trial(counts).cpu_s
            if samples and sum(spent.values()) > as_long_as["cpu_s"]:
                break
            samples.append(sample)
        return _winner(self.subject, samples, 0.0, f"{len(samples)} trials")

    def _hyperopt(self, budget: float) -> tuple[list[Sample], float, str]:
        from raycompress.config.search_space import SearchSpace
        from raycompress.search.proposers.searchers import make_proposer

        space = SearchSpace(self.subject.dimensions, {})
        proposer = make_proposer("hyperopt", space, objective=Objective.of_score("max"), seed=self.subject.seed)
        return _search(self.subject, proposer, max(TRIALS["hyperopt"]), budget), 0.0, ""

    def _guided(self, budget: float) -> tuple[list[Sample], float, str]:
        subject = self._by_error
        prior, cpu_s = self._prior(budget)

        def project(sample: Sample) -> Sample:
            return subject.project(sample, budget)

        guided = BudgetProposer(
            subject.dimensions,
            prior=prior,
            cost=subject.cost,
            project=project,
            goal="max",
            seed=subject.seed,
            alike=subject.counts,
        )
        samples = _search(subject, guided, max(TRIALS["guided"]), budget)
        return samples, cpu_s, guided.note or f"the prior's advantage is {guided.advantage}"

    def _prior(self, budget: float) -> tuple[Prior, float]:
        """Return what guided knows before its first trial, and the CPU seconds that it took."""
        subject, started = self._by_error, time.thread_time()
        used: dict[tuple[Counts, int], Trained] = {}
        spent = 0.0

        def cheap(sample: Sample, steps: int = STEPS) -> float:
            nonlocal spent
            key = subject.counts(sample), steps
            before = time.thread_time()
            if key not in self._cheap:
                self._cheap[key] = subject.cheaply(*key)
            spent += time.thread_time() - before
            used[key] = self._cheap[key]
            return used[key].accuracy

        def project(sample: Sample) -> Sample:
            return subject.project(sample, budget)

        whole = {one.name: 0.0 for one in subject.dimensions}
        curves = {
            one.name: [(share, cheap({**whole, one.name: share}, 0)) for share in SPARSITIES]
            for one in subject.dimensions
        }
        prior = Prior(cheap(whole, 0), curves)
        first = first_guesses(
            subject.dimensions,
            prior,
            cost=subject.cost,
            project=project,
            goal="max",
            errors=subject.error_curves,
        )
        scored = score_cheaply(
            subject.dimensions,
            first,
            cheap=cheap,
            project=project,
            goal="max",
            number=CHEAP,
            seed=subject.seed,
            alike=subject.counts,
        )
        proposing = time.thread_time() - started - spent
        return Prior(prior.dense, curves, scored), proposing + sum(one.cpu_s for one in used.values())

    def _amc(self, budget: float) -> dict[str, Record]:
        """Let NNI's agent search; what it refitted is trained like every winner.

        It picks channels and refits weights in its own way. So there is a second figure: its ratios alone, with the
        channels and the weights that all others have.
        """
        subject, started = self.subject, time.thread_time()
        if subject.network not in AMC:
            return dict.fromkeys(rows_of("amc"), _failed(f"left out: AMC searches on {', '.join(AMC)} alone"))
        model = subject.copy()
        batches = list(zip(*(part.split(100) for part in subject.task.validation), strict=True))
        arguments = {"flops_ratio": budget, "lbound": 1 - HIGH, "channel_round": 1, "seed": subject.seed}
        arguments |= {"train_episode": EPISODES, "warmup": WARM_UP}
        try:
            found = create_compressor(
                model,
                {"compressor": "amc", "config_list": [{"op_types": ["Conv2d", "Linear"]}]},
                dummy_input=subject.task.dummy,
                evaluator=lambda _loader, model: 100 * subject.task.accuracy(model, subject.task.validation),
                val_loader=batches,
                **arguments,
            )
            found.compress()
            found.apply_speedup()
        except RaycompressError as error:
            return dict.fromkeys(rows_of("amc"), _failed(str(error)))
        cpu_s, counts = time.thread_time() - started, subject.counts_of(model)
        return {
            "amc": {**_record(subject.finish(model), cpu_s), "counts": counts},
            "amc ratios": {**_record(subject.final(counts), cpu_s), "counts": counts},
        }


def _search(subject: Subject, proposer: Any, trials: int, budget: float) -> list[Sample]:
    """Return what a proposer proposed on the budget, after it learnt the result of each trial."""
    samples: list[Sample] = []
    for number in range(trials):
        proposed = proposer.propose(number)
        if proposed is None:  # the budget leaves no other model
            break
        sample = subject.project(proposed, budget)
        score = subject.trial(subject.counts(sample), subject.is_refitted).accuracy
        proposer.learn(number, score, {1: score})
        samples.append(sample)
    return samples


def _winner(subject: Subject, samples: Sequence[Sample], cpu_s: float, note: str) -> Record:
    """Train the best of the trials to the end."""
    counts = [subject.counts(sample) for sample in samples]
    trials = [subject.trial(one, subject.is_refitted) for one in counts]
    best = max(range(len(trials)), key=lambda place: trials[place].accuracy)
    cpu_s += sum({one: trial.cpu_s for one, trial in zip(counts, trials, strict=True)}.values())
    found = {"validation": trials[best].accuracy, "counts": counts[best], "trial": best, "note": note}
    return {**_record(subject.final(counts[best], subject.is_refitted), cpu_s, len(set(counts))), **found}


def _write(path: Path, known: Mapping[str, Record]) -> None:
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(known, indent=1) + "\n")
    aside.replace(path)


def _uniform(subject: Subject, budget: float) -> Sample:
    return subject.project({one.name: 0.5 for one in subject.dimensions}, budget)


def _record(final: Trained, cpu_s: float, epochs: int = 0) -> Record:
    """Return what was found, by a search of `epochs` epochs and `cpu_s` seconds, and by the training at its end."""
    accuracies = {"before": final.before, "one_epoch": final.one_epoch, "held_out": final.accuracy}
    return {**accuracies, "epochs": epochs + Subject.FINAL, "cpu_s": cpu_s, "final_s": final.cpu_s, "note": ""}


def _failed(why: str) -> Record:
    return {"held_out": None, "epochs": 0, "cpu_s": 0.0, "note": why}


def _seconds(record: Record) -> float:
    """Return the CPU seconds of a search and of the training of its winner."""
    found: float = record["cpu_s"] + record["final_s"]
    return found
