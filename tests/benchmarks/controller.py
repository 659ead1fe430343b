"""How many trials a second the search itself can start, record and compare: trials that only report a number."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks import ROOT
from tests.benchmarks.outcome import Outcome
from tests.benchmarks.processes import Run, run

_SCRIPT = """import sys

import raycompress as rc

config = rc.BasicConfig().load(sys.argv[1])
rc.report(value=config.x)
"""


def experiment(n_trials: int, n_parallel: int, cores: int) -> dict[str, Any]:
    """Return an experiment of empty trials, whose slots share `cores`."""
    return {
        "name": "bench-controller",
        "script": "empty.py",
        "resource": {"cpu": cores / n_parallel},
        # the script compresses nothing; an experiment file names a compressor all the same
        "compression": {
            "framework": "torch",
            "type": "pruning",
            "compressor": "l1_filter",
            "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}],
        },
        "parameter_config": [{"name": "x", "range": [0.0, 1.0], "type": "float"}],
        "proposer": "random",
        "n_samples": n_trials,
        "n_parallel": n_parallel,
        "target": "max",
        "random_seed": 0,
        "baseline": False,
        "resource_args": {"save_model": False},
        "storage": "results",
    }


def measure(n_trials: int, n_parallel: int, cores: int) -> Outcome:
    """Run `n_trials` empty trials and say what bounds them."""
    import raycompress

    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "empty.py").write_text(_SCRIPT)
        (folder / "exp.json").write_text(json.dumps(experiment(n_trials, n_parallel, cores)))
        done = run(
            [sys.executable, "-m", "raycompress", "launch", "exp.json"], cwd=folder, env={"PYTHONPATH": str(ROOT)}
        )
        record = raycompress.Experiment.open(next((folder / "results").glob("*/journal.jsonl")).parent)
        trials = record.searched
        finished = [trial for trial in trials if trial.state == "finished"]
    first = min(trial.started for trial in finished)
    last = max(trial.started + (trial.seconds or 0) for trial in finished)
    searching = last - first
    growth = memory_slope(done, first, last) * searching / len(finished)
    rows = [
        ["trials finished", f"{len(finished)} of {n_trials}"],
        ["trials a second, from first start to last end", f"{len(finished) / searching:.1f}"],
        ["trials a second, cold start to exit", f"{len(finished) / done.wall:.1f}"],
        ["CPU a trial, all processes", f"{1000 * done.cpu / len(finished):.1f} ms"],
        ["growth of the driver's memory a trial", f"{growth / 1024:.1f} KiB"],
        ["largest memory of the driver", f"{max(rss for _, rss in done.memory) / 2**20:.0f} MiB"],
    ]
    rows += [
        [f"CPU share: {role}{_count(done, role)}", f"{share:.0%}"]
        for role, share in sorted(cpu_shares(done).items(), key=lambda item: -item[1])
        if share >= 0.01
    ]
    return Outcome(
        f"Controller: {n_trials} empty trials, {n_parallel} at a time on {cores} cores",
        ["what", "figure"],
        rows,
        notes=[_bound(done, cores, searching)],
        raw={
            "wall": done.wall,
            "cpu": done.cpu,
            "searching": searching,
            "roles": done.roles,
            "processes": done.processes,
            "memory": done.memory,
        },
    )


def memory_slope(done: Run, first: float, last: float) -> float:
    """Return how fast the command itself grew, in bytes a second, from `first` to `last` (seconds since the epoch).

    The first tenth is left out: what is loaded once is loaded by then.
    """
    points = [(t, rss) for t, rss in done.memory if first + 0.1 * (last - first) <= t <= last]
    if len(points) < 2:
        return float("nan")
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def cpu_shares(done: Run) -> dict[str, float]:
    """Return each role's share of the CPU time."""
    total = sum(done.roles.values())
    return {role: seconds / total for role, seconds in done.roles.items()}


def _count(done: Run, role: str) -> str:
    """Say how many processes had the role, where there were several: as many as slots, or Ray starts them in vain."""
    number = done.processes.get(role, 1)
    return f" ({number} processes)" if number > 1 else ""


def _bound(done: Run, cores: int, searching: float) -> str:
    """Say what bounds the rate: the cores, or the one process that is busy all the time, or waiting."""
    busy = done.cpu / (done.wall * cores)
    driver = done.roles.get("the command itself", 0.0) / done.wall
    role, share = max(cpu_shares(done).items(), key=lambda item: item[1])
    if busy > 0.75:
        return f"Bound by the {cores} cores: {busy:.0%} busy; most of it ({share:.0%}) in: {role}."
    if driver > 0.85:
        return f"Bound by the driver, one thread: busy {driver:.0%} of the time; the cores {busy:.0%}."
    return f"Bound by waiting: cores {busy:.0%} busy, the driver {driver:.0%}; most CPU ({share:.0%}) in: {role}."
