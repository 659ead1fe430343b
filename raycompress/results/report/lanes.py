"""Spans of the timeline: slot, begin and end of each trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raycompress.results.record import SearchRecord
    from raycompress.results.trial import TrialRecord


@dataclass(frozen=True)
class Span:
    """One trial on the timeline: seconds since the first one began, and its lane."""

    trial: TrialRecord
    begin: float
    end: float
    lane: int


def spans(record: SearchRecord) -> list[Span]:
    """Return all trials with the slot that each ran in.

    Journals of earlier versions do not name slots: then each trial is in the first lane that is free when it begins. A
    trial without an end lasts to the last thing that the journal tells.
    """
    trials = sorted(record.records.values(), key=lambda trial: (trial.started, trial.number))
    if not trials:
        return []
    first = trials[0].started
    begins = [trial.started - first for trial in trials]
    ends = [
        begin + max(record.updated - trial.started if (took := trial.last_start_seconds) is None else took, 0.0)
        for trial, begin in zip(trials, begins, strict=True)
    ]
    slots = [trial.slot for trial in trials if trial.slot is not None]
    lanes = slots if len(slots) == len(trials) else _free_lanes(begins, ends)
    return [Span(*span) for span in zip(trials, begins, ends, lanes, strict=True)]


def _free_lanes(begins: Sequence[float], ends: Sequence[float]) -> list[int]:
    free_from: list[float] = []
    lanes = []
    for begin, end in zip(begins, ends, strict=True):
        # a clock's rounding is no overlap
        lane = next((lane for lane, free in enumerate(free_from) if free <= begin + 0.01), len(free_from))
        free_from[lane : lane + 1] = [end]
        lanes.append(lane)
    return lanes
