"""Ray Tune with a function trainable, two at a time, as an engineer would write it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ray
from ray import tune


def trial(config: dict[str, Any]) -> None:
    from tests.benchmarks.peers.body import run_body

    tune.report({"score": run_body(config["config"])})


def main() -> None:
    configs = json.loads(Path(sys.argv[1]).read_text())
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        trial,
        param_space={"config": tune.grid_search(configs)},
        tune_config=tune.TuneConfig(metric="score", mode="max", max_concurrent_trials=2),
        run_config=tune.RunConfig(storage_path=str(Path("ray_results").absolute()), verbose=0),
    )
    results = tuner.fit()
    if results.errors:
        raise results.errors[0]
    print(json.dumps({"trials": len(results), "best": (results.get_best_result().metrics or {})["score"]}))


if __name__ == "__main__":
    main()
