"""Every name of Ray that is not public and is used, or replaced, here.

Ray may rename any of them: each function does without where a name is gone. What that costs stands beside each.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_AGENT_PORT = "dashboard_agent_listen_port"
_SERVERS = ("start_api_server", "start_monitor", "start_log_monitor")


def _attribute(module: str, *names: str) -> Any:
    """Return an attribute of one of Ray's modules; None where there is no such module or name."""
    try:
        found: Any = importlib.import_module(module)
    except ImportError:
        return None
    for name in names:
        found = getattr(found, name, None)
    return found


@contextmanager
def _replaced(owner: Any, name: str, replacement: Callable[[Any], Any]) -> Iterator[None]:
    """Put ``replacement(what is there)`` in the place of an attribute for a while; nothing, where there is none."""
    was = getattr(owner, name, None)
    if was is None:
        yield
        return
    setattr(owner, name, replacement(was))
    try:
        yield
    finally:
        setattr(owner, name, was)


@contextmanager
def without_dashboard() -> Iterator[None]:
    """Have a ``ray.init`` inside start no dashboard server, which it does with ``include_dashboard=False`` too.

    Where a name is gone, that part is started: a second or two, and a process.
    """
    node = _attribute("ray._private.node", "Node")
    with ExitStack() as stack:
        for name in _SERVERS:
            stack.enter_context(_replaced(node, name, lambda _start: _start_nothing))
        yield


def _start_nothing(node: Any, *_: Any, **__: Any) -> None:
    node._webui_url = None  # which the server's start would have set


def agent_on_a_free_port() -> AbstractContextManager[None]:
    """Have a ``ray.init`` inside let its agent listen on any free port; Ray's own choice is one fixed port.

    Where a name is gone, a second Ray on one machine has no agent that answers: it runs, without its Jobs API.
    """

    def free(made: Any) -> Any:
        known = _AGENT_PORT in inspect.signature(made).parameters
        return functools.partial(made, **{_AGENT_PORT: 0}) if known else made

    return _replaced(_attribute("ray._private.parameter"), "RayParams", free)


def without_telemetry_of_callbacks() -> AbstractContextManager[None]:
    """Keep Tune from counting callbacks for its telemetry, which is off: it imports MLflow and W&B for that.

    Where the name is gone they are counted: seconds.
    """
    return _replaced(_attribute("ray.air._internal", "usage"), "tag_callbacks", lambda _count: lambda _callbacks: False)


def actor_cache(make: Callable[[], Any]) -> AbstractContextManager[None]:
    """Have Tune take what `make` makes for its cache of free actors.

    Where the name is gone Tune keeps actors by its own rules, and starts some anew between short trials: seconds each.
    """
    module = _attribute("ray.tune.execution.tune_controller")
    return _replaced(module, "_ObjectCache", lambda _cache: lambda may_keep_one=True: make())


_OF_ACTORS = ("_ActorClassCache", "_get_trainable_kwargs")
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")


@contextmanager
def actors_without_tune(actor: type, shared: Mapping[str, Any]) -> Iterator[None]:
    """Have Tune start `actor` for its trials: a class that does what Tune calls of a Trainable, and does not import it.

    Where a name is gone actors are those of the class that Tune was given: a second of CPU time more for each.

    Parameters
    ----------
    shared
        What each actor is given beside its config.
    """
    module = _attribute("ray.tune.execution.tune_controller")
    controller = getattr(module, "TuneController", None)
    if not all(hasattr(module, name) for name in _OF_ACTORS) or not hasattr(controller, "_schedule_trial_task"):
        yield
        return
    import ray

    variables = {name: os.environ[name] for name in _CREDENTIALS if name in os.environ}
    remote: Any = ray.remote(runtime_env={"env_vars": variables})(actor) if variables else ray.remote(actor)
    references = {name: ray.put(value) for name, value in shared.items()}

    def plain(config: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in config.items() if not name.startswith("__")}  # objects of Tune's

    def arguments(of_trial: Any) -> Any:
        return lambda trial: {"config": plain(of_trial(trial)["config"]), **references}

    def task(schedule: Any) -> Any:
        def scheduled(self: Any, trial: Any, method_name: str, args: Any = (), kwargs: Any = None, **more: Any) -> Any:
            if method_name == "reset":
                args, kwargs = (plain(args[0]),), {}
            return schedule(self, trial=trial, method_name=method_name, args=args, kwargs=kwargs, **more)

        return scheduled

    with (
        _replaced(module, "_ActorClassCache", lambda _cache: lambda: SimpleNamespace(get=lambda _trainable: remote)),
        _replaced(module, "_get_trainable_kwargs", arguments),
        _replaced(controller, "_schedule_trial_task", task),
    ):
        yield


def trials_of_dead_actors_begun_again(is_loss_of_node: Callable[[Any], bool]) -> AbstractContextManager[None]:
    """Have Tune begin a trial again that was given a dead actor, and not count the loss of a node as a failure of it.

    Where a name is gone such a trial fails by Tune's rules: it ends once its failures are used up.
    """

    def beginning_again(process_failure: Any) -> Any:
        def begin_again(self: Any, trial: Any, exception: Any) -> None:
            getattr(self, "_resetting_trials", set()).discard(trial)
            if getattr(trial, "local_path", None):  # where Tune writes what happened
                Path(trial.local_path).mkdir(parents=True, exist_ok=True)
            if is_loss_of_node(exception):
                exception._preempted = True  # by which Tune does not count it among the trial's failures
            if trial.status == trial.PENDING and hasattr(self, "_set_trial_status"):
                self._set_trial_status(trial, trial.RUNNING)  # of which alone Tune takes the failure for recoverable
            process_failure(self, trial, exception)

        return begin_again

    controller = _attribute("ray.tune.execution.tune_controller", "TuneController")
    return _replaced(controller, "_process_trial_failure", beginning_again)


def actor_of(trial: Any) -> Any:
    """Return the actor that runs one of Tune's trials; None where it has none, or where the name is gone.

    The script of a trial that is stopped then runs on until its actor has another trial, or until Ray ends.
    """
    return getattr(getattr(trial, "temporary_state", None), "ray_actor", None)


def name_process(name: str) -> None:
    """Call this actor's process `name` in the dashboard's list of workers, in `ps` and in `nvidia-smi`.

    An actor's own names are fixed when it is made, and it runs many trials. Where the name is gone nothing is named.
    """
    set_title = _attribute("ray._raylet", "setproctitle")
    if set_title is not None:
        set_title(name)
