"""What a trial costs beyond its own work: the digits script, two trials at a time, run in five ways.

All ways run the same script on configurations of the same distribution, on one torch thread a process, interleaved.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks import ROOT
from tests.benchmarks.outcome import Outcome, Target, median, ratio, seconds
from tests.benchmarks.processes import CommandFailed, Run, run

LAYERS = ("conv1", "conv2", "conv3")
PARALLEL = 2
SCRIPT = ROOT / "configs" / "digits" / "train.py"


def trial_config(sparsity: Callable[[str], float]) -> dict[str, Any]:
    """Return the configuration of a trial, the sparsity of each layer from `sparsity`."""
    entries = [{"sparsity": sparsity(layer), "op_types": ["Conv2d"], "op_names": [layer]} for layer in LAYERS]
    return {
        "compressor": "l1_filter",
        "compression_framework": "torch",
        "compression_type": "pruning",
        "config_list": entries,
        "arguments": {},
    }


def experiment(n_trials: int, storage: Path, *, baseline: bool) -> dict[str, Any]:
    """Return the experiment file that searches what `trial_config` samples."""
    entry = {
        "sparsity": {"range": [0.1, 0.9], "type": "float"},
        "op_types": ["Conv2d"],
        "op_names": list(LAYERS),
    }
    return {
        "name": "bench-overhead",
        "script": str(SCRIPT),
        "workingdir": str(storage),
        "compression": {"framework": "torch", "type": "pruning", "compressor": "l1_filter", "config_list": [entry]},
        "proposer": "random",
        "n_samples": n_trials,
        "n_parallel": PARALLEL,
        "target": "max",
        "random_seed": 0,
        "baseline": baseline,
        "storage": str(storage / "results"),
    }


@dataclass
class Way:
    """One way to run the trials: how its command is made, what it needs, and its runs by number of trials."""

    name: str
    command: Callable[[Path, int], list[str]]
    needs: tuple[str, ...] = ()
    runs: dict[int, list[Run]] = field(default_factory=dict)
    failure: str = ""

    @property
    def missing(self) -> str:
        """Why the way cannot be run, or could not; empty when it ran."""
        modules = [module for module in self.needs if importlib.util.find_spec(module) is None]
        return f"missing: {', '.join(modules)}" if modules else self.failure

    def wall(self, n_trials: int) -> float:
        return median([run.wall for run in self.runs.get(n_trials, [])])

    def cpu(self, n_trials: int) -> float:
        return median([run.cpu for run in self.runs.get(n_trials, [])])


def _peer(name: str) -> Callable[[Path, int], list[str]]:
    def command(folder: Path, n_trials: int) -> list[str]:
        draw = random.Random(0)
        configs = [trial_config(lambda _: draw.uniform(0.1, 0.9)) for _ in range(n_trials)]
        (folder / "configs.json").write_text(json.dumps(configs))
        return [sys.executable, "-m", f"tests.benchmarks.peers.{name}", "configs.json"]

    return command


def _raycompress(baseline: bool) -> Callable[[Path, int], list[str]]:
    def command(folder: Path, n_trials: int) -> list[str]:
        (folder / "exp.json").write_text(json.dumps(experiment(n_trials, folder, baseline=baseline)))
        return [sys.executable, "-m", "raycompress", "launch", "exp.json"]

    return command


def ways() -> dict[str, Way]:
    """Return the ways by a short name, in the order of the table."""
    return {
        "subprocess": Way("subprocess per trial", _peer("subprocesses")),
        "ray": Way("Ray Tune, function", _peer("ray_function"), ("ray",)),
        "optuna": Way("Optuna, two processes", _peer("optuna_journal"), ("optuna",)),
        "raycompress": Way("raycompress", _raycompress(True)),
        "nodense": Way("raycompress, no dense", _raycompress(False)),
        "limit": Way("the limit", _peer("loop")),
    }


def measure(sizes: list[int], repeats: int, only: list[str] | None, say: Callable[[str], None]) -> Outcome:
    """Run every way, `repeats` times at each number of trials, one after the other.

    Parameters
    ----------
    sizes
        Numbers of trials, ascending; the cost of one more trial comes from the first and the last.
    only
        Short names of the ways to run; None for all.
    """
    chosen = {key: way for key, way in ways().items() if not only or key in only}
    for repeat in range(repeats):
        for n_trials in sizes:
            for way in chosen.values():
                if way.missing:
                    continue
                with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                    command = way.command(Path(folder), n_trials)
                    try:
                        done = run(command, cwd=Path(folder), env={"PYTHONPATH": str(ROOT)})
                    except CommandFailed as failure:
                        way.failure = "failed"
                        say(str(failure))
                        continue
                if way.name == "the limit":
                    done = _halved(done)
                way.runs.setdefault(n_trials, []).append(done)
                say(f"{repeat + 1}/{repeats}  {n_trials:3} trials  {done.wall:7.1f} s  {way.name}")
    return _outcome(chosen, sizes, repeats)


def _halved(done: Run) -> Run:
    """Return the limit that a loop's trials set: their own time, two at a time."""
    printed = json.loads(done.output.splitlines()[-1])
    return Run(printed["wall"] / PARALLEL, printed["cpu"], done.code, done.output, done.peak_rss)


def _outcome(chosen: dict[str, Way], sizes: list[int], repeats: int) -> Outcome:
    first, last = sizes[0], sizes[-1]
    nothing = Way("", lambda *_: [])
    optuna, subprocesses, limit, ours = (
        chosen.get(key, nothing) for key in ("optuna", "subprocess", "limit", "raycompress")
    )
    work = PARALLEL * limit.wall(last) / last

    def one_more(way: Way) -> float:
        return PARALLEL * (way.wall(last) - way.wall(first)) / (last - first) - work if last > first else float("nan")

    rows = []
    for way in chosen.values():
        row = [way.name]
        for n_trials in sizes:
            wall = way.wall(n_trials)
            row += [seconds(wall), seconds(way.cpu(n_trials))]
            row += [ratio(wall, optuna.wall(n_trials)), ratio(wall, subprocesses.wall(n_trials))]
        rows.append([*row, way.missing or seconds(one_more(way), 3)])
    targets = [
        Target(f"{first} trials, against two Optuna processes", ours.wall(first) / optuna.wall(first), 1.3, " x"),
        Target(f"{first} trials, against a subprocess each", ours.wall(first) / subprocesses.wall(first), 0.3, " x"),
        Target(f"one more trial beyond its own work, {first} to {last}", one_more(ours), 0.15, " s", least=-0.05),
    ]
    columns = [f"{n_trials}{name}" for n_trials in sizes for name in (" wall", " CPU", "/opt", "/sub")]
    return Outcome(
        f"Trial overhead: the digits script, {PARALLEL} at a time, seconds, median of {repeats}",
        ["way", *columns, "one more"],
        rows,
        targets=[target for target in targets if target.value == target.value],
        notes=[
            "wall: cold start to exit; CPU: of the whole process tree; /opt, /sub: wall against Optuna, subprocesses.",
            f"one more: {PARALLEL} x ({last} wall - {first} wall) / {last - first} - {work:.3f} s, a trial's own work.",
            "the limit: a bare loop in one process, its trials alone, / 2; own work is taken from it.",
            "raycompress runs the dense model first, one trial more than the others; the row below is without it.",
            *_one_more_by_cpu(ours, limit, first, last),
            *_cpu_by_role(ours, first),
        ],
        raw={way.name: _raw(way) for way in chosen.values()},
        failed=any(way.failure for way in chosen.values()),
    )


def _one_more_by_cpu(way: Way, limit: Way, first: int, last: int) -> list[str]:
    """Say what one more trial costs in CPU time, which other work on the machine disturbs less than the wall time."""
    if last == first or not way.runs or not limit.runs:
        return []
    cost = (way.cpu(last) - way.cpu(first)) / (last - first) - limit.cpu(last) / last
    return [f"{way.name}: one more trial takes {cost:.3f} s of CPU time beyond that of its own work."]


def _cpu_by_role(way: Way, n_trials: int) -> list[str]:
    """Say which processes used the CPU time of the way's first run."""
    runs = way.runs.get(n_trials)
    if not runs:
        return []
    roles = sorted(runs[0].roles.items(), key=lambda item: -item[1])
    return [
        f"{way.name}'s CPU seconds at {n_trials} trials, by process:",
        *(f"  {seconds(used):>6}  {role}" for role, used in roles),
    ]


def _raw(way: Way) -> dict[int, list[dict[str, object]]]:
    return {
        n_trials: [{"wall": r.wall, "cpu": r.cpu, "peak_rss": r.peak_rss, "roles": r.roles} for r in runs]
        for n_trials, runs in way.runs.items()
    }
