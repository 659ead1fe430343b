"""What passes between a search and who runs its trials: what is asked to start, and what happens to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raycompress.config.objective import Objective
from raycompress.config.options import Resources
from raycompress.results.folder import ExperimentFolder
from raycompress.runtime.protocol import TrialSpec, WarmSpec
from raycompress.states import TrialState

Sample = dict[str, Any]


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a search share.

    Attributes
    ----------
    warm
        How to find, or start, a node's warm process; None where trials need none.
    folder
        Where trials make their files: the experiment's, or one on the disk of whichever machine a trial runs on.
    template
        A trial's specification without its config and its folder.
    compression
        The fixed part of a trial's config: compressor, framework and type.
    retries
        How often a failed trial is made again.
    stream
        Whether intermediate results are reported as they come.
    judged
        Whether one may end the trial: each is then reported when the next has come, since the last is the trial's end,
        and a model that is whole must not be lost to it.
    resources
        What one worker of a trial occupies, and how many there are.
    objective
        What a trial is judged by.
    """

    warm: WarmSpec | None
    folder: ExperimentFolder
    template: dict[str, Any]
    compression: dict[str, Any]
    retries: int
    stream: bool
    judged: bool = False
    resources: Resources = field(default_factory=Resources)
    objective: Objective = field(default_factory=lambda: Objective.of_score("max"))

    def saves_into(self, number: int) -> Path | None:
        """Return the folder that trial `number` saves its model into; None where it saves none, as the baseline."""
        return self.folder.candidate(number) if self.template["save_model"] and number != 0 else None

    def spec(self, trial: TrialRequest, **more: Any) -> TrialSpec:
        """Return what the process that runs the script of `trial` needs to know; `more` replaces parts of it."""
        parts = {
            **self.template,
            "save_model": self.saves_into(trial.number) is not None,
            "mode": "baseline" if trial.baseline else "trial",
            "config": trial.config,
            "folder": str(self.folder.trial(trial.number)),
            "seed": trial.seed,
        }
        return TrialSpec(**{**parts, **more})


@dataclass(frozen=True)
class TrialRequest:
    """A trial that is to be run.

    Attributes
    ----------
    number
        0 is the dense model's.
    sample
        Dimension -> value.
    config
        What the script finds in the file that ``sys.argv[-1]`` names.
    seed
        Of the script's random numbers; None for fresh entropy.
    budgets
        The script is run once for each of them, with it in ``n_iterations``; none for a trial of one run.
    predicted
        The sizes that were foretold; None where they are not known before the trial.
    repeat_of
        The trial whose sample this one trains again.
    """

    number: int
    sample: Sample
    config: dict[str, Any]
    seed: int | None = None
    budgets: tuple[int, ...] = ()
    predicted: Mapping[str, float] | None = None
    repeat_of: int | None = None

    @property
    def baseline(self) -> bool:
        """Whether it is the dense model's."""
        return self.number == 0

    @property
    def runs_to_its_end(self) -> bool:
        """Whether no rule may end it early: the dense model's trial, and one that trains a sample again."""
        return self.baseline or self.repeat_of is not None


@dataclass(frozen=True)
class Started:
    """A trial runs from now on; once more for one that is begun again.

    Attributes
    ----------
    slot
        Which of the trials that run at a time it is.
    """

    number: int
    slot: int | None = None


@dataclass(frozen=True)
class Result:
    """A trial reports something and waits to hear whether it goes on.

    Attributes
    ----------
    step
        How many results there were, or the budget of the run that is over.
    score
        What `values` are worth; None where they do not tell.
    seconds
        What the trial has taken so far.
    rung0
        Whether it is the score of the model before it trains: `step` is then 0 and `values` are empty.
    facts
        Where a whole run of the script is over and one with a larger budget would follow: what becomes of the trial if
        it ends here; see `raycompress.search.outcome.FACTS`.
    attempts
        With `facts`: the attempts that have failed so far.
    """

    number: int
    step: int
    values: Mapping[str, float]
    score: float | None
    seconds: float = 0.0
    rung0: bool = False
    facts: Mapping[str, Any] | None = None
    attempts: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Ended:
    """A trial has ended by itself.

    Attributes
    ----------
    facts
        What became of it; see `raycompress.search.outcome.FACTS`.
    step
        How many results there were, or the budget of its last run.
    attempts
        Those that failed and were made again: ``attempt``, ``state`` and ``cause`` of each.
    held
        Whether its last result was kept back, and has not been reported as one.
    """

    number: int
    facts: Mapping[str, Any]
    step: int = 0
    attempts: Sequence[Mapping[str, Any]] = ()
    held: bool = False


@dataclass(frozen=True)
class Lost:
    """The process that ran a trial is gone, by no fault of the script's.

    Attributes
    ----------
    begins_again
        Whether the trial is run once more; else it has ended.
    """

    number: int
    state: TrialState
    cause: str
    begins_again: bool


@dataclass(frozen=True)
class Continued:
    """A trial that was begun again goes on from its checkpoint, or leaves that aside.

    Attributes
    ----------
    step
        How many results of before count: the next one is the one after that.
    at
        The numbers and texts that its script saved with the checkpoint, such as the epoch.
    seconds
        What the trial had taken when it was saved.
    unused
        Why it is left aside, in which case the trial starts at its beginning; empty otherwise.
    """

    number: int
    step: int
    at: Mapping[str, Any]
    seconds: float
    unused: str = ""


Event = Started | Result | Ended | Lost | Continued
