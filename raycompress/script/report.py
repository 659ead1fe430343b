"""`report`, `print_result` and `save_model`: results go to the trial, or are printed when run by hand."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from raycompress.errors import ResultError
from raycompress.script import context
from raycompress.script.workers.agreement import follows

T = TypeVar("T")

Number = int | float

_reports = 0


def report(**values: Any) -> None:
    """Report the metrics of the model as it is now, by name; the first one is the objective.

    The last call of a script is its result; earlier ones are intermediate results. Of several workers the first one
    reports.

    Parameters
    ----------
    **values
        Numbers, strings that hold a number, or arrays and tensors with one element.

    Raises
    ------
    ResultError
        When there is no value, or one of them is no number.

    Examples
    --------
    >>> report(accuracy=0.9731, latency_ms=4.2)
    accuracy: 0.9731
    latency_ms: 4.2
    """
    if not values:
        raise ResultError("report() was given no metric", fix="name what was measured: report(accuracy=0.97)")
    _deliver({name: _number(value, name) for name, value in values.items()})


def print_result(result: Any) -> None:
    """Report one number, or a list of them whose first member is the objective.

    The members of a list take their names from ``multi_res_labels`` of the experiment file.

    Raises
    ------
    ResultError
        When `result` is neither a number nor a list of numbers.

    Examples
    --------
    >>> print_result(0.9731)
    result: 0.9731
    """
    members = list(result) if isinstance(result, list | tuple) else [result]
    if not members:
        raise ResultError("print_result() was given an empty list", fix="give it at least the objective")
    trial = context.current()
    labels = trial.result_labels if trial else ()
    names = [labels[i] if i < len(labels) else f"result_{i}" if i else "result" for i in range(len(members))]
    _deliver({name: _number(value, name) for name, value in zip(names, members, strict=True)})


def save_model(export: Callable[..., T], *args: Any, **kwargs: Any) -> T | None:
    """Call ``export(*args, **kwargs)`` now and return its result, unless the experiment keeps no model.

    Of several workers the first one saves.
    """
    trial = context.current()
    if follows(trial) if trial is None else not trial.save_model:
        return None
    return export(*args, **kwargs)


def reports() -> int:
    """Return how many results this process has reported."""
    return _reports


def _deliver(values: Mapping[str, Number]) -> None:
    global _reports
    _reports += 1
    trial = context.current()
    if trial is None:
        if not follows(trial):
            for name, value in values.items():
                print(f"{name}: {value}")
            sys.stdout.flush()
        return
    plain = {name: _plain(value) for name, value in values.items()}
    trial.reported = dict(values)
    trial.results += 1
    trial.history.append(plain)
    for hook in trial.on_report:
        hook(values)
    if trial.mode in ("inspect", "verify"):  # a result comes after all that there is to learn
        raise context.EndOfInspection
    trial.send({"type": "result", "values": plain})


def _plain(value: Number) -> Number | str:
    """Return `value` as JSON can hold it: what is not finite becomes "nan", "inf" or "-inf"."""
    return value if math.isfinite(value) else str(float(value))


def _number(value: Any, name: str) -> Number:
    """Return the number that `value` is or holds."""
    number = value
    if hasattr(value, "item"):
        try:
            number = value.item()
        except (ValueError, RuntimeError, TypeError):  # more than one element, in the words of numpy and of torch
            raise _no_number(value, name) from None
    if isinstance(number, str):
        try:
            return float(number)
        except ValueError:
            raise _no_number(value, name) from None
    if isinstance(number, bool) or not hasattr(number, "__float__"):
        raise _no_number(value, name)
    try:
        return number if isinstance(number, int) and math.isfinite(number) else float(number)
    except (TypeError, ValueError, OverflowError):
        raise _no_number(value, name) from None


def _no_number(value: Any, name: str) -> ResultError:
    kind = type(value).__name__
    shape = getattr(value, "shape", None)
    if shape is not None:
        kind += f" of shape {tuple(shape)}"
    elif isinstance(value, str):
        kind += f" {value[:40]!r}"
    elif isinstance(value, int):  # Python refuses to write out one of thousands of digits
        kind += f" {value!r}" if value.bit_length() < 128 else f" of {value.bit_length()} bits"
    return ResultError(
        f"{name} is no number but a {kind}",
        fix="report a number, or a list of numbers whose first is the objective",
    )
