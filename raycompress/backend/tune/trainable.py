"""The trial actor: one a slot, reused from trial to trial. It hands each trial to its node's warm process.

Nothing here imports Ray Tune, which takes each actor a second of CPU time.
"""

from __future__ import annotations

import fcntl
import math
import os
import platform
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from typing import Any

from raycompress.backend.ray.private import name_process
from raycompress.backend.tune.workers import VISIBLE, WorkerGroup
from raycompress.config.objective import metrics_of
from raycompress.errors import RaycompressError
from raycompress.runtime.client import Ending, TrialSpec, Worker, connect_or_start
from raycompress.runtime.protocol import Message, numbers
from raycompress.script.node import locked
from raycompress.search.outcome import NOTHING, delivered, facts_of, sealed
from raycompress.search.trials import TrialPlan, TrialRequest
from raycompress.states import TrialState

LIVES = 3
"""How often a trial is begun again because a process of it died."""


@contextmanager
def room(environment: Mapping[str, str], *, alone: bool) -> Iterator[None]:
    """Be on the GPUs that `environment` shows, with others or alone; waits until that is possible.

    Who waits to be alone keeps others from coming in, so that it is not passed over for ever.
    """
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    devices = {device for name in VISIBLE for device in environment.get(name, "").split(",") if device}
    with ExitStack() as stack:
        for device in sorted(devices):  # in one order for all, or two could wait for each other
            name = device.replace("/", "-")
            with locked(f"gpu-{name}.door"):
                stack.enter_context(locked(f"gpu-{name}.room", kind))
        yield


TIME = "iterations"
"""What a result counts by: the budget of the run that gave it, or how many results the trial has reported."""

RUNG0 = "rung0"
"""Whether a result is the score of a model before it trains."""

CONTINUED = "continued"
"""What a result says of the checkpoint that its trial goes on from, in place of numbers: fields of `Continued`."""

AGAIN = "again"
"""With that, the results from before the checkpoint, in turn."""


def config_of(trial: TrialRequest) -> dict[str, Any]:
    """Return a trial as Tune carries it to an actor."""
    return {
        "number": trial.number,
        "sample": trial.sample,
        "baseline": trial.baseline,
        "seed": trial.seed,
        "budgets": trial.budgets,
        "config": trial.config,
    }


class TrialActor:
    """Runs trials one after another, each in a forked child of the warm process.

    To Tune it is a Trainable: `train`, `reset`, `stop` and `get_auto_filled_metrics` are what Tune's controller calls.

    A trial whose config names ``budgets`` is a run of the script for each of them, every run from the start, with its
    budget in ``n_iterations``; after each the scheduler decides whether the trial goes on.

    A trial's end of any kind is a result with ``done`` and a ``state``: to Tune no trial fails, so no actor is thrown
    away and started anew because a script had an exception.
    """

    def __init__(self, config: dict[str, Any], **shared: TrialPlan) -> None:
        self._count, self._total = 0, 0.0
        self.setup(config, **shared)

    def train(self) -> dict[str, Any]:
        """Return the next result, with what Tune looks for in one."""
        started = time.monotonic()
        result = self.step()
        seconds = time.monotonic() - started
        self._count, self._total = self._count + 1, self._total + seconds
        counted = {"training_iteration": self._count, "time_this_iter_s": seconds, "time_total_s": self._total}
        return {**result, **counted, **self.get_auto_filled_metrics()}

    def get_auto_filled_metrics(self, **_: Any) -> dict[str, Any]:
        """Return where this actor runs."""
        import ray

        address: Callable[[], str] = ray.util.get_node_ip_address
        return {"pid": os.getpid(), "hostname": platform.node(), "node_ip": address()}

    def reset(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial."""
        self._count, self._total = 0, 0.0
        return self.reset_config(new_config)

    def stop(self) -> None:
        """End."""
        self.cleanup()

    def setup(self, config: dict[str, Any], **shared: TrialPlan) -> None:
        """Prepare for the first trial; the warm process is joined once it is needed."""
        self._plan = shared["plan"]
        self._worker: Worker | None = None
        self._group = WorkerGroup(self._plan)
        self._begin(config)

    def __repr__(self) -> str:
        """Return what Ray's dashboard calls the actor; Ray asks once, and the actor outlives its first trial."""
        return f"slot-{self._config['slot']}"

    def _begin(self, config: dict[str, Any]) -> None:
        self._config = config
        self._attempt = 1
        self._failures = self._losses = 0
        self._is_alone = False
        self._attempts: list[dict[str, Any]] = []
        self._budgets: list[int] = list(config["budgets"])
        self._begun = False
        self._spent = 0
        self._results = 0
        self._told = 0
        self._held: dict[str, Any] | None = None
        self._seconds = self._carried = 0.0
        self._messages: Generator[Message | Ending, None, None] | None = None
        self._started = time.monotonic()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """End what is left of the trial before, and take the next."""
        self._stop_trial()
        self._plan.folder.clear(self._config["number"])
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run until there is something to tell: an intermediate result, if asked for, or the end."""
        name_process(f"ray::trial-{self._config['number']:04d}")  # Ray names it anew before each call
        try:
            return self._run_on()
        except (RaycompressError, OSError) as error:  # no fault of the script's: a full disk, a folder that is gone
            self._messages = None
            problem = error.problems[0] if isinstance(error, RaycompressError) else None
            cause = f"{problem.what} ({problem.where})" if problem else f"{error}"
            return self._end_of_run(
                Ending(TrialState.FAILED, cause, self._plan.folder.log(self._config["number"]), 0.0)
            )

    def _run_on(self) -> dict[str, Any]:
        while True:
            if self._messages is None:
                self._messages = self._next_run()
            for message in self._messages:
                if isinstance(message, Ending):
                    break
                if message["type"] == "rung0" and math.isfinite(message["score"]):
                    return {**_RUNNING, "values": {}, "score": message["score"], RUNG0: True, TIME: 0}
                if message["type"] == "checkpoint":
                    self._plan.folder.deliver_checkpoint(self._config["number"])
                if message["type"] == "continued":
                    return self._continue(message)
                if message["type"] == "result" and self._streams:
                    result = self._to_report(message["values"])
                    if result is not None:
                        return result
            else:
                raise AssertionError("a trial's messages end with its ending")
            self._messages = None
            wants_room, is_lost = self._wants_room(message), self._is_lost(message)
            fails = message.state.is_failure and self._failures < self._plan.retries
            if not (wants_room or is_lost or fails):
                return self._end_of_run(message)
            self._losses += is_lost
            self._failures += not (wants_room or is_lost)
            self._is_alone |= wants_room
            cause = f"{message.cause}; once more, alone on its GPU" if wants_room else message.cause
            self._attempts.append({"attempt": self._attempt, "state": message.state, "cause": cause})
            self._plan.folder.put_aside(self._config["number"], f"attempt-{self._attempt}")
            self._attempt += 1
            self._results, self._held, self._carried = 0, None, 0.0

    def _wants_room(self, ending: Ending) -> bool:
        """Tell whether the trial may fit on its GPU when no other one is there; that is tried once, and no retry."""
        return ending.state == TrialState.OUT_OF_MEMORY and self._shares_gpu and not self._is_alone

    def _is_lost(self, ending: Ending) -> bool:
        """Tell whether one of several workers was killed, or its machine is gone: the trial is then begun again."""
        is_lost = ending.state == TrialState.KILLED and self._plan.resources.workers > 1
        return is_lost and self._losses < LIVES

    @property
    def _shares_gpu(self) -> bool:
        return 0 < self.trial_resources_gpu < 1

    def _to_report(self, values: dict[str, float]) -> dict[str, Any] | None:
        """Take the script's next result; return what is to be told now, if anything is."""
        self._results += 1
        seconds = round(self._carried + time.monotonic() - self._started, 4)
        now: dict[str, Any] | None
        now = {**_RUNNING, "values": values, "score": self._score(values), "seconds": seconds, TIME: self._results}
        if self._plan.judged:
            now, self._held = self._held, now
        if now is None or now[TIME] <= self._told:  # by an attempt that failed later
            return None
        self._told = now[TIME]
        return now

    def _continue(self, message: Message) -> dict[str, Any]:
        """Count on from the results that came before the checkpoint; return what is to be told of it.

        Those results are told once more, all with it: what a process had not passed on when it was lost is lost with
        it. The search leaves out those that it has.
        """
        step, again = message["results"], []
        if not message["unused"]:
            # a checkpoint of an earlier version has the last one alone
            earlier = message["history"] or [message["values"]] * bool(step)
            self._results, self._held, self._carried = step - len(earlier), None, message["seconds"]
            self._told = 0
            results = [self._to_report(numbers(values)) for values in earlier if self._streams]
            again = [result for result in results if result is not None]
            self._results = step
        facts = {"step": step, **{name: message[name] for name in ("at", "seconds", "unused")}}
        return {**_RUNNING, "values": {}, "score": None, CONTINUED: facts, AGAIN: again, TIME: step}

    def _score(self, values: dict[str, float]) -> float | None:
        return self._plan.objective.score(metrics_of(values, None))

    @property
    def _streams(self) -> bool:
        return self._plan.stream and not self._config["budgets"]

    def _next_run(self) -> Generator[Message | Ending, None, None]:
        if not self._begun:
            self._begun = True
            self._plan.folder.put_aside_earlier_start(self._config["number"])
            self._plan.folder.fetch_checkpoint(self._config["number"])
        if self._spent:
            self._plan.folder.put_aside(self._config["number"], f"iterations-{self._spent}")
            self._plan.folder.remove_checkpoint(self._config["number"])  # each run is from the start
            self._spent = 0
        return self._in_its_room(self._spec())

    def _in_its_room(self, spec: TrialSpec) -> Generator[Message | Ending, None, None]:
        if self._plan.resources.workers > 1:
            yield from self._with_others(spec)
            return
        with room(os.environ, alone=self._is_alone) if self._shares_gpu else nullcontext():
            yield from self._connected().run(spec)

    def _with_others(self, spec: TrialSpec) -> Generator[Message | Ending, None, None]:
        """Run the first worker of the trial here, and the others beside it."""
        import ray

        worker = self._connected()
        try:
            with (
                self._group.run(spec, self._config["number"], worker.stop) as first,
                closing(worker.run(first)) as messages,
            ):
                for message in messages:
                    if isinstance(message, Ending):
                        yield self._group.verdict(message)
                    elif message["type"] == "agreed":
                        self._group.publish(message["number"])
                    else:
                        yield message
        except ray.exceptions.RayActorError:
            yield Ending(TrialState.KILLED, "the actor of a worker died as it began", spec.log_path, 0.0)

    def _connected(self) -> Worker:
        if self._worker is None or self._worker.is_closed:
            assert self._plan.warm is not None, "trials on Ray are forked from a warm process"
            self._worker = connect_or_start(self._plan.warm)
        return self._worker

    def _spec(self) -> TrialSpec:
        # Ray has chosen this actor's devices; the child is no child of the actor and must be told
        devices = {name: os.environ.get(name) for name in VISIBLE}
        if not self.trial_resources_gpu:
            devices["CUDA_VISIBLE_DEVICES"] = ""
        template = dict(self._plan.template)
        saves = self._plan.saves_into(self._config["number"]) is not None
        return TrialSpec(
            **{**template, "env": {**devices, **template["env"]}, "save_model": saves},
            mode="baseline" if self._config["baseline"] else "trial",
            config={**self._config["config"], **({"n_iterations": self._budgets[0]} if self._budgets else {})},
            folder=str(self._plan.folder.trial(self._config["number"])),
            seed=self._config["seed"],
        )

    @property
    def trial_resources_gpu(self) -> float:
        """GPUs, or the fraction of one, that this trial was given."""
        return float(self._config.get("gpus", 0.0))

    def _end_of_run(self, ending: Ending) -> dict[str, Any]:
        """Return what the run gave: the trial's end, or, where a larger budget follows, what it is judged by."""
        self._seconds += self._carried + ending.seconds
        self._carried = 0.0
        facts: dict[str, Any] = facts_of(
            ending, self._plan.objective, baseline=self._config["baseline"], seconds=self._seconds
        )
        if facts["saved"]:
            facts = sealed(self._plan.folder, self._config, facts)
        facts = delivered(self._plan.folder, self._config["number"], facts)
        facts["attempts"] = self._attempts
        if not self._budgets:
            return {**facts, TIME: self._results, "done": True, "held": self._held is not None}
        self._spent = self._budgets.pop(0)
        is_last = not self._budgets or facts["state"] != TrialState.FINISHED
        return {**facts, TIME: self._spent, "held": False, "done": is_last}

    def abandon(self) -> None:
        """Kill the script of a trial that the scheduler has ended, and wait for that; the driver calls this."""
        self._stop_trial()
        delivered(self._plan.folder, self._config["number"], NOTHING)

    def _stop_trial(self) -> None:
        if self._messages is not None:
            self._messages.close()  # which waits until the last of its processes is gone
            self._messages = None

    def cleanup(self) -> None:
        """Let go of the warm process; a trial that still runs ends with that."""
        self._group.close()
        if self._worker is not None:
            self._worker.close()
        self._plan.folder.clear(self._config["number"])


_RUNNING = {"state": TrialState.RUNNING, "attempts": [], "done": False, "held": False, RUNG0: False, "seconds": 0.0}
