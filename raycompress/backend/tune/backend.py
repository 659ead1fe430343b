"""Ray Tune as the one who runs trials: on this machine's Ray, or on a cluster's."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.error import TuneError

from raycompress.backend.protocol import Continued, Ended, Event, Lost, Result, Started, TrialPlan, TrialRequest
from raycompress.backend.ray import private
from raycompress.backend.ray.machine import session_logs
from raycompress.backend.tune import adapters, slots
from raycompress.backend.tune.trainable import AGAIN, CONTINUED, LIVES, RUNG0, TIME, TrialActor, config_of
from raycompress.backend.tune.turns import Turns
from raycompress.config.options import Resources
from raycompress.errors import ClusterError
from raycompress.search.outcome import FACTS
from raycompress.states import TrialState


class TunesTrialActor(TrialActor, tune.Trainable):
    """A trial actor as Tune starts it by itself, where `private.actors_without_tune` cannot have it start another."""

    __init__ = tune.Trainable.__init__
    train = tune.Trainable.train
    reset = tune.Trainable.reset
    stop = tune.Trainable.stop
    get_auto_filled_metrics = tune.Trainable.get_auto_filled_metrics  # type: ignore[assignment]


class TuneBackend:
    """Hands trials to Tune and its events back; Ray must run.

    Tune owns its loop: it runs in a thread, and stands still while the search decides. See `Turns`.

    Parameters
    ----------
    plan
        What the trials share.
    n_slots
        How many run at a time; more than Ray has resources for would never start.
    resources
        What one trial asks for.
    """

    def __init__(self, plan: TrialPlan, n_slots: int, resources: Resources) -> None:
        self._plan = plan
        self._n_slots = n_slots
        self._resources = resources
        self._slots = slots.Slots(resources, n_slots, ray.available_resources)
        self._asked: deque[tuple[TrialRequest, int]] = deque()
        self._slot_of: dict[int, int] = {}
        self._number_of: dict[str, int] = {}
        self._under_way: set[int] = set()
        self._of_tune: dict[int, Any] = {}
        self._is_stopped = False
        self._is_closing = False
        self._is_killed = False
        self._waits: tuple[Any, bool] | None = None
        self._turns: Turns[Event] = Turns(self._fit)

    def room(self) -> int:
        """How many slots are free."""
        return self._slots.room()

    def start(self, trial: TrialRequest) -> None:
        """Keep a trial until Tune asks for one."""
        slot = self._slots.acquire()
        self._slot_of[trial.number] = slot
        self._under_way.add(trial.number)
        self._asked.append((trial, slot))

    def poll(self) -> Sequence[Event]:
        """Let Tune go on; a tenth of a second at most where nothing happens."""
        try:
            events = self._turns.receive()
        except TuneError as error:
            raise ClusterError(
                f"Ray Tune could not go on: {str(error).strip().splitlines()[-1]}",
                where=session_logs(),
                fix="read its logs there; `raycompress resume` goes on from here",
            ) from error
        if self._turns.is_over:
            raise ClusterError(
                "Ray Tune ended before the search did",
                where=session_logs(),
                fix="read its logs there; `raycompress resume` goes on from here",
            )
        return events

    def stop(self, number: int) -> None:
        """Have the actor kill the script, and Tune take the trial for ended."""
        assert self._waits is not None, "a trial is stopped at a result of its own"
        trial, runs_on = self._waits
        self._is_stopped = True
        self._under_way.discard(number)
        actor = private.actor_of(trial)
        if runs_on and actor is not None:  # else it does so when it is given its next trial
            ray.get(actor.abandon.remote())

    def close(self) -> None:
        """Kill the actors of trials that run: nobody waits for their ends. Their children die with the connection."""
        if self._turns.is_over:
            return
        self._is_closing = True
        self._is_killed = bool(self._under_way)
        self._asked.clear()
        try:
            self._turns.finish()
        except TuneError:
            if not self._is_killed:  # what Tune says of actors that were killed on purpose is of no interest
                raise

    # What follows runs in Tune's thread.

    def _fit(self) -> None:
        resources = self._resources  # the function below is pickled, and this object cannot be
        trainable = tune.with_resources(
            tune.with_parameters(TunesTrialActor, plan=self._plan),
            lambda config: slots.request(resources, config["slot"]),
        )
        trainable.__qualname__ = TrialActor.__qualname__  # in Ray's dashboard; Tune's own is of its wrapper
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                metric="score",
                mode="max",
                search_alg=adapters.Asking(self),
                num_samples=-1,
                max_concurrent_trials=self._n_slots,
                reuse_actors=True,
                trial_name_creator=lambda trial: f"trial-{trial.config['number']:04d}",
                trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}",
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(self._plan.folder.logs),
                verbose=0,
                progress_reporter=adapters.Silence(),
                stop=adapters.Reporting(self),
                callbacks=[adapters.Watching(self)],
                failure_config=tune.FailureConfig(max_failures=LIVES),  # no script's failure is one to Tune
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        # what it would print, with tracebacks, is in the journal, or is of Tune's own state, which nobody reads
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        with (
            slots.kept_actors(self._slots),
            private.without_telemetry_of_callbacks(),
            private.actors_without_tune(TrialActor, {"plan": self._plan}),
        ):
            tuner.fit()

    def next_config(self, trial_id: str) -> dict[str, Any] | None:
        """Return the config of the next trial; None where there is none now."""
        if not self._asked:
            self.tick()
        if not self._asked:
            return None
        trial, slot = self._asked.popleft()
        self._number_of[trial_id] = trial.number
        return {**config_of(trial), "slot": slot, "gpus": self._resources.gpu}

    @property
    def is_closing(self) -> bool:
        """Whether no trial will follow."""
        return self._is_closing

    def tick(self) -> None:
        """Let the search look whether it has something to start, or is to end."""
        self._turns.give([])

    def begun(self, trial: Any) -> None:
        """One of Tune's trials was given its actor."""
        number = trial.config["number"]
        self._of_tune[number] = trial
        self._turns.give([Started(number, trial.config["slot"])])

    def reported(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Hand a result or an end over; tell whether Tune takes the trial for ended."""
        number = self._number_of[trial_id]
        if result["done"]:
            self._under_way.discard(number)
            self._turns.give([_ended(number, result)])
            return False
        if result.get(CONTINUED):
            self._turns.give([Continued(number, **result[CONTINUED])])
            return any(self._ends_with(number, one) for one in result[AGAIN])
        return self._ends_with(number, result)

    def _ends_with(self, number: int, result: dict[str, Any]) -> bool:
        self._waits, self._is_stopped = (self._of_tune[number], result["state"] == TrialState.RUNNING), False
        self._turns.give([_result(number, result)])
        self._waits = None
        return self._is_stopped

    def lost(self, trial: Any, *, begins_again: bool) -> None:
        """The actor of one of Tune's trials has died."""
        self._slots.has_lost_an_actor = True
        number = trial.config["number"]
        if not begins_again:
            self._under_way.discard(number)
        self._turns.give([Lost(number, *_death(trial), begins_again=begins_again)])

    def ended(self, trial_id: str) -> None:
        """Tune has let go of a trial: its slot is free."""
        number = self._number_of.pop(trial_id)
        self._of_tune.pop(number, None)
        self._slots.give_back(self._slot_of.pop(number))

    def ends_all(self) -> bool:
        """Tell whether Tune is to end now; kill what runs if so."""
        if not self._is_killed:
            return False
        for trial in self._of_tune.values():
            actor = private.actor_of(trial)
            if actor is not None:
                ray.kill(actor)
        return True


def _result(number: int, result: dict[str, Any]) -> Result:
    over = result["state"] != TrialState.RUNNING
    return Result(
        number,
        result[TIME],
        result["values"],
        result["score"],
        result["seconds"],
        rung0=bool(result.get(RUNG0)),
        facts={name: result[name] for name in FACTS} if over else None,
        attempts=result["attempts"],
    )


def _ended(number: int, result: dict[str, Any]) -> Ended:
    facts = {name: result[name] for name in FACTS}
    return Ended(number, facts, result[TIME], result["attempts"], held=result["held"])


def _death(trial: Any) -> tuple[TrialState, str]:
    """Return the state of a trial whose actor died, and why, as Ray's last error of the trial says it."""
    report = Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure # ")[2].splitlines()[1:]
    text = re.sub(r" [0-9a-f]{24,}", "", " ".join(" ".join(report).split()))  # the ids of Ray
    state = TrialState.OUT_OF_MEMORY if "running low on memory" in text else TrialState.KILLED
    return state, f"the trial's actor died: {text[:300]}"
