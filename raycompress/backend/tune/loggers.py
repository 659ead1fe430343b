"""Tune's own loggers, TensorBoard, MLflow and W&B, as an experiment file names them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import ray
from ray.air.integrations.wandb import WandbLoggerCallback
from ray.tune.logger import LoggerCallback, TBXLoggerCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raycompress.config.experiment import Experiment
from raycompress.errors import ExperimentError, Problem
from raycompress.results.folder import ExperimentFolder
from raycompress.search.watch.loggers import in_a_line


def set_up(experiment: Experiment, folder: ExperimentFolder) -> dict[str, LoggerCallback]:
    """Return the loggers that the experiment names, ready to be told.

    Raises
    ------
    ExperimentError
        One does not start: its server does not answer, or wants a key.
    """
    ready = {}
    for index, name in enumerate(experiment.loggers):
        make, fix = _LOGGERS[name]
        try:
            ready[name] = make(experiment, folder)
            ready[name].setup()
        except Exception as error:
            what = f'the logger "{name}" does not start: {in_a_line(error)}'
            raise ExperimentError.of([Problem(what, experiment.where(("loggers", index)), fix)]) from error
    return ready


def _tensorboard(experiment: Experiment, folder: ExperimentFolder) -> LoggerCallback:
    return TBXLoggerCallback()  # type: ignore[no-untyped-call]


def _mlflow(experiment: Experiment, folder: ExperimentFolder) -> LoggerCallback:
    # a server that is gone is given up in seconds, not minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    logger = MLflowLoggerCallback(
        os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder.logs / 'mlflow.db'}"),
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", experiment.name),
        tags={"raycompress": folder.id},
    )
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # the terminal is the search's
    return logger


def _wandb(experiment: Experiment, folder: ExperimentFolder) -> LoggerCallback:

    project = os.environ.get("WANDB_PROJECT_NAME") or os.environ.get("WANDB_PROJECT") or experiment.name
    return WandbLogger(project=project, group=folder.id, upload_timeout=60, dir=str(folder.logs))


_LOGGERS: dict[str, tuple[Callable[[Experiment, ExperimentFolder], LoggerCallback], str]] = {
    "tensorboard": (_tensorboard, ""),
    "mlflow": (_mlflow, "look at MLFLOW_TRACKING_URI; without it, MLflow's file lies in the experiment's folder"),
    "wandb": (_wandb, "`wandb login`, or WANDB_MODE=offline, which writes into the experiment's folder alone"),
}


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
        environment = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
        # unlike Tune's, without restarts: one that died would begin its run again
        options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here, "runtime_env": {"env_vars": environment}}
        self._remote_logger_class: Any = ray.remote(**options)(_until_written(self._logger_actor_cls))

    def _cleanup_logging_actor(self, trial: Any) -> None:
        future = self._trial_logging_futures[trial]
        is_done, _ = ray.wait([future], timeout=0)
        super()._cleanup_logging_actor(trial)
        if not is_done:
            raise TimeoutError(f"{trial} was not sent within {self._upload_timeout} s")
        ray.get(future)


def _until_written(actor: Any) -> type:
    """Return Tune's class of logging actors, with a ``run`` that ends when W&B's process has written its file.

    ``wandb.finish`` may come back before that, and Ray ends the processes that an actor has started with the actor.
    """

    class Actor(actor):  # type: ignore[misc]
        def run(self) -> None:
            super().run()
            import wandb

            wandb.teardown()

    return Actor
