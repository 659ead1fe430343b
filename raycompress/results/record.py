"""The record of an experiment, read from its journal alone: its trials, its best model, its state."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from raycompress.config.objective import Objective
from raycompress.config.places import is_remote
from raycompress.errors import StorageError
from raycompress.results import pareto, store
from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal import journal
from raycompress.results.journal.journal import lacking
from raycompress.results.notebook import InNotebooks
from raycompress.results.ranking import Ranking
from raycompress.results.trial import TrialRecord
from raycompress.states import TrialState


class SearchRecord(InNotebooks):
    """The record of one experiment.

    Use `Experiment.open`.
    """

    def __init__(self, folder: ExperimentFolder) -> None:
        self.folder = folder
        self.header: dict[str, Any] = {}
        self.records: dict[int, TrialRecord] = {}
        self.best_number = folder.best_number()  # the pointer, not the journal: it is replaced in one step
        self.verified: dict[str, Any] | None = None
        self.repeated: dict[str, Any] | None = None
        self.finished: str | None = None
        self.finished_detail = ""
        self.notes: list[str] = []
        self.mended: set[int] = set()  # trials whose failure ended the search, and which a resumed one is to make again
        self.updated = 0.0  # when the latest event was written
        self._was_written = folder.is_written()  # asked first: a search may end while its journal is read
        for line, event in enumerate(journal.read(folder.journal), start=1):
            self._apply(event, f"{folder.journal}:{line}")
        if not self.header:
            raise StorageError("the journal has no beginning", where=str(folder.journal), fix="launch it again")
        if self.best_number is not None and self.best_number not in self.records:
            raise StorageError(
                f"the best model is said to be trial {self.best_number}, which the journal does not know",
                where=str(folder.best_pointer),
                fix="put best.json and journal.jsonl back together, as raycompress wrote them",
            )

    @classmethod
    def open(cls, path: str | Path) -> Experiment:
        """Read the experiment in folder `path`, or at an address ``s3://bucket/prefix/<id>``.

        Raises
        ------
        StorageError
            There is no journal, or it cannot be read.
        UsageError
            Nothing on S3 has this address.
        """
        if is_remote(str(path)):
            return cls(store.find(str(path), Path()))
        return cls(ExperimentFolder(Path(path).resolve()))

    def _apply(self, event: journal.Event, where: str) -> None:
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is None:
            raise StorageError(
                f'the journal has an event "{event["event"]}" that this version does not know',
                where=where,
                fix="read it with the version of raycompress that wrote it, or a newer one",
            )
        wrong = lacking(event)
        try:
            if not wrong:
                handler(event)
        except (KeyError, ValueError):  # of a trial that never started, for instance
            wrong = ["trial", "removed"]
        if wrong:
            raise StorageError(
                f'the event "{event["event"]}" is not what raycompress writes: {", ".join(wrong)}',
                where=where,
                fix="put the journal back as it was written; a foreign one cannot be read",
            )
        self.updated = max(self.updated, event["t"])  # a clock may have been put back meanwhile

    def _on_experiment(self, event: journal.Event) -> None:
        if event["version"] > journal.VERSION:
            raise StorageError(
                f"the journal is of version {event['version']}, this raycompress reads up to {journal.VERSION}",
                where=str(self.folder.journal),
                fix="update raycompress",
            )
        self.header = event

    def _on_started(self, event: journal.Event) -> None:
        before = self.records.get(event["trial"])
        self.mended.discard(event["trial"])
        self.records[event["trial"]] = TrialRecord(
            number=event["trial"],
            sample=event["sample"],
            config=event["config"],
            started=event["t"],
            baseline=event["baseline"],
            starts=1 if before is None else before.starts + 1,
            slot=event.get("slot"),
            predicted=event.get("predicted"),
            repeat_of=event.get("repeat_of"),
            # one that was lost before it reported anything hides nothing
            earlier=before if before is None or before.steps or before.earlier is None else before.earlier,
        )

    def _on_intermediate(self, event: journal.Event) -> None:
        trial = self.records[event["trial"]]
        trial.intermediate.append(event["values"])
        trial.steps.append(event["step"])

    def _on_rung0(self, event: journal.Event) -> None:
        self.records[event["trial"]].rung0 = event["score"]

    def _on_continued(self, event: journal.Event) -> None:
        trial = self.records[event["trial"]]
        # its own results are of a failed attempt that is made again
        earlier = trial if trial.steps or trial.earlier is None else trial.earlier
        count = sum(step <= event["step"] for step in earlier.steps)
        trial.intermediate, trial.steps = earlier.intermediate[:count], earlier.steps[:count]
        trial.continued, trial.rung0, trial.carried = event["step"], earlier.rung0, event["seconds"]

    def _on_retried(self, event: journal.Event) -> None:
        self.records[event["trial"]].attempts = event["attempt"] + 1

    def _on_ended(self, event: journal.Event) -> None:
        trial = self.records[event["trial"]]
        trial.state = TrialState(event["state"])
        for name in ("cause", "values", "score", "before", "after", "seconds", "saved"):
            setattr(trial, name, event[name])
        if trial.seconds is not None and "last_start_seconds" not in event:  # an older journal: the last start's alone
            trial.seconds += trial.carried
        trial.removed = {layer: (removed, of) for layer, (removed, of) in event["removed"].items()}
        trial.notes = tuple(event.get("notes", ()))  # older journals have none
        trial.files = tuple(event.get("files", ()))

    def _on_promoted(self, event: journal.Event) -> None:
        """Nothing: ``best.json`` says which one it is; after a kill between the two this event may be missing."""

    def _on_pruned(self, event: journal.Event) -> None:
        self.records[event["trial"]].saved = False

    def _on_repeated(self, event: journal.Event) -> None:
        self.repeated = event

    def _on_verified(self, event: journal.Event) -> None:
        self.verified = event

    def _on_resumed(self, event: journal.Event) -> None:
        if self.finished == "failure":
            self.mended = {number for number, trial in self.records.items() if trial.state.is_failure}
        self.finished, self.finished_detail, self.verified, self.repeated = None, "", None, None
        names = ("n_trials", "n_samples", "n_parallel", "pid", "host", "file", "script")
        self.header = {**self.header, **{name: event[name] for name in names if name in event}}

    def _on_note(self, event: journal.Event) -> None:
        self.notes.append(event["text"])

    def _on_finished(self, event: journal.Event) -> None:
        self.finished, self.finished_detail = event["reason"], event["detail"]

    @property
    def id(self) -> str:
        """The experiment's name on the command line."""
        return self.folder.id

    @property
    def state(self) -> str:
        """``running``, ``complete``, ``stopped``, ``failure``, ``time budget`` or ``interrupted`` (killed)."""
        if self.finished is not None:
            return self.finished
        return "running" if self._was_written else "interrupted"

    @property
    def baseline(self) -> TrialRecord | None:
        """The dense model's trial, if there is one."""
        return next((trial for trial in self.records.values() if trial.baseline), None)

    @property
    def searched(self) -> list[TrialRecord]:
        """The trials of the search, without the dense one, by number."""
        return [trial for _, trial in sorted(self.records.items()) if not trial.baseline]

    @property
    def best(self) -> TrialRecord | None:
        """The best finished trial; None while there is none."""
        if self.best_number is not None:
            return self.records[self.best_number]
        found = next(iter(self.ranking.ranked), None)
        return None if found is None else self.records[found]

    @property
    def objective(self) -> Objective:
        """What the search is after."""
        return Objective.from_header(self.header)

    @cached_property
    def ranking(self) -> Ranking:
        """How the finished trials stand to each other; it holds for the record as it was read."""
        ranking = Ranking(self.objective)
        if self.baseline is not None:
            ranking.add_dense(self.baseline.values)
        for trial in self.searched:
            if trial.state is TrialState.FINISHED and trial.score is not None:
                ranking.add(trial.number, trial.values, trial.before, trial.after)
        return ranking

    def is_feasible(self, trial: TrialRecord) -> bool:
        """Tell whether a trial has finished and keeps to all constraints."""
        judged = self.ranking.judged.get(trial.number)
        return judged is not None and judged.is_feasible

    @property
    def bundle(self) -> Path | None:
        """The folder of the best model, fetched if it is elsewhere; None when no trial saved one."""
        return None if self.best_number is None else self.folder.fetch_candidate(self.best_number)

    @cached_property
    def kept(self) -> list[int]:
        """The trials whose models are kept, the best one's first: several of a search with several objectives."""
        return sorted(self.folder.candidates(), key=lambda number: (number != self.best_number, number))

    @cached_property
    def pareto(self) -> list[TrialRecord]:
        """The finished trials that no other one dominates, the best score first.

        Of an experiment with several objectives those are compared, among the trials that keep to all constraints, the
        knee of the front first. Otherwise:

        Compared are the score, by the experiment's goal, and every measure of the saved models (``after``) that each of
        them has, of which the smaller number is better. A trial is dominated where another one is at least as good in
        all of these, and better in one. The dense model is not among them. Where models were saved, trials without one
        are left out; where none was, the score alone counts.
        """
        if len(self.objective.goals) > 1:
            wide = replace(self.objective, kept=max(1, len(self.records)))
            front = wide.select({n: one for n, one in self.ranking.judged.items() if one.is_feasible})
            return [self.records[number] for number in front]
        return pareto.front(self.searched, self.header["goal"])

    @property
    def front(self) -> list[TrialRecord]:
        """The trials of the Pareto front; see `pareto`."""
        return self.pareto


Experiment = SearchRecord
"""The name that notebooks written before `SearchRecord` know."""
