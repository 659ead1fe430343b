"""Early-stopping policies of Auptimizer: bandit, truncation and curve fitting.

Each compares the scores of a trial with those of the others, the larger the better, and returns why the trial is to
end, or an empty string.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
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
    """Return the score extrapolated to iteration `end`; None with too few scores, or where no curve fits.

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


Scores = dict[int, float]
"""Iterations, or how many results there were -> score."""

Policy = Callable[[Scores, Sequence[Scores]], str]
"""Called with a trial's scores and those of the other trials, none of them empty."""


def bandit(own: Scores, others: Sequence[Scores], *, factor: float) -> str:
    """End a trial whose best score is worse than `factor` of the best of all trials."""
    if not others or max(own.values()) >= share_of(_best(others), factor):
        return ""
    return f"after {max(own)} results worse than {factor:g} of the best trial's"


def truncation(own: Scores, others: Sequence[Scores], *, percentage: float) -> str:
    """End a trial that is among the worst: of those that came as far, by the best score until then."""
    now = max(own)
    there = [
        max(score for time, score in scores.items() if time <= now)
        for scores in others
        if min(scores) <= now <= max(scores)
    ]
    no_better = sum(best <= max(own.values()) for best in there)
    if no_better >= int(percentage * (len(there) + 1)):
        return ""
    return f"after {now} results among the worst {percentage:.0%} of {len(there) + 1} trials"


def curve_fitting(own: Scores, others: Sequence[Scores], *, threshold: float, end: int | None, timeout_s: float) -> str:
    """End a trial whose curve, continued to its end, stays below a share of the best score of all trials.

    Parameters
    ----------
    threshold
        That share.
    end
        How many results a trial reports; None: the most that another one has reported.
    timeout_s
        Seconds that the prediction may take.
    """
    last = end or max(map(max, others), default=0)
    if not others or max(own) >= last:
        return ""
    predicted = predicted_end(own, last, timeout_s=timeout_s)
    if predicted is None or max(predicted, *own.values()) >= share_of(_best(others), threshold):
        return ""
    return f"after {max(own)} results on the way to less than {threshold:g} of the best trial's"


def share_of(best: float, share: float) -> float:
    """Return the score that is `share` as good as `best` (larger is better); a negative `best` is divided by `share`.

    Examples
    --------
    >>> share_of(0.8, 0.5), share_of(-0.1, 0.5)
    (0.4, -0.2)
    """
    return best * share if best >= 0 else best / share


def _best(trials: Sequence[Scores]) -> float:
    return max((max(scores.values()) for scores in trials), default=-math.inf)
