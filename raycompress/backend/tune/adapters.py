"""What Tune is given to ask for trials and to report of them; each hands on to the backend, and decides nothing."""

from __future__ import annotations

from typing import Any, Protocol

from ray.tune import Callback, ProgressReporter, Stopper
from ray.tune.search import Searcher


class Trials(Protocol):
    """The backend, as Tune's thread sees it; see `raycompress.backend.tune.backend.TuneBackend`."""

    @property
    def is_closing(self) -> bool:
        """Whether no trial will follow."""

    def next_config(self, trial_id: str) -> dict[str, Any] | None:
        """Return the config of the next trial; None where there is none now."""

    def tick(self) -> None:
        """Nothing has happened for a moment."""

    def begun(self, trial: Any) -> None:
        """A trial was given its actor."""

    def reported(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether a trial ends with a result."""

    def lost(self, trial: Any, *, begins_again: bool) -> None:
        """The actor of a trial has died."""

    def ended(self, trial_id: str) -> None:
        """Tune has let go of a trial."""

    def ends_all(self) -> bool:
        """Return whether Tune is to end now."""


class _DriverOnly:
    """Something that lives in the driver alone.

    Tune pickles what it is given, for a restore of its own; ours goes by the journal, so the copy may be empty.
    """

    def __getstate__(self) -> dict[str, object]:
        return {}


class Asking(_DriverOnly, Searcher):
    """Tune asks it for trials."""

    def __init__(self, trials: Trials) -> None:
        super().__init__(metric="score", mode="max")
        self._trials = trials

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the config of the next trial; None: not yet; Tune's FINISHED: no more."""
        config = self._trials.next_config(trial_id)
        no_more: Any = Searcher.FINISHED
        return no_more if config is None and self._trials.is_closing else config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial is over for Tune too."""
        self._trials.ended(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the truth, and a resumed search starts from it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as `save`."""


class Reporting(_DriverOnly, Stopper):
    """Tune shows it every result as it is, and asks whether the trial, or all, end there."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Tell whether a trial ends with this result."""
        return self._trials.reported(trial_id, result)

    def stop_all(self) -> bool:
        """Tell whether Tune is to end."""
        return self._trials.ends_all()


class Watching(_DriverOnly, Callback):
    """Tune tells it when trials start, and when their actors die."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune's loop goes round."""
        self._trials.tick()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial was given its actor."""
        self._trials.begun(trial)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The actor failed, and the trial is begun again with another."""
        self._trials.lost(trial, begins_again=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The actor itself, not the script, failed once too often: the node, or Ray."""
        self._trials.lost(trial, begins_again=False)


class Silence(ProgressReporter):
    """Prints nothing: the search's view does; Tune's own reporter clears the output of a notebook's cell."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        """Never."""
        return False

    def report(self, trials: list[Any], done: bool, *sys_info: str) -> None:
        """Nothing."""
