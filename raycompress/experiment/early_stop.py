"""When a trial is ended because its intermediate results are poor: what the experiment file says of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EarlyStop:
    """A policy and its settings, in the words of the file.

    Attributes
    ----------
    policy
        ``bandit``, ``median``, ``truncation``, ``curve_fitting`` or ``asha``.
    steps
        Look at every so many results of a trial.
    warmup
        So many first results are never looked at.
    bandit_factor, truncation_percentage, curve_fitting_threshold, curve_fitting_timeout_s
        See `raycompress.experiment.keys.EarlyStopKeys`; the last in seconds.
    curve_fitting_max_iters
        How many results a trial reports; None: the most that one has reported.
    """

    policy: str
    steps: int = 1
    warmup: int = 0
    bandit_factor: float = 0.5
    truncation_percentage: float = 0.3
    curve_fitting_threshold: float = 0.95
    curve_fitting_timeout_s: float = 30.0
    curve_fitting_max_iters: int | None = None
