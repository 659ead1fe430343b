"""Limits a search that a library runs with the script's functions: its time, and their exceptions and answers."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import numbers
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

from raycompress.errors import CompressionError, ExperimentError

_REPEAT_S = 5.0
"""Seconds after which the alarm is repeated, in case a bare ``except`` of script or library caught the first."""


class _Expired(BaseException):
    """The time is up. A BaseException, so that no library catches it as a failure of its own."""


class _Raised(BaseException):
    """Carries an exception of the script's function through the library. A BaseException, as `_Expired` is."""


class Bound:
    """One search under way; made by `bounded`.

    Attributes
    ----------
    evaluations
        How many candidates the script's evaluator has judged.
    """

    def __init__(self, seconds: float, method: str) -> None:
        self.evaluations = 0
        self._method, self._seconds = method, seconds
        self._end = time.monotonic() + seconds
        self._stdout = sys.stdout
        self.raised: Exception | None = None

    def check(self) -> None:
        """Raise if the time is up; outside the main thread, which gets the alarm, this is the only check."""
        if time.monotonic() > self._end:
            raise _Expired

    def call(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` of the script as a library should call it: what it raises comes out of `bounded` as it is.

        It prints where the script prints, whatever is done with the library's own output.

        Raises
        ------
        CompressionError
            It is no function.
        """
        if not callable(function):
            raise CompressionError(
                f"{self._method} calls functions of the script, and was given {function!r}",
                where="create_compressor",
                fix=f"`raycompress compressors {self._method}` shows what to pass",
            )

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            self.check()
            with contextlib.redirect_stdout(self._stdout):
                try:
                    return function(*args, **kwargs)
                except Exception as error:
                    self.raised = error
                    raise _Raised from error

        return called

    def evaluator(self, function: Callable[..., Any]) -> Callable[..., float]:
        """Return the script's evaluator as `call` does, its answer checked to be a finite number."""
        bounded_call = self.call(function)

        @functools.wraps(function)
        def evaluate(*args: Any, **kwargs: Any) -> float:
            value = number(bounded_call(*args, **kwargs))
            self.evaluations += 1
            return value

        return evaluate

    def expired(self) -> CompressionError:
        """Return the error of a search that ran out of time."""
        return CompressionError(
            f"{self._method} had not ended after {self._seconds:g} s and {self.evaluations} evaluations",
            where="compress()",
            fix="give it more time with search_timeout_s, make the script's functions faster (fewer batches), or ask "
            "for a shorter search; `raycompress compressors` lists what sets its length",
        )


@contextlib.contextmanager
def bounded(seconds: Any, method: str) -> Iterator[Bound]:
    """Run a search for at most `seconds`.

    In the main thread an alarm (SIGALRM) ends it, and the handler and the timer that were there before are put back.

    Raises
    ------
    CompressionError
        Time is up.
    ExperimentError
        `seconds` is no positive number.
    Exception
        What a function of the script raised, as it was.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, numbers.Real) or not 0 < float(seconds) < math.inf:
        raise ExperimentError(
            f"search_timeout_s is a number of seconds above 0, not {seconds!r}",
            where="compression.arguments.search_timeout_s",
            fix='"search_timeout_s": 600 is ten minutes',
        )
    bound = Bound(float(seconds), method)
    try:
        with _alarm(bound):
            yield bound
    except _Expired:
        raise bound.expired() from None
    except _Raised:
        assert bound.raised is not None
    if bound.raised is not None:
        raise bound.raised from bound.raised.__cause__


def number(value: Any) -> float:
    """Return what an evaluator answered as a float; raises CompressionError for anything but one finite number."""
    answer = value.item() if isinstance(value, (Tensor, np.ndarray)) and np.prod(value.shape) == 1 else value
    if isinstance(answer, numbers.Real) and not isinstance(answer, bool) and math.isfinite(answer):
        return float(answer)
    shown = repr(value)
    raise CompressionError(
        f"the evaluator answered {shown if len(shown) < 60 else shown[:60] + '...'}, which is not one finite number",
        where="create_compressor(evaluator=)",
        fix="return one number, such as the accuracy on the validation data",
    )


def has_argument(function: Callable[..., Any], name: str) -> bool:
    """Whether `function` can be called with an argument `name`; False where its signature cannot be read."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        parameter.kind is parameter.VAR_KEYWORD
        or (parameter.name == name and parameter.kind is not parameter.POSITIONAL_ONLY)
        for parameter in parameters
    )


def positions(function: Callable[..., Any], default: int) -> int:
    """Return how many arguments `function` must get by position; `default` where its signature cannot be read."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return default
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return default
    return sum(parameter.kind in by_position and parameter.default is parameter.empty for parameter in parameters)


@contextlib.contextmanager
def _alarm(bound: Bound) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(_number: int, _frame: object) -> None:
        raise _Expired

    started = time.monotonic()
    handler = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, bound._seconds, _REPEAT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            rest = left - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(rest, 1e-3), interval)
