"""The limit: the trials in a loop in one process; imports and a first trial are not counted."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tests.benchmarks.peers.body import run_body


def main() -> None:
    configs = json.loads(Path(sys.argv[1]).read_text())
    run_body(configs[0])
    wall, cpu = time.perf_counter(), time.process_time()
    scores = [run_body(config) for config in configs]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"trials": len(scores), "best": max(scores), "wall": wall, "cpu": cpu}))


if __name__ == "__main__":
    main()
