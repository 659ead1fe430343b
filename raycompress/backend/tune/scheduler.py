"""Early stopping: which trials are ended before their end, because their results so far are poor.

`Watch` is the one scheduler that Ray Tune sees. It leaves the dense model alone, looks at a trial when the experiment
file says so, and asks a `Rule`: one of Tune's own schedulers, or a policy of the old tool that Tune has not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from raycompress.backend.tune.stop import DriverOnly
from raycompress.config.experiment import Experiment
from raycompress.config.stopping import Budgets, EarlyStop
from raycompress.search.history import SearchHistory
from raycompress.search.plan import BUDGETED
from raycompress.search.stopping import policies
from raycompress.search.stopping.policies import Policy, Scores
from raycompress.search.stopping.rung_zero import RungZero
from raycompress.states import TrialState

TIME = "iterations"
"""What a result counts by: the budget of the run that gave it, or how many results the trial has reported."""

RUNG0 = "rung0"
"""Whether a result is the score of a model before it trains."""

Result = Mapping[str, Any]


class Rule(Protocol):
    """Something that judges a trial by its results."""

    def add(self, controller: Any, trial: Any) -> None:
        """A trial was made."""

    def see(self, trial: Any, result: Result) -> None:
        """Take a finite result, whether the trial is judged by it or not."""

    def judge(self, controller: Any, trial: Any, result: Result) -> str:
        """Return why the trial is to end after this result, or an empty string."""

    def end(self, controller: Any, trial: Any, result: Result) -> None:
        """A trial has ended, with this finite result."""


def make_scheduler(experiment: Experiment, history: SearchHistory = SearchHistory()) -> TrialScheduler:  # noqa: B008 - it cannot be changed
    """Return the scheduler of an experiment: Tune's own first in, first out where nothing is to be ended early.

    The trials of an earlier run of the search, `past`, count in what others are judged by.
    """
    watch = _watch(experiment)
    if watch is None:
        plain: TrialScheduler = FIFOScheduler()  # type: ignore[no-untyped-call]
        return plain
    watch.remember(history)
    return watch


def _watch(experiment: Experiment) -> EarlyStopper | None:
    stop, budgets, goal = experiment.early_stop, experiment.budgets, experiment.target
    rung_zero = _rung_zero(experiment) if experiment.rung0 else None
    if budgets is not None:  # of the policy asha, or of a proposer that heeds no policy
        watched = EarlyStop("asha") if stop is None or experiment.proposer in BUDGETED else stop
        return EarlyStopper(_Brackets(budgets, goal), watched, rung_zero)
    if stop is None:
        return None
    if stop.policy == "median":
        return EarlyStopper(_Median(stop, goal), stop, rung_zero)
    return EarlyStopper(_Judged(_policy(stop), goal), stop, rung_zero)


def _rung_zero(experiment: Experiment) -> RungZero:
    eta = experiment.budgets.eta if experiment.budgets is not None else 3
    signs = {"max": 1.0, "min": -1.0}
    return RungZero(eta, signs[experiment.evaluated], signs[experiment.target])


def _policy(stop: EarlyStop) -> Policy:
    if stop.policy == "bandit":
        return functools.partial(policies.bandit, factor=stop.bandit_factor)
    if stop.policy == "truncation":
        return functools.partial(policies.truncation, percentage=stop.truncation_percentage)
    return functools.partial(
        policies.curve_fitting,
        threshold=stop.curve_fitting_threshold,
        end=stop.curve_fitting_max_iters,
        timeout_s=stop.curve_fitting_timeout_s,
    )


class EarlyStopper(DriverOnly, FIFOScheduler):
    """Asks `rule` about the results that are to be looked at.

    Attributes
    ----------
    why
        Number of a trial that was ended -> why, in a line.
    rung_zero
        Judges trials before they train; None where none is judged then.
    tell
        Called with what people should know of that.
    """

    def __init__(self, rule: Rule, stop: EarlyStop, rung_zero: RungZero | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rule = rule
        self.rung_zero = rung_zero
        self.tell: Callable[[str], None] = lambda _note: None
        self._noted = ""
        self._stop = stop
        self.why: dict[int, str] = {}

    def remember(self, history: SearchHistory) -> None:
        """Take the trials of an earlier run; whatever the rule says of them now, they have ended as they did."""
        last: dict[_PastOfTune, Result] = {}
        for number, known in history.taught.items():
            if known.rung0 is not None and self.rung_zero is not None:
                self.rung_zero.remember(number, known.rung0, known.final)
        for number, known in history.taught.items():
            trial = _PastOfTune(number)
            self._rule.add(None, trial)
            for step, score in sorted(known.scores.items()):
                last[trial] = {TIME: step, "score": score, "time_total_s": float(step), "done": False}
                self._rule.see(trial, last[trial])
                if self._is_due(last[trial]):
                    self._rule.judge(None, trial, last[trial])
        for trial, result in last.items():  # only now: Tune's median rule takes no result of a trial that it would end
            self._rule.end(None, trial, result)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial was made."""
        if not _is_left_alone(trial):
            self._rule.add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Result) -> str:
        """Decide whether the trial goes on."""
        if result.get(RUNG0):
            return self._before_training(trial, result)
        if result["done"] or not self._looks_at(trial, result):
            return str(TrialScheduler.CONTINUE)
        self._rule.see(trial, result)
        if not self._is_due(result):
            return str(TrialScheduler.CONTINUE)
        why = self._rule.judge(tune_controller, trial, result)
        if not why:
            return str(TrialScheduler.CONTINUE)
        self.why[trial.config["number"]] = why
        return str(TrialScheduler.STOP)

    def _before_training(self, trial: Any, result: Result) -> str:
        number = trial.config["number"]
        why = "" if self.rung_zero is None or _is_left_alone(trial) else self.rung_zero.judge(number, result["score"])
        if not why:
            return str(TrialScheduler.CONTINUE)
        self.why[number] = why
        return str(TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Result) -> None:
        """A trial has ended, by itself or because of a decision here."""
        if result.get(RUNG0):
            return
        if self.rung_zero is not None and self._looks_at(trial, result) and result["state"] == TrialState.FINISHED:
            self.rung_zero.end(trial.config["number"], result["score"])
            if self.rung_zero.note != self._noted:
                self._noted = self.rung_zero.note
                self.tell(self._noted or "rung 0 is on again: its scores and those after training agree by now")
        if self._looks_at(trial, result):
            self._rule.end(tune_controller, trial, result)

    def _is_due(self, result: Result) -> bool:
        step: int = result[TIME]
        return step > self._stop.warmup and step % self._stop.steps == 0

    def _looks_at(self, trial: Any, result: Result) -> bool:
        score = result.get("score")
        return not _is_left_alone(trial) and score is not None and math.isfinite(score)


def _is_left_alone(trial: Any) -> bool:
    """Tell whether a trial runs to its end in any case: the dense model's, and what is trained again."""
    return trial.config["baseline"] or trial.config.get("repeat_of") is not None


class _PastOfTune:
    """What the rules need of a trial of an earlier run."""

    def __init__(self, number: int) -> None:
        self.trial_id = f"past-{number}"
        self.config = {"number": number, "baseline": False}


class _OfTune:
    """A rule that one of Tune's schedulers knows."""

    def __init__(self, schedulers: Callable[[Any], TrialScheduler], why: str) -> None:
        self._of = schedulers
        self._why = why

    def add(self, controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_add(controller, trial)

    def see(self, trial: Any, result: Result) -> None:
        pass

    def judge(self, controller: Any, trial: Any, result: Result) -> str:
        decision = self._of(trial).on_trial_result(controller, trial, dict(result))
        return self._why.format(result[TIME]) if decision == TrialScheduler.STOP else ""

    def end(self, controller: Any, trial: Any, result: Result) -> None:
        self._of(trial).on_trial_complete(controller, trial, dict(result))


class _Brackets(_OfTune):
    """HyperBand, asynchronous: each bracket is one of Tune's ASHA schedulers.

    Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020: a trial is judged when it reaches a
    rung, by those that were there before; no trial waits for others.
    """

    def __init__(self, budgets: Budgets, goal: str) -> None:
        brackets = [
            AsyncHyperBandScheduler(
                time_attr=TIME,
                metric="score",
                mode=goal,
                grace_period=budgets.rungs(bracket)[0],
                max_t=budgets.max_iter,
                reduction_factor=budgets.eta,
                stop_last_trials=False,
            )
            for bracket in range(budgets.brackets)
        ]
        super().__init__(
            lambda trial: brackets[budgets.bracket_of(trial.config["number"])],
            f"after {{}} of {budgets.max_iter} iterations: not in the best 1/{budgets.eta}",
        )
        self._last = budgets.max_iter

    def judge(self, controller: Any, trial: Any, result: Result) -> str:
        return super().judge(controller, trial, result) if result[TIME] < self._last else ""


class _Median(_OfTune):
    """Tune's median stopping rule; Golovin et al., Google Vizier, KDD 2017."""

    def __init__(self, stop: EarlyStop, goal: str) -> None:
        never: Any = math.inf  # a trial of ours cannot be paused: it would lose its process
        median = MedianStoppingRule(
            time_attr=TIME,
            metric="score",
            mode=goal,
            grace_period=stop.warmup + 1,
            min_samples_required=2,
            min_time_slice=never,
        )
        super().__init__(lambda trial: median, "after {} results worse than the median of the other trials")


class _Judged:
    """Keeps the scores of all trials for a policy of the old tool."""

    def __init__(self, policy: Policy, goal: str) -> None:
        self._policy = policy
        self._sign = 1.0 if goal == "max" else -1.0
        self._scores: dict[int, Scores] = {}

    def add(self, controller: Any, trial: Any) -> None:
        self._scores[trial.config["number"]] = {}

    def see(self, trial: Any, result: Result) -> None:
        self._scores[trial.config["number"]][result[TIME]] = self._sign * result["score"]

    def judge(self, controller: Any, trial: Any, result: Result) -> str:
        number = trial.config["number"]
        others = [scores for other, scores in self._scores.items() if other != number and scores]
        return self._policy(self._scores[number], others)

    def end(self, controller: Any, trial: Any, result: Result) -> None:
        self.see(trial, result)
