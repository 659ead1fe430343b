"""Tune's logger for W&B, which says when it failed."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.air.integrations.wandb import WandbLoggerCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class WandbLogger(WandbLoggerCallback):
    """Tune's logger, which gives each trial an actor; Tune passes over the failure of one, and here it is raised.

    Raises
    ------
    Exception
        What ended a trial's logging actor, when the actor is let go.
    TimeoutError
        The actor had not sent everything when time was up.
    """

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Look for the project and the key; `_remote_logger_class` is then what Tune makes a trial's actor from."""
        super().setup(*args, **kwargs)  # type: ignore[no-untyped-call]
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        told = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
        # unlike Tune's, without restarts: one that died would begin its run again
        options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here, "runtime_env": {"env_vars": told}}
        self._remote_logger_class: Any = ray.remote(**options)(self._logger_actor_cls)

    def _cleanup_logging_actor(self, trial: Any) -> None:
        future = self._trial_logging_futures[trial]
        is_done, _ = ray.wait([future], timeout=0)
        super()._cleanup_logging_actor(trial)
        if not is_done:
            raise TimeoutError(f"{trial} was not sent within {self._upload_timeout} s")
        ray.get(future)
