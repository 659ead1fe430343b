"""The trial actor: one a slot, reused from trial to trial. It hands each trial to its node's warm process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from raycompress.results.states import TrialState
from raycompress.results.store import ExperimentFolder
from raycompress.tuning.worker import Ending, TrialSpec, WarmSpec, Worker, connect_or_start


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of an experiment share.

    Attributes
    ----------
    warm
        How to find, or start, the node's warm process.
    template
        A trial's specification without its config and its folder.
    compression
        The fixed part of a trial's config: compressor, framework and type.
    retries
        How often a failed trial is made again.
    stream
        Whether intermediate results are told as they come.
    """

    warm: WarmSpec
    folder: ExperimentFolder
    template: dict[str, Any]
    compression: dict[str, Any]
    retries: int
    stream: bool

    def saves_into(self, number: int) -> Path | None:
        """Return the folder that trial `number` saves its model into; None where it saves none, as the baseline."""
        return self.folder.candidate(number) if self.template["save_model"] and number != 0 else None


class TrialActor(tune.Trainable):
    """Runs trials one after another, each in a forked child of the warm process.

    A trial's end of any kind is a result with ``done`` and a ``state``: to Tune no trial fails, so no actor is thrown
    away and started anew because a script had an exception.
    """

    def setup(self, config: dict[str, Any], **shared: TrialPlan) -> None:
        """Connect to the node's warm process; Tune calls this once an actor."""
        self._plan = shared["plan"]
        self._worker: Worker | None = None
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        self._config = config
        self._attempt = 1
        self._attempts: list[dict[str, Any]] = []
        self._pending: dict[str, float] | None = None
        self._messages: Iterator[dict[str, Any] | Ending] | None = None
        self._started = time.monotonic()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; Tune calls this on an actor that it reuses."""
        self._stop_trial()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run until there is something to tell: an intermediate result, if asked for, or the end."""
        while True:
            if self._messages is None:
                self._messages = self._connected().run(self._spec())
            for message in self._messages:
                if isinstance(message, Ending):
                    break
                if message["type"] == "result" and self._plan.stream:
                    values = message["values"]
                    return {"state": TrialState.RUNNING, "values": values, "score": _first(values)}
            else:
                raise AssertionError("a trial's messages end with its ending")
            self._messages = None
            if not (message.state.is_failure and self._attempt <= self._plan.retries):
                return self._end(message)
            self._attempts.append({"attempt": self._attempt, "state": message.state, "cause": message.cause})
            self._plan.folder.keep_attempt(self._config["number"], self._attempt)
            self._attempt += 1

    def _connected(self) -> Worker:
        if self._worker is None or self._worker.is_closed:
            self._worker = connect_or_start(self._plan.warm)
        return self._worker

    def _spec(self) -> TrialSpec:
        # Ray has chosen this actor's devices; the child is no child of the actor and must be told
        devices = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")}
        if not self.trial_resources_gpu:
            devices["CUDA_VISIBLE_DEVICES"] = ""
        template = dict(self._plan.template)
        saves = self._plan.saves_into(self._config["number"]) is not None
        return TrialSpec(
            **{**template, "env": {**devices, **template["env"]}, "save_model": saves},
            mode="baseline" if self._config["baseline"] else "trial",
            config=self._config["config"],
            folder=str(self._plan.folder.trial(self._config["number"])),
            seed=self._config["seed"],
        )

    @property
    def trial_resources_gpu(self) -> float:
        """GPUs, or the fraction of one, that this trial was given."""
        resources = self.trial_resources
        return float(resources.required_resources.get("GPU", 0)) if resources is not None else 0.0

    def _end(self, ending: Ending) -> dict[str, Any]:
        candidate = ending.candidate if ending.state == TrialState.FINISHED else None
        facts = {
            "trial": self._config["number"],
            "state": ending.state,
            "cause": ending.cause,
            "values": ending.values,
            "score": _first(ending.values) if ending.state == TrialState.FINISHED else None,
            "seconds": round(ending.seconds, 4),
            "before": candidate and candidate["before"],
            "after": candidate and candidate["after"],
            "removed": candidate["removed"] if candidate else {},
            "notes": candidate["notes"] if candidate else [],
            "saved": candidate is not None and not self._config["baseline"],
        }
        if facts["saved"]:
            self._seal(facts)
        return {**facts, "attempts": self._attempts, "done": True}

    def _seal(self, facts: dict[str, Any]) -> None:
        from raycompress.results import bundle

        folder: Path = self._plan.folder.candidate(self._config["number"])
        bundle.seal(
            folder,
            {
                "experiment": self._plan.folder.id,
                "trial": facts["trial"],
                "sample": self._config["sample"],
                "seed": self._config["seed"],
                "metrics": facts["values"],
                "seconds": facts["seconds"],
            },
        )

    def _stop_trial(self) -> None:
        if self._messages is not None and self._worker is not None:
            self._worker.close()
            self._worker, self._messages = None, None

    def cleanup(self) -> None:
        """Let go of the warm process; a trial that still runs ends with that."""
        if self._worker is not None:
            self._worker.close()


def _first(values: dict[str, float] | None) -> float | None:
    return next(iter(values.values()), None) if values else None
