"""``python -m tests.benchmarks``: run the benchmarks, print the tables, write bench_results/<date>.json."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from tests.benchmarks import ROOT, controller, overhead, resuming, scaling, startup
from tests.benchmarks.budgets import methods
from tests.benchmarks.compression import (
    compensated,
    distilled,
    fronts,
    graph,
    latency,
    networks,
    predicted,
    stored,
    tied,
    training,
)
from tests.benchmarks.deployment import section as deployment
from tests.benchmarks.enumerated import searches
from tests.benchmarks.outcome import Outcome, describe_machine
from tests.benchmarks.processes import CommandFailed

SECTIONS = (
    "startup",
    "overhead",
    "controller",
    "resuming",
    "scaling",
    "tied",
    "budgets",
    "enumerated",
    "distilled",
    "compensated",
    "importances",
    "fronts",
    "latency",
    "predicted",
    "stored",
    "training",
    "graph",
    "deployment",
)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections to run; all by default")
    parser.add_argument("--trials", nargs="+", type=int, default=[16, 64], help="overhead: numbers of trials")
    parser.add_argument("--repeats", type=int, default=3, help="overhead: runs of each way")
    parser.add_argument(
        "--ways", nargs="+", choices=list(overhead.ways()), help="overhead: ways to run; all by default"
    )
    parser.add_argument("--empty-trials", type=int, default=2000, help="controller: number of trials")
    parser.add_argument("--at-once", type=int, default=16, help="controller: trials at a time")
    parser.add_argument("--ended-trials", type=int, default=1000, help="resuming: trials that have ended")
    parser.add_argument("--read-trials", type=int, default=10_000, help="resuming: trials of the journal that is read")
    parser.add_argument("--slots", nargs="+", type=int, default=[2, 8, 32, 128], help="scaling: trials at a time")
    parser.add_argument("--sleep", type=float, default=20.0, help="scaling: seconds of a trial")
    parser.add_argument("--starts", type=int, default=15, help="startup: runs of each command")
    parser.add_argument("--seeds", type=int, default=3, help="tied, fronts: networks")
    parser.add_argument(
        "--budget-seeds",
        type=int,
        default=5,
        help="budgets, compensated, importances, distilled: networks of each kind",
    )
    parser.add_argument("--search-seeds", type=int, default=10, help="enumerated: searches by each proposer")
    parser.add_argument("--networks", nargs="+", choices=list(networks.NETWORKS), default=list(networks.NETWORKS))
    parser.add_argument("--budgets", nargs="+", type=float, default=list(methods.BUDGETS), help="budgets: FLOPs")
    parser.add_argument("--methods", nargs="+", choices=methods.METHODS, default=methods.METHODS)
    parser.add_argument("--known", type=Path, help="budgets: JSON file to go on with; written as it runs")
    parser.add_argument("--picture", type=Path, help="budgets: file of the plot of accuracies before any fine-tuning")
    parser.add_argument("--passes", type=int, default=5, help="latency: measurements of 30 passes")
    parser.add_argument("--seen", type=int, default=40, help="predicted: networks that are timed to predict others")
    parser.add_argument("--unseen", type=int, default=30, help="predicted, stored: networks that are predicted")
    parser.add_argument("--steps", type=int, default=5, help="training: steps of each model")
    parser.add_argument("--blocks", nargs="+", type=int, default=list(graph.DEPTHS), help="graph: depths")
    parser.add_argument("--output", type=Path, default=ROOT / "bench_results", help="folder of the JSON file")
    return parser.parse_args(argv)


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def run_section(name: str, options: argparse.Namespace) -> Outcome:
    say(f"{name} ...")
    if name == "startup":
        return startup.measure(options.starts, say)
    if name == "overhead":
        return overhead.measure(sorted(set(options.trials)), options.repeats, options.ways, say)
    if name == "resuming":
        return resuming.measure(options.ended_trials, options.read_trials, say)
    if name == "scaling":
        return scaling.measure(options.slots, options.sleep, say)
    if name == "tied":
        return tied.measure(options.seeds, say)
    if name == "budgets":
        return methods.measure(
            options.budget_seeds,
            say,
            networks=options.networks,
            budgets=options.budgets,
            methods=options.methods,
            path=options.known or options.output / "budgets.json",
            picture=options.picture,
        )
    if name == "enumerated":
        return searches.measure(options.search_seeds, say)
    if name == "distilled":
        return distilled.measure(options.budget_seeds, say, options.networks)
    if name == "compensated":
        return compensated.measure(options.budget_seeds, say, options.networks)
    if name == "importances":
        return compensated.measure_choices(options.budget_seeds, say, options.networks)
    if name == "fronts":
        return fronts.measure(options.seeds, say, [one for one in options.networks if one in fronts.NETWORKS])
    if name == "graph":
        return graph.measure(options.blocks, say)
    if name == "deployment":
        return deployment.measure(options.output / "deployment.jsonl", say)
    if name == "latency":
        return latency.measure(options.passes, say)
    if name == "predicted":
        known = [one for one in options.networks if one in predicted.NETWORKS]
        return predicted.measure(options.seen, options.unseen, known, say)
    if name == "stored":
        return stored.measure(options.unseen, list(stored.CASES), say)
    if name == "training":
        return training.measure(options.steps, say)
    return controller.measure(options.empty_trials, options.at_once, len(os.sched_getaffinity(0)))


def main() -> None:
    options = arguments()
    machine = describe_machine()
    print("\n".join(machine.values()), flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{time.strftime('%Y-%m-%d-%H%M%S')}.json"
    found: dict[str, object] = {}
    failed = False
    for name in options.only:
        try:
            outcome = run_section(name, options)
            print(outcome, flush=True)
            found[name] = outcome.to_json()
            failed |= outcome.failed
        except CommandFailed as failure:
            print(f"\n{name}: failed\n{failure}", flush=True)
            found[name] = {"failed": str(failure)}
            failed = True
        path.write_text(json.dumps({"machine": machine, **found}, indent=2) + "\n")
    print(f"\nall figures: {path}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
