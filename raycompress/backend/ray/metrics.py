"""A search as metrics of Ray's, for Prometheus: docs/watching.md lists them."""

from __future__ import annotations

import threading
from typing import Any, Self

from ray.util.metrics import Counter, Gauge, Histogram

from raycompress.results.journal.journal import Event
from raycompress.states import TrialState

_SECONDS = [0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 12 * 3600, 24 * 3600]
WAITING = "waiting"
"""Of trials that have not been given a slot; the other states are the journal's."""
_REFRESH = 1.0
"""Seconds between two reports of all gauges: the shortest interval at which Ray exports."""


class Meters:
    """Keeps the metrics of one search up to date with its journal while a ``with`` statement lasts; Ray must run.

    A slot's seconds are those of its trials' scripts, and overhead: all else between one end and the next.

    Ray exports a gauge once for each time that it is set, and drops it two intervals later (one scrape later in earlier
    releases), however long nothing changes. All gauges are therefore set again every second.
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
        self._gauges: list[tuple[Gauge, float, dict[str, str]]] = []
        self._reporting = threading.Lock()
        self._ended = threading.Event()
        self._refreshing = threading.Thread(target=self._refresh, name="raycompress-metrics", daemon=True)

    def __enter__(self) -> Self:
        self._refreshing.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._refreshing.join()

    def _refresh(self) -> None:
        while not self._ended.wait(_REFRESH):
            with self._reporting:
                self._report()

    def _report(self) -> None:
        for gauge, value, tags in self._gauges:
            gauge.set(value, tags)

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
        with self._reporting:
            self._gauges = self._counted()
            self._report()

    def _counted(self) -> list[tuple[Gauge, float, dict[str, str]]]:
        states = list(self._states.values())
        counts = {str(state): states.count(state) for state in TrialState}
        counts[WAITING] = max(0, self._n_trials - len(states))
        gauges = [(self._trials, float(count), {**self._tags, "state": state}) for state, count in counts.items()]
        return gauges if self._score is None else [*gauges, (self._best, self._score, self._tags)]

    def _add_end(self, event: Event) -> None:
        score, seconds = event["score"], event.get("last_start_seconds", event["seconds"])
        if score is not None and event["trial"] != 0:
            better = max if self._goal == "max" else min
            self._score = score if self._score is None else better(score, self._score)
        slot = self._slots[event["trial"]]
        since, self._free_since[slot] = self._free_since.get(slot, self._began), event["t"]
        if seconds:
            self._lengths.observe(seconds, self._tags)
            self._script.inc(seconds, self._tags)
            if (overhead := event["t"] - since - seconds) > 0:
                self._overhead.inc(overhead, self._tags)
