"""The policies by which the old tool ended trials early, and which Ray Tune has not.

Each compares the scores of a trial with those of the others, the larger the better, and returns why the trial is to
end, or an empty string.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from raycompress.tuning.curves import predicted_end

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
    """Return what is `share` as good as `best`, of which more is better; below 0 that lies further from it.

    Examples
    --------
    >>> share_of(0.8, 0.5), share_of(-0.1, 0.5)
    (0.4, -0.2)
    """
    return best * share if best >= 0 else best / share


def _best(trials: Sequence[Scores]) -> float:
    return max((max(scores.values()) for scores in trials), default=-math.inf)
