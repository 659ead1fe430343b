"""The searches, by the commands that a person types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """

    bundle: Path
    values: dict[str, float]
    removed: dict[str, tuple[int, int]]
    trials: int


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
    )


def _run(place: Path, *words: str) -> str:
    """Run `raycompress`, and return what it prints; what it says to people goes to the terminal."""
    env: dict[str, Any] = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "raycompress", *words]
    return subprocess.run(command, cwd=place, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
