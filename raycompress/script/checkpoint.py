"""`checkpoint`: a trial that is lost goes on from where its script last said so, instead of from the start."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raycompress.disk import translate_os_errors
from raycompress.errors import CompressionError, StorageError, UsageError
from raycompress.script import context, statefile
from raycompress.script.workers import random_states
from raycompress.script.workers.agreement import agreed

_PAIRS = (("state_dict", "load_state_dict"), ("get_weights", "set_weights"), ("get_state", "set_state"))
"""How objects give their state, and take it back: modules, optimizers, schedulers; Keras models; generators."""


class Checkpoints:
    """Saves and loads the checkpoint of the trial that this process runs; by hand it does neither."""

    def __call__(self, **state: Any) -> None:
        """Save a checkpoint in place of the last one, from which the trial goes on if it is lost.

        What the compressor decided is saved with it, and where the random numbers of Python, numpy and torch stand. It
        is removed when the trial ends. Of several workers the first one's counts; random numbers are each worker's own.

        Parameters
        ----------
        **state
            By name: what has a ``state_dict()`` (models, optimizers, schedulers, scalers), a Keras model or optimizer,
            a generator of random numbers; or numbers, texts, lists, mappings, arrays and tensors.

        Raises
        ------
        UsageError
            There is nothing to save, or something that is none of these.
        StorageError
            The file cannot be written.

        Examples
        --------
        >>> checkpoint(epoch=3)
        """
        if not state:
            raise UsageError(
                "rc.checkpoint was given nothing to save",
                where="rc.checkpoint",
                fix="rc.checkpoint(model=model, optimizer=optimizer, epoch=epoch)",
            )
        trial = context.current()
        if trial is None or trial.checkpoint is None:
            return
        if not trial.is_loaded:
            raise UsageError(
                "the script saves a checkpoint and never loads one, so that a lost trial would start at its beginning",
                where="rc.checkpoint",
                fix="before the training: state = rc.checkpoint.load(model=model, optimizer=optimizer), which is None "
                'in a trial that was not lost, and the first epoch state["epoch"] + 1 where it is not',
            )
        trial.checkpoints += 1
        if trial.rank:  # the first worker's is that of all, but for random numbers
            generators = {name: one.get_state() for name, one in state.items() if _is_generator(one)}
            random_states.write_own(trial, _identity(trial), generators)
        else:
            compressors = _of_compressors(trial)
            if compressors is None:
                return
            statefile.write(trial.checkpoint, *_content(trial, state, compressors))
        trial.send({"type": "checkpoint", "results": trial.results})

    def load(self, **into: Any) -> dict[str, Any] | None:
        """Return what the trial's checkpoint holds; None where there is none, as in a trial that was not lost.

        Call it once, after ``compress()`` and before the training.

        Parameters
        ----------
        **into
            Objects that take their state back, by the names that they were saved under. The state of an object that
            was saved and is not named here is among what is returned.

        Raises
        ------
        UsageError
            The checkpoint has no such object, or its state does not fit.

        Examples
        --------
        >>> state = checkpoint.load()
        >>> first = 0 if state is None else state["epoch"] + 1
        """
        trial = context.current()
        if trial is None:
            return None
        trial.is_loaded, found = True, usable(trial)
        if found is None:
            return None
        _go_on(trial, found)
        own = random_states.read_own(trial, _identity(trial)) if trial.rank else None
        objects = {**found["objects"], **({} if own is None else own["generators"])}
        for name, one in into.items():
            if name not in objects:
                raise UsageError(
                    f'the checkpoint holds no state of "{name}": it holds {", ".join(objects) or "no object"}',
                    where="rc.checkpoint.load",
                    fix=f"save it too: rc.checkpoint({name}=..., ...)",
                )
            _restore(one, objects.pop(name), name)
        if not trial.rank:
            random_states.restore(found["random"])
        elif own is not None:
            random_states.restore(own["process"])
        else:
            print(
                f"raycompress: the random numbers of worker {trial.rank} begin anew: it had saved none", file=sys.stderr
            )
        return {**objects, **found["plain"]}


checkpoint = Checkpoints()


def usable(trial: context.Trial) -> Mapping[str, Any] | None:
    """Return the content of the checkpoint that an earlier start of a trial has left; None where there is none to use.

    That is decided once. One that cannot be used is left aside, and whoever supervises the trial is told why.
    """
    if trial.checkpoint is None or trial.is_decided:
        return trial.kept
    trial.is_decided = True
    if trial.rank:
        uses = agreed(trial, dict)
        trial.kept = _read_by_follower(trial, uses["about"]) if uses["uses"] else None
        return trial.kept
    about, why = statefile.read_about(trial.checkpoint), ""
    if about is not None and about["identity"] != _identity(trial):
        why = "it was saved by another script, or with another configuration"
    elif about is not None:
        try:
            trial.kept = {**statefile.read(trial.checkpoint), "about": about}
            if trial.agreed is not None:
                _keep_for_followers(trial.checkpoint)
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = f"it cannot be read ({type(error).__name__})"
    agreed(trial, lambda: {"uses": trial.kept is not None, "about": about})
    if about is not None and why:
        print(f"raycompress: the trial starts at its beginning, its checkpoint is left aside: {why}", file=sys.stderr)
        _tell(trial, about, why)
    return trial.kept


def _keep_for_followers(path: Path) -> None:
    """Keep the checkpoint under a second name: the first worker may save the next one before the others read this."""
    second = random_states.resumed(path)
    with translate_os_errors("cannot write", second):
        second.unlink(missing_ok=True)
        try:
            second.hardlink_to(path)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, second)


def _read_by_follower(trial: context.Trial, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the checkpoint that the first worker goes on from.

    Raises
    ------
    StorageError
        It is not seen here.
    """
    assert trial.checkpoint is not None
    for path in (random_states.resumed(trial.checkpoint), trial.checkpoint):  # on another machine the second alone
        if statefile.read_about(path) == about:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                return {**statefile.read(path), "about": about}
    raise StorageError(
        f"worker {trial.rank} does not see the checkpoint that worker 0 goes on from", where=str(trial.checkpoint)
    )


def _content(
    trial: context.Trial, state: Mapping[str, Any], compressors: list[Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a checkpoint says of itself, and what it holds; see `statefile.write`."""
    objects = {name: found for name, one in state.items() if (found := _state_of(one)) is not None}
    plain = {name: one for name, one in state.items() if name not in objects}
    scalars = {name: one for name, one in plain.items() if isinstance(one, bool | int | float | str)}
    about = {
        "identity": _identity(trial),
        "number": trial.checkpoints,
        "results": trial.results,
        "reported": {name: _number(value) for name, value in trial.reported.items()},
        "at": {name: _number(one) if isinstance(one, float) else one for name, one in scalars.items()},
        "seconds": round(trial.seconds + time.monotonic() - trial.started, 4),
    }
    content = {
        **{"objects": objects, "plain": plain, "compressors": compressors},
        **{"random": random_states.states(), "history": trial.history},
    }
    return about, content


def _go_on(trial: context.Trial, found: Mapping[str, Any]) -> None:
    """Count on from where the checkpoint was saved, and tell whoever supervises the trial."""
    about = found["about"]
    trial.results, trial.seconds = about["results"], about["seconds"]
    trial.checkpoints = about.get("number", 0)  # a checkpoint of an earlier raycompress has none
    trial.history = list(found.get("history", ()))  # a checkpoint of an earlier version has none
    trial.reported = {name: float(value) for name, value in about["reported"].items()}
    at = ", ".join(f"{name} {value}" for name, value in about["at"].items())
    print(f"raycompress: the trial goes on from its checkpoint{f': {at}' * bool(at)}", file=sys.stderr)
    _tell(trial, about, "", trial.history)


def _tell(
    trial: context.Trial, about: Mapping[str, Any], why: str, history: Sequence[Mapping[str, float | str]] = ()
) -> None:
    facts = {"results": about["results"], "at": about["at"], "seconds": about["seconds"], "values": about["reported"]}
    trial.send({"type": "continued", **facts, "history": list(history), "unused": why})


def _identity(trial: context.Trial) -> str:
    """Return what a checkpoint belongs to: the code of the script, and the trial's configuration."""
    config = {name: value for name, value in (trial.config or {}).items() if name != "folder_name"}  # of one machine
    text = json.dumps([trial.code, config], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _of_compressors(trial: context.Trial) -> list[Any] | None:
    """Return what the trial's compressors decided, in the order of their making; None where that cannot be kept."""
    try:
        return [state() for state in trial.compressors]
    except CompressionError as error:
        if not trial.is_told:
            trial.is_told = True
            print(f"raycompress: no checkpoint is saved yet: {error.problems[0].what}", file=sys.stderr)
        return None


def _state_of(one: Any) -> Any:
    """Return the state of an object; None for plain data."""
    if isinstance(one, type) or one is None:
        return None
    for name, _ in _PAIRS:
        get: Callable[[], Any] | None = getattr(one, name, None)
        if callable(get):
            return get()
    if hasattr(one, "save_own_variables"):  # an optimizer of Keras 3
        store: dict[str, Any] = {}
        one.save_own_variables(store)
        return store
    return None


def _is_generator(one: Any) -> bool:
    """Tell whether an object is a generator of random numbers, as torch's and numpy's are."""
    return not isinstance(one, type) and callable(getattr(one, "get_state", None)) and not hasattr(one, "state_dict")


def _restore(one: Any, state: Any, name: str) -> None:
    try:
        for get, put in _PAIRS:
            if callable(getattr(one, get, None)):
                getattr(one, put)(state)
                return
        if len(getattr(one, "variables", state)) != len(state):  # which Keras would leave at a warning
            raise ValueError("it has no variables yet: call optimizer.build(model.trainable_variables) before")
        one.load_own_variables(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
        raise UsageError(
            f'the checkpoint\'s state of "{name}" does not fit the {type(one).__name__}: {" ".join(lines[:2])}',
            where="rc.checkpoint.load",
            fix="load it where the model is what it was when rc.checkpoint saved it: after compress(), and after "
            "apply_speedup() where the model had been made small",
        ) from error


def _number(value: float) -> float | str:
    """Return a number as JSON can hold it."""
    return value if math.isfinite(value) else str(float(value))
