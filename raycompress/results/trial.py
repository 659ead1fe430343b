"""One trial of an experiment, as read from its journal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raycompress.states import TrialState

if TYPE_CHECKING:
    pass


@dataclass
class TrialRecord:
    """The journal's facts of one trial.

    Attributes
    ----------
    number
        0 is the dense model, through the same script.
    sample
        Dimension -> value, as proposed.
    values, score
        The last result by name, and the number the search compares; None without a result.
    before, after
        ``params``, ``flops`` (multiply-adds) and ``size_bytes`` of the model; None when nothing was exported.
    removed
        Layer -> (removed, of) output channels.
    notes
        What a person should know of the saved model.
    files
        What its script wrote into the folder that it ran in, ``trials/<number>/files``.
    seconds
        What it took, by the wall clock: from the start to the end, and before that, where it goes on from a checkpoint,
        from its first start to that.
    carried
        Of these the seconds before the checkpoint; 0 where it began at the beginning.
    attempts, starts
        How often its script was run after failures, and how often the trial was begun: a resumed search begins again
        what was running.
    slot
        Where it ran, from 0; None in journals of earlier versions.
    predicted
        ``params``, ``flops`` and ``size_bytes`` as foretold before the trial; None where they were not.
    repeat_of
        The trial whose sample it trained again, with another seed; None of most.
    rung0
        The score of its model before it was trained; None where that was not asked for.
    continued
        After how many results its last start went on from a checkpoint; None where it began at the beginning.
    earlier
        Its start before this one, whose results count where it goes on from a checkpoint.
    intermediate, steps
        Earlier results, and after how many iterations each came.
    """

    number: int
    sample: dict[str, Any]
    config: dict[str, Any]
    started: float
    baseline: bool = False
    state: TrialState = TrialState.RUNNING
    cause: str = ""
    values: dict[str, float] | None = None
    score: float | None = None
    before: dict[str, float] | None = None
    after: dict[str, float] | None = None
    removed: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    seconds: float | None = None
    carried: float = 0.0
    saved: bool = False
    attempts: int = 1
    starts: int = 1
    slot: int | None = None
    predicted: dict[str, float] | None = None
    repeat_of: int | None = None
    rung0: float | None = None
    continued: int | None = None
    earlier: TrialRecord | None = field(default=None, repr=False, compare=False)
    intermediate: list[dict[str, float]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    @property
    def last_start_seconds(self) -> float | None:
        """What its last start took: all of `seconds`, where it did not go on from a checkpoint."""
        return None if self.seconds is None else self.seconds - self.carried
