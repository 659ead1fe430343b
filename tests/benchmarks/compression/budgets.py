"""Proposers of pruning ratios under a budget of multiply-adds: equal training of candidates, equal fine-tuning."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raycompress import create_compressor
from raycompress.compressors.analysis.imitation import STEPS
from raycompress.config.objective import Objective
from raycompress.errors import RaycompressError
from raycompress.forecast.prior import Prior, first_guesses, score_cheaply
from raycompress.search.proposers.budget import BudgetProposer
from tests.benchmarks.compression.budgeted import HIGH, NETWORKS, Counts, Sample, Subject, Trained
from tests.benchmarks.compression.pruned import DUMMY
from tests.benchmarks.outcome import Outcome, Target

BUDGETS = (0.5, 0.25)
METHODS = ("dense", "uniform", "random", "hyperopt", "amc", "guided")
TRIALS: Mapping[str, tuple[int, ...]] = {"random": (16, 64), "hyperopt": (16, 64), "guided": (1, 4, 16)}
SPARSITIES = (0.25, 0.5, 0.7, 0.9)
CHEAP = 48
"""Candidates that guided scores before its first trial."""
EPISODES, WARM_UP = 60, 20
"""Of AMC's agent."""

Record = dict[str, Any]
"""What a method found: held_out, epochs, cpu_s; and for whoever looks closer, counts and validation."""


def measure(
    seeds: int,
    say: Callable[[str], None],
    *,
    networks: Sequence[str] = tuple(NETWORKS),
    budgets: Sequence[float] = BUDGETS,
    methods: Sequence[str] = METHODS,
    path: Path | None = None,
) -> Outcome:
    """Let each method search on each network and budget, each seed with a network and data of its own.

    What is in the file at `path` is not measured again; it is written after each method.
    """
    torch.set_num_threads(1)
    known: dict[str, Record] = json.loads(path.read_text()) if path is not None and path.exists() else {}
    for seed in range(seeds):
        for network in networks:
            missing = [
                (budget, method)
                for budget in budgets
                for method in methods
                if not all(_key(network, budget, row, seed) in known for row in rows_of(method))
            ]
            bench = _Bench(network, seed) if missing else None
            for budget, method in missing:
                assert bench is not None
                for row, record in bench.run(method, budget).items():
                    known[_key(network, budget, row, seed)] = record
                if path is not None:
                    _write(path, known)
                say(f"seed {seed}, {network} at {budget:g}: {method} done")
    return _outcome(known, seeds, networks, budgets, methods)


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

    def run(self, method: str, budget: float) -> dict[str, Record]:
        """Return row -> what was found."""
        if method == "dense":
            accuracy = self.subject.task.accuracy(self.subject.dense, self.subject.task.held_out)
            return {"dense": {"held_out": accuracy, "epochs": 0, "cpu_s": 0.0}}
        if method == "amc":
            return self._amc(budget)
        proposed = {
            "uniform": self._uniform,
            "random": self._random,
            "hyperopt": self._hyperopt,
            "guided": self._guided,
        }
        samples, cpu_s, note = proposed[method](budget)
        if method == "uniform":
            return {method: self._winner(samples, cpu_s, note)}
        return {f"{method} {number}": self._winner(samples[:number], cpu_s, note) for number in TRIALS[method]}

    def _winner(self, samples: Sequence[Sample], cpu_s: float, note: str) -> Record:
        """Train the best of the trials to the end."""
        counts = [self.subject.counts(sample) for sample in samples]
        trials = [self.subject.trial(one) for one in counts]
        best = max(range(len(trials)), key=lambda place: trials[place].accuracy)
        final = self.subject.final(counts[best])
        return {
            "held_out": final.accuracy,
            "epochs": len(set(counts)) + self.subject.FINAL,
            "cpu_s": cpu_s + sum({one: trial.cpu_s for one, trial in zip(counts, trials, strict=True)}.values()),
            "validation": trials[best].accuracy,
            "counts": counts[best],
            "trial": best,
            "note": note,
        }

    def _uniform(self, budget: float) -> tuple[list[Sample], float, str]:
        return [self.subject.project({one.name: 0.5 for one in self.subject.dimensions}, budget)], 0.0, ""

    def _random(self, budget: float) -> tuple[list[Sample], float, str]:
        random = np.random.default_rng(self.subject.seed)
        samples = [
            {one.name: float(random.uniform(0, HIGH)) for one in self.subject.dimensions}
            for _ in range(max(TRIALS["random"]))
        ]
        return [self.subject.project(sample, budget) for sample in samples], 0.0, ""

    def _hyperopt(self, budget: float) -> tuple[list[Sample], float, str]:
        from raycompress.config.search_space import SearchSpace
        from raycompress.search.proposers.searchers import make_proposer

        space = SearchSpace(self.subject.dimensions, {})
        proposer = make_proposer("hyperopt", space, objective=Objective.of_score("max"), seed=self.subject.seed)
        return self._search(proposer, max(TRIALS["hyperopt"]), budget), 0.0, ""

    def _guided(self, budget: float) -> tuple[list[Sample], float, str]:
        subject = self.subject
        prior, cpu_s = self._prior(budget)

        def project(sample: Sample) -> Sample:
            return subject.project(sample, budget)

        guided = BudgetProposer(
            subject.dimensions, prior=prior, cost=subject.cost, project=project, goal="max", seed=subject.seed
        )
        samples = self._search(guided, max(TRIALS["guided"]), budget)
        return samples, cpu_s, guided.note or f"the prior's advantage is {guided.advantage}"

    def _search(self, proposer: Any, trials: int, budget: float) -> list[Sample]:
        samples = []
        for number in range(trials):
            sample = self.subject.project(proposer.propose(number), budget)
            score = self.subject.trial(self.subject.counts(sample)).accuracy
            proposer.learn(number, score, {1: score})
            samples.append(sample)
        return samples

    def _prior(self, budget: float) -> tuple[Prior, float]:
        """Return what guided knows before its first trial, and the CPU seconds that it took."""
        subject = self.subject
        used: dict[tuple[Counts, int], Trained] = {}

        def cheap(sample: Sample, steps: int = STEPS) -> float:
            key = subject.counts(sample), steps
            if key not in self._cheap:
                self._cheap[key] = subject.cheaply(*key)
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
        first = first_guesses(subject.dimensions, prior, cost=subject.cost, project=project, goal="max")
        scored = score_cheaply(
            subject.dimensions, first, cheap=cheap, project=project, goal="max", number=CHEAP, seed=subject.seed
        )
        return Prior(prior.dense, curves, scored), sum(one.cpu_s for one in used.values())

    def _amc(self, budget: float) -> dict[str, Record]:
        """Let NNI's agent search; what it refitted is trained like every winner.

        It picks channels and refits weights in its own way. So there is a second figure: its ratios alone, with the
        channels and the weights that all others have.
        """
        subject, started = self.subject, time.thread_time()
        model = subject.copy()
        batches = list(zip(*(part.split(100) for part in subject.task.validation), strict=True))
        arguments = {"flops_ratio": budget, "lbound": 1 - HIGH, "channel_round": 1, "seed": subject.seed}
        arguments |= {"train_episode": EPISODES, "warmup": WARM_UP}
        try:
            found = create_compressor(
                model,
                {"compressor": "amc", "config_list": [{"op_types": ["Conv2d", "Linear"]}]},
                dummy_input=DUMMY,
                evaluator=lambda _loader, model: 100 * subject.task.accuracy(model, subject.task.validation),
                val_loader=batches,
                **arguments,
            )
            found.compress()
            found.apply_speedup()
        except RaycompressError as error:
            failed: Record = {"held_out": None, "epochs": 0, "cpu_s": 0.0, "note": str(error)}
            return dict.fromkeys(rows_of("amc"), failed)
        cpu_s, counts = time.thread_time() - started, subject.counts_of(model)
        effort: Record = {"epochs": subject.FINAL, "cpu_s": cpu_s, "counts": counts, "note": ""}
        return {
            "amc": {"held_out": subject.finish(model).accuracy, **effort},
            "amc ratios": {"held_out": subject.final(counts).accuracy, **effort},
        }


def _write(path: Path, known: Mapping[str, Record]) -> None:
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(known, indent=1) + "\n")
    aside.replace(path)


def _key(network: str, budget: float, row: str, seed: int) -> str:
    return f"{network} {budget:g} {row} {seed}"


def _outcome(
    known: Mapping[str, Record], seeds: int, networks: Sequence[str], budgets: Sequence[float], methods: Sequence[str]
) -> Outcome:
    places = [(network, budget) for network in networks for budget in budgets]
    names = [row for method in methods for row in rows_of(method)]
    found = {
        (row, place): [
            record["held_out"]
            for seed in range(seeds)
            if (record := known.get(_key(*place, row, seed), {})).get("held_out") is not None
        ]
        for row in names
        for place in places
    }
    rows = [
        [row, *(_cell(found[row, place]) for place in places), *_effort(known, row, seeds, places)] for row in names
    ]
    return Outcome(
        f"Held-out accuracy under a budget of multiply-adds, {seeds} seeds: mean and standard deviation",
        ["method", *(f"{network} {budget:g}" for network, budget in places), "epochs", "CPU s"],
        rows,
        targets=_targets(found, names, places),
        notes=[
            "epochs: one for each trial and six for the winner; CPU s: of the search, cheap scores too",
            "amc refits weights by least squares; amc ratios: its ratios, with the channels that all others take",
            *_failures(known),
        ],
        raw=dict(known),
    )


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.mean(values):.3f} +- {statistics.stdev(values) if len(values) > 1 else 0:.3f}"


def _effort(known: Mapping[str, Record], row: str, seeds: int, places: Sequence[tuple[str, float]]) -> list[str]:
    records = [known[key] for place in places for seed in range(seeds) if (key := _key(*place, row, seed)) in known]
    if not records:
        return ["-", "-"]
    return [f"{statistics.mean(record[name] for record in records):.0f}" for name in ("epochs", "cpu_s")]


def _targets(
    found: Mapping[tuple[str, tuple[str, float]], list[float]],
    names: Sequence[str],
    places: Sequence[tuple[str, float]],
) -> list[Target]:
    """What guided loses against the best of the others with 16 trials, and against 16 random ones with its first."""
    targets = []
    for place in places:
        means = {row: statistics.mean(found[row, place]) for row in names if found[row, place]}
        others = {row: mean for row, mean in means.items() if row != "dense" and not row.startswith("guided")}
        where = f"{place[0]} at {place[1]:g}"
        if "guided 16" in means and others:
            best = max(others, key=others.__getitem__)
            lost = others[best] - means["guided 16"]
            targets.append(
                Target(f"{where}: accuracy that guided 16 loses against the best, {best}", lost, 0.0, least=-1)
            )
        if "guided 1" in means and "random 16" in means:
            lost = means["random 16"] - means["guided 1"]
            targets.append(Target(f"{where}: accuracy that guided 1 loses against random 16", lost, 0.0, least=-1))
    return targets


def _failures(known: Mapping[str, Record]) -> list[str]:
    """Tell, once for each network, budget and method, why there is no figure."""
    whys = {
        key.rsplit(" ", 1)[0]: (record["note"].splitlines() or [""])[0]
        for key, record in known.items()
        if record["held_out"] is None
    }
    return [f"{where}: {why}" for where, why in whys.items()]
