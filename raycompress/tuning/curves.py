"""Learning curves, continued: where a trial will end, from its results so far.

The families of curves are those of Domhan et al., Speeding up Automatic Hyperparameter Optimization of Deep Neural
Networks by Extrapolation of Learning Curves, IJCAI 2015, that have few parameters; scipy fits them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

FEWEST = 4
"""Results that a prediction needs: one more than the parameters of a curve."""

Curve = Callable[..., Any]

_CURVES: tuple[tuple[Curve, tuple[float, float, float]], ...] = (
    (lambda x, c, a, alpha: c - a * x ** -abs(alpha), (1.0, 1.0, 1.0)),  # power law
    (lambda x, c, a, b: c - a * np.exp(-abs(b) * x), (1.0, 1.0, 0.3)),  # exponential
    (lambda x, c, a, b: c - a / (1 + (x / abs(b)) ** 2), (1.0, 1.0, 2.0)),  # Morgan-Mercer-Flodin, order 2
    (lambda x, c, a, b: c - a / np.log(x + 1 + abs(b)), (1.0, 1.0, 1.0)),  # reciprocal logarithm
)


def predicted_end(scores: Mapping[int, float], end: int, *, timeout_s: float) -> float | None:
    """Return the score to expect at iteration `end`; None where nothing can be said.

    Each curve is fitted to the scores; the predictions are averaged, a curve that fits better counts for more.

    Parameters
    ----------
    scores
        Iteration, from 1, -> score.
    timeout_s
        Seconds after which the curves that have been fitted must do.
    """
    if len(scores) < FEWEST:
        return None
    deadline = time.monotonic() + timeout_s
    times = np.array(sorted(scores), dtype=float)
    values = np.array([scores[int(x)] for x in times], dtype=float)
    low, span = values.min(), np.ptp(values)
    if span == 0:
        return float(low)
    found = [_fitted(curve, start, times, (values - low) / span, end, deadline) for curve, start in _CURVES]
    fits = [fit for fit in found if fit is not None]
    if not fits:
        return None
    weights = np.array([1 / (error + 1e-6) for _, error in fits])
    ends = np.array([value for value, _ in fits])
    return float(low + span * np.average(ends, weights=weights))


class _TimeIsUpError(Exception):
    """The deadline has passed in the middle of a fit."""


def _fitted(
    curve: Curve, start: tuple[float, ...], times: Any, values: Any, end: int, deadline: float
) -> tuple[float, float] | None:
    """Return what a fitted curve says of `end`, and its mean squared error; None where it cannot be fitted in time."""
    from scipy.optimize import OptimizeWarning, curve_fit

    def bounded(x: Any, *parameters: float) -> Any:
        if time.monotonic() > deadline:
            raise _TimeIsUpError
        return curve(x, *parameters)

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", OptimizeWarning)  # the covariance, which is not used here
        try:
            parameters, _ = curve_fit(bounded, times, values, p0=start, maxfev=2000)
        except (_TimeIsUpError, RuntimeError, ValueError):  # too late, no convergence, not finite
            return None
        predicted = float(curve(float(end), *parameters))
        error = float(np.mean((curve(times, *parameters) - values) ** 2))
    return (predicted, error) if np.isfinite(predicted) and np.isfinite(error) else None
