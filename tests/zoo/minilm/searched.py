"""The searches, by the commands that a person types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import raycompress as rc

HERE = Path(__file__).parent
SEARCHES = ("seventy", "half")
"""The experiment files, without their endings."""


@dataclass(frozen=True)
class Searched:
    """What one search found.

    Attributes
    ----------
    bundle
        The best model's.
    values
        What its script reported.
    removed
        Layer -> (removed, of) output channels.
    trials
        How many trials it made, beside the dense model's.
    uniform
        The cosine of the trial that took the same share of every dimension; None where there was none.
    """

    bundle: Path
    values: dict[str, float]
    removed: dict[str, tuple[int, int]]
    trials: int
    uniform: float | None


def searched(name: str, folder: Path) -> Searched:
    """Run a search, verify what it found, and return it; one that has ended in `folder` is read."""
    place = folder / name
    if not (place / "raycompress_results").exists():
        place.mkdir(parents=True, exist_ok=True)
        _run(place, "launch", str(HERE / f"{name}.json"))
    outcome = json.loads(_run(place, "best", "--verify", "--json"))
    best = outcome["best"]
    assert best["feasible"], "the budget is kept"
    assert outcome["verified"]["relative_difference"] < 1e-4
    return Searched(
        Path(outcome["bundle"]),
        best["values"],
        {layer: tuple(counts) for layer, counts in best["removed"].items()},
        sum(outcome["trials"].values()),
        _uniform(place),
    )


def _uniform(place: Path) -> float | None:
    (root,) = place.glob("raycompress_results/minilm-*")
    trials = rc.Experiment.open(root).searched
    alike = [trial.values for trial in trials if len({round(value, 3) for value in trial.sample.values()}) == 1]
    return next((values["cosine"] for values in alike if values), None)


def _run(place: Path, *words: str) -> str:
    """Run `raycompress`, and return what it prints; what it says to people goes to the terminal."""
    env: dict[str, Any] = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "raycompress", *words]
    return subprocess.run(command, cwd=place, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
