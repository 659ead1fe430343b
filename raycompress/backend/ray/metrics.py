"""A search as metrics of Ray's, for Prometheus: docs/watching.md lists them."""

from __future__ import annotations

from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from raycompress.results.journal.journal import Event
from raycompress.states import TrialState

_SECONDS = [0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 12 * 3600, 24 * 3600]
WAITING = "waiting"
"""Of trials that have not been given a slot; the other states are the journal's."""


class Meters:
    """Keeps the metrics of one search up to date with its journal; Ray must run.

    A slot's seconds are those of its trials' scripts, and overhead: all else between one end and the next.
    """

    def __init__(self) -> None:
        keys = ("experiment",)
        self._trials = Gauge("raycompress_trials", "Trials by state.", tag_keys=(*keys, "state"))
        self._best = Gauge("raycompress_best_objective", "The best objective so far.", tag_keys=keys)
        self._lengths = Histogram(
            "raycompress_trial_seconds",
            "How long trials took; Ray estimates the sum.",
            boundaries=_SECONDS,
            tag_keys=keys,
        )
        self._script = Counter("raycompress_script_seconds", "Seconds spent in trials' scripts.", tag_keys=keys)
        self._overhead = Counter("raycompress_overhead_seconds", "Seconds of slots spent on all else.", tag_keys=keys)
        self._tags: dict[str, str] = {}
        self._n_trials = 0
        self._began = 0.0
        self._goal = "max"
        self._states: dict[int, str] = {}
        self._slots: dict[int, Any] = {}
        self._free_since: dict[Any, float] = {}
        self._score: float | None = None

    def add(self, event: Event) -> None:
        """Take the next event of the journal."""
        kind = event["event"]
        if kind == "experiment":
            self._tags = {"experiment": event["id"]}
            self._n_trials, self._began = event["n_trials"], event["t"]
            self._goal = event["goal"]
        elif kind == "resumed":
            self._n_trials, self._began = event["n_trials"], event["t"]
            again = (TrialState.RUNNING, TrialState.STOPPED)
            self._states = {trial: state for trial, state in self._states.items() if state not in again}
            self._free_since.clear()
        elif kind == "started":
            self._states[event["trial"]] = TrialState.RUNNING
            self._slots[event["trial"]] = event.get("slot")
        elif kind == "ended":
            self._states[event["trial"]] = event["state"]
            self._add_end(event)
        else:
            return
        self._count()

    def _count(self) -> None:
        states = list(self._states.values())
        for state in TrialState:
            self._trials.set(states.count(state), {**self._tags, "state": str(state)})
        self._trials.set(max(0, self._n_trials - len(states)), {**self._tags, "state": WAITING})

    def _add_end(self, event: Event) -> None:
        score, seconds = event["score"], event.get("last_start_seconds", event["seconds"])
        if score is not None and event["trial"] != 0:
            better = max if self._goal == "max" else min
            self._score = score if self._score is None else better(score, self._score)
            self._best.set(self._score, self._tags)
        slot = self._slots[event["trial"]]
        since, self._free_since[slot] = self._free_since.get(slot, self._began), event["t"]
        if seconds:
            self._lengths.observe(seconds, self._tags)
            self._script.inc(seconds, self._tags)
            if (overhead := event["t"] - since - seconds) > 0:
                self._overhead.inc(overhead, self._tags)
