"""A process per trial, two at a time: ``python train.py config.json``."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.body import SCRIPT, score_in


def run_trial(number: int, config: dict[str, Any]) -> float:
    folder = Path(f"trial{number}").absolute()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    command = [sys.executable, str(SCRIPT), "config.json"]
    return score_in(subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    configs = json.loads(Path(sys.argv[1]).read_text())
    with ThreadPoolExecutor(2) as pool:
        scores = list(pool.map(run_trial, range(len(configs)), configs))
    print(json.dumps({"trials": len(scores), "best": max(scores)}))


if __name__ == "__main__":
    main()
