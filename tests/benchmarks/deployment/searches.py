"""Whole searches for several runtimes at once, over networks that people have, in the environment of ``make zoo``.

``python -m tests.benchmarks.deployment.searches`` prints a line for each network and runtime.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import raycompress as rc
from raycompress.errors import RaycompressError
from raycompress.results.record import SearchRecord
from tests.benchmarks import ROOT
from tests.benchmarks.deployment.networks import Network, networks
from tests.support.outside.environments import TARGETS

RUNTIMES = ("onnxruntime", "openvino", "executorch", "litert")


def search(place: int, network: Network, trials: int, folder: Path) -> SearchRecord:
    """Run a random search of `trials` samples, each converted for all runtimes; the first one's latency is wanted."""
    exclude = [{"op_names": list(network.exclude), "exclude": True}] if network.exclude else []
    entry = {"sparsity": {"type": "float", "range": [0.0, 0.8]}, "op_types": ["default"], "expand_op_names": False}
    experiment: dict[str, Any] = {
        "name": "searched",
        "script": f"{Path(__file__).with_name('searched.py')} {place}",
        "workingdir": str(ROOT),
        "storage": str(folder),
        "compression": {
            **{"framework": "torch", "type": "pruning", "compressor": "group_l1"},
            **{"config_list": [entry, *exclude], "arguments": {"round_to": 8}},
        },
        "objectives": {"agreement": "max", "latency_ms": "min"},
        "target": [
            {"runtime": RUNTIMES[0]},
            *({"runtime": name, "python": TARGETS.python} for name in RUNTIMES[1:]),
        ],
        "proposer": "random",
        "n_samples": trials,
        "n_parallel": 1,
        "random_seed": 0,
        "baseline": False,
        "runtime_args": {"env": {"PYTHONPATH": str(ROOT)}},
    }
    return rc.launch(experiment, quiet=True)


def rows(network: Network, record: SearchRecord, seconds: float) -> list[dict[str, Any]]:
    """Return what each runtime came to: the best trial's share of the dense latency, and its difference, verified."""
    best = record.best
    assert best is not None and record.verified is not None
    before, after = best.before or {}, best.after or {}
    return [
        {
            "network": network.name,
            "runtime": name,
            "trials": sum(trial.state.value == "finished" for trial in record.searched),
            "flops": after["flops"] / before["flops"],
            "latency": after[f"latency_ms@{name}"] / before[f"latency_ms@{name}"],
            "eager": after["latency_ms@eager"] / before["latency_ms@eager"],
            "difference": record.verified["targets"][name],
            "seconds": seconds,
        }
        for name in RUNTIMES
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--networks", nargs="+", type=int, default=list(range(len(networks()))))
    parser.add_argument("--lines", type=Path, required=True, help="JSON lines, which are added to")
    asked = parser.parse_args()
    for place in asked.networks:
        network, begun = networks()[place], time.monotonic()
        with tempfile.TemporaryDirectory(prefix="raycompress-") as folder:
            try:
                found = rows(network, search(place, network, asked.trials, Path(folder)), time.monotonic() - begun)
            except RaycompressError as error:
                found = [{"network": network.name, "error": str(error.problems[0])}]
        with asked.lines.open("a") as file:
            for row in found:
                print(json.dumps(row), file=file)
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
