"""Every name of Ray that is not public and is used, or replaced, here.

Ray may rename any of them: each function does without where a name is gone. What that costs stands beside each.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
def without_dashboard() -> Iterator[None]:
    """Have a ``ray.init`` inside start no dashboard server, which it does with ``include_dashboard=False`` too.

    Where a name is gone, that part is started: a second or two, and a process.
    """
    node = _attribute("ray._private.node", "Node")
    starts = {name: getattr(node, name) for name in _SERVERS if hasattr(node, name)}
    for name in starts:
        setattr(node, name, _start_nothing)
    try:
        yield
    finally:
        for name, start in starts.items():
            setattr(node, name, start)


def _start_nothing(node: Any, *_: Any, **__: Any) -> None:
    node._webui_url = None  # which the server's start would have set


@contextmanager
def agent_on_a_free_port() -> Iterator[None]:
    """Have a ``ray.init`` inside let its agent listen on any free port; Ray's own choice is one fixed port.

    Where a name is gone, a second Ray on one machine has no agent that answers: it runs, without its Jobs API.
    """
    parameters = _attribute("ray._private.parameter")
    made = getattr(parameters, "RayParams", None)
    if made is None or _AGENT_PORT not in inspect.signature(made).parameters:
        yield
        return
    parameters.RayParams = functools.partial(made, **{_AGENT_PORT: 0})
    try:
        yield
    finally:
        parameters.RayParams = made


@contextmanager
def without_telemetry_of_callbacks() -> Iterator[None]:
    """Keep Tune from counting callbacks for its telemetry, which is off: it imports MLflow and W&B for that.

    Where the name is gone they are counted: seconds.
    """
    usage = _attribute("ray.air._internal", "usage")
    count = getattr(usage, "tag_callbacks", None)
    if count is None:
        yield
        return
    usage.tag_callbacks = lambda callbacks: False
    try:
        yield
    finally:
        usage.tag_callbacks = count


@contextmanager
def actor_cache(make: Callable[[], Any]) -> Iterator[None]:
    """Have Tune take what `make` makes for its cache of free actors.

    Where the name is gone Tune keeps actors by its own rules, and starts some anew between short trials: seconds each.
    """
    module = _attribute("ray.tune.execution.tune_controller")
    cache = getattr(module, "_ObjectCache", None)
    if cache is None:
        yield
        return
    module._ObjectCache = lambda may_keep_one=True: make()
    try:
        yield
    finally:
        module._ObjectCache = cache


@contextmanager
def trials_of_dead_actors_begun_again(is_loss_of_node: Callable[[Any], bool]) -> Iterator[None]:
    """Have Tune begin a trial again that was given a dead actor, and not count the loss of a node as a failure of it.

    Where a name is gone such a trial fails by Tune's rules: it ends once its failures are used up.
    """
    controller = _attribute("ray.tune.execution.tune_controller", "TuneController")
    process_failure = getattr(controller, "_process_trial_failure", None)
    if process_failure is None:
        yield
        return

    def begin_again(self: Any, trial: Any, exception: Any) -> None:
        getattr(self, "_resetting_trials", set()).discard(trial)
        if is_loss_of_node(exception):
            exception._preempted = True  # by which Tune does not count it among the trial's failures
        if trial.status == trial.PENDING and hasattr(self, "_set_trial_status"):
            self._set_trial_status(trial, trial.RUNNING)  # of which alone Tune takes the failure for recoverable
        process_failure(self, trial, exception)

    controller._process_trial_failure = begin_again
    try:
        yield
    finally:
        controller._process_trial_failure = process_failure


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
