"""What the trials of a search show together: equal models, shared files, hyperparameters that nothing reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raycompress.config.experiment import Experiment
from raycompress.search.unread import unnamed
from raycompress.text import join_names


class Findings:
    """Collects the facts of trials that have ended, and tells at the end what is odd about them.

    Parameters
    ----------
    experiment
        What is searched.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._models: dict[str, dict[int, Mapping[str, Any]]] = {}
        self._unread: set[str] | None = None
        self._saved = 0
        self._writers: dict[str, set[int]] = {}

    def add(self, number: int, sample: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Add a trial that has finished."""
        unread = set(facts["unread"])
        self._unread = unread if self._unread is None else self._unread & unread
        for file in facts["shared"]:
            self._writers.setdefault(file, set()).add(number)
        if facts["weights"]:
            self._saved += 1
            self._models.setdefault(facts["weights"], {})[number] = sample

    def notes(self) -> Iterator[str]:
        """Yield what a person should know."""
        for trials in self._models.values():
            samples = list(trials.values())
            if any(sample != samples[0] for sample in samples):
                yield self._equal(sorted(trials))
        for file, numbers in sorted(self._writers.items()):
            if len(numbers) > 1:
                yield (
                    f"trials {join_names(map(str, sorted(numbers)))} wrote and read {file}, one and the same file: "
                    "what one has read, another may have written; a relative path leads to a file of each trial's own, "
                    "unless it is above 256 MiB and only changed in part"
                )
        unread = sorted(self._unread or ())
        told = unnamed(self._experiment, unread)  # before the first trial
        for name in unread:
            if name not in told:
                yield (
                    f'"{name}" of parameter_config was never read from the configuration, in no trial, though the '
                    "script names it elsewhere: the search has spent a dimension on it"
                )

    def _equal(self, numbers: list[int]) -> str:
        if len(numbers) == self._saved:
            return (
                f"all {len(numbers)} trials saved one and the same model, though different values were proposed: "
                "what is proposed does not reach the model, or changes nothing after rounding"
            )
        return (
            f"trials {join_names([str(number) for number in numbers])} saved one and the same model, though different "
            "values were proposed"
        )
