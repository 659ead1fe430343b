"""How well many slots are used: trials that only sleep, on simulated nodes of this machine."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from tests.benchmarks import ROOT
from tests.benchmarks.controller import experiment
from tests.benchmarks.outcome import Outcome, median
from tests.benchmarks.processes import run

_SLOTS_A_NODE = 32
_ROUNDS = 3

_SCRIPT = """import sys
import time

import raycompress as rc

config = rc.BasicConfig().load(sys.argv[1])
time.sleep({seconds} if config.job_id else 0)
rc.report(value=config.x)
"""

_DRIVER = """
import os, sys
from raycompress.config.experiment import Experiment
from raycompress.backend.ray import local as local_ray
from raycompress.session.launch import launch
from raycompress.search.watch.relay import RelayView

os.environ.update({name: value for name, value in local_ray.ENVIRONMENT.items() if name != "RAY_AUTH_MODE"})
import ray
from ray.cluster_utils import Cluster
from raycompress.backend.ray.cluster import node_offers


class Nodes:
    def __enter__(self):
        n, slots = int(sys.argv[2]), int(sys.argv[3])
        node = {"num_cpus": slots, "include_dashboard": False, "object_store_memory": 80 * 2**20}
        self.cluster = Cluster(initialize_head=True, head_node_args=node)
        for _ in range(n - 1):
            self.cluster.add_node(**node)
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")

    def __exit__(self, *error):
        ray.shutdown()
        self.cluster.shutdown()

    def nodes(self):
        return node_offers()


launch(Experiment.load(sys.argv[1]), RelayView(open("events", "w")), ray=Nodes())
"""


def measure(slots: Sequence[int], seconds: float, say: Callable[[str], None]) -> Outcome:
    """Run `_ROUNDS` trials a slot, each of which sleeps for `seconds`, on as many slots as each of `slots` says."""
    rows, raw = [], {}
    for n_slots in slots:
        figures = _efficiency(n_slots, seconds)
        say(f"{n_slots} slots: {figures['efficiency']:.3f}")
        raw[str(n_slots)] = figures
        rows.append(
            [
                f"{n_slots} on {math.ceil(n_slots / _SLOTS_A_NODE)}",
                f"{figures['efficiency']:.3f}",
                f"{figures['gap']:.2f}",
                f"{figures['starting']:.0f}",
                f"{figures['cpu'] / figures['slots']:.1f}",
                f"{figures['cpu'] / figures['wall']:.2f}",
            ]
        )
    return Outcome(
        f"Scaling: trials that sleep {seconds:g} s, {_ROUNDS} a slot",
        ["slots on nodes", "efficiency", "gap, s", "slots start, s", "CPU s a slot", "cores used"],
        rows,
        notes=[
            "Efficiency: seconds slept, of those from the start of each slot's first trial to the end of its last.",
            "Gap: median time between two trials of a slot. Slots start: until the last actor has its first trial.",
            "CPU and cores: of all processes, from start to exit, the start of the actors included.",
        ],
        raw=raw,
    )


def _efficiency(n_slots: int, seconds: float) -> dict[str, float]:
    import raycompress

    n_nodes = math.ceil(n_slots / _SLOTS_A_NODE)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "empty.py").write_text(_SCRIPT.format(seconds=seconds))
        (folder / "exp.json").write_text(json.dumps(experiment(_ROUNDS * n_slots, n_slots, n_slots)))
        slots_a_node = math.ceil(n_slots / n_nodes)
        done = run(
            [sys.executable, "-c", _DRIVER, "exp.json", str(n_nodes), str(slots_a_node)],
            cwd=folder,
            env={"PYTHONPATH": str(ROOT)},
        )
        record = raycompress.Experiment.open(next((folder / "results").glob("*/journal.jsonl")).parent)
    by_slot: dict[int, list[tuple[float, float]]] = {}
    for trial in record.searched:
        assert trial.slot is not None and trial.seconds is not None
        by_slot.setdefault(trial.slot, []).append((trial.started, trial.started + trial.seconds))
    spans = [sorted(times) for times in by_slot.values()]
    had = sum(times[-1][1] - times[0][0] for times in spans)
    gaps = [later[0] - earlier[1] for times in spans for earlier, later in pairwise(times)]
    return {
        "efficiency": len(record.searched) * seconds / had,
        "gap": median(gaps),
        "starting": max(times[0][0] for times in spans) - record.header["t"],
        "slots": len(spans),
        "wall": done.wall,
        "cpu": done.cpu,
        "peak_rss": done.peak_rss,
    }
