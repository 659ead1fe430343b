"""Early stopping: which trials are ended before their end, because their results so far are poor."""

from __future__ import annotations

import math
from collections.abc import Callable

from raycompress.config.experiment import Experiment
from raycompress.config.stopping import EarlyStop
from raycompress.search.history import SearchHistory
from raycompress.search.plan import BUDGETED
from raycompress.search.stopping.rules import ByPolicy, Median, Rule, SuccessiveHalving, policy_of
from raycompress.search.stopping.rung_zero import RungZero
from raycompress.search.trials import Result, TrialRequest

_SIGNS = {"max": 1.0, "min": -1.0}


def make_early_stopper(
    experiment: Experiment,
    history: SearchHistory = SearchHistory(),  # noqa: B008 - it cannot be changed
    notify: Callable[[str], None] = lambda _note: None,
) -> EarlyStopper:
    """Return the early stopper of an experiment; it ends nothing where the file asks for nothing.

    The trials of an earlier run of the search, `history`, count in what others are judged by; `notify` is called with
    what people should know of rung 0.
    """
    stop, budgets, sign = experiment.early_stop, experiment.budgets, _SIGNS[experiment.target]
    rung_zero = _rung_zero(experiment) if experiment.rung0 else None
    rule: Rule | None = None
    if budgets is not None:  # of the policy asha, or of a proposer that heeds no policy
        rule = SuccessiveHalving(budgets)
        stop = EarlyStop("asha") if stop is None or experiment.proposer in BUDGETED else stop
    elif stop is not None:
        rule = Median(stop.warmup) if stop.policy == "median" else ByPolicy(policy_of(stop))
    stopper = EarlyStopper(rule, stop or EarlyStop(""), sign, rung_zero, notify)
    stopper.restore(history)
    return stopper


def _rung_zero(experiment: Experiment) -> RungZero:
    eta = experiment.budgets.eta if experiment.budgets is not None else 3
    return RungZero(eta, _SIGNS[experiment.evaluated], _SIGNS[experiment.target])


class EarlyStopper:
    """Leaves the dense model alone, looks at a trial when the experiment file says so, and asks `rule` about it.

    Parameters
    ----------
    rule
        None where nothing is ended early.
    stop
        When to look.
    sign
        1 where a larger score is the better one; else -1.
    rung_zero
        Judges trials before they train; None where none is judged then.
    notify
        Called with what people should know of that.
    """

    def __init__(
        self,
        rule: Rule | None,
        stop: EarlyStop,
        sign: float,
        rung_zero: RungZero | None = None,
        notify: Callable[[str], None] = lambda _note: None,
    ) -> None:
        self._rule = rule
        self._stop = stop
        self._sign = sign
        self._rung_zero = rung_zero
        self._notify = notify
        self._noted = ""

    def restore(self, history: SearchHistory) -> None:
        """Take the trials of an earlier run; whatever the rule says of them now, they have ended as they did."""
        for number, known in history.results.items():
            if known.rung0 is not None and self._rung_zero is not None:
                self._rung_zero.restore(number, known.rung0, known.final)
        if self._rule is None:
            return
        last: dict[int, tuple[int, float]] = {}
        for number, known in history.results.items():
            self._rule.add(number)
            for step, score in sorted(known.scores.items()):
                last[number] = step, self._sign * score
                self._rule.see(number, *last[number])
                if self._is_due(step):
                    self._rule.judge(number, *last[number])
        for number, (step, score) in last.items():
            self._rule.end(number, step, score)

    def add(self, trial: TrialRequest) -> None:
        """A trial was made."""
        if self._rule is not None and not trial.runs_to_its_end:
            self._rule.add(trial.number)

    def see(self, trial: TrialRequest, step: int, score: float) -> None:
        """Take an earlier result of a trial that goes on from a checkpoint; it went on then, whatever is known now."""
        if self._rule is not None and not trial.runs_to_its_end:
            self._rule.see(trial.number, step, self._sign * score)
            if self._is_due(step):
                self._rule.judge(trial.number, step, self._sign * score)

    def judge(self, trial: TrialRequest, result: Result) -> str:
        """Return why a trial is to end after this result, in a line; an empty string where it goes on."""
        if trial.runs_to_its_end or result.score is None or not math.isfinite(result.score):
            return ""
        if result.rung0:
            return "" if self._rung_zero is None else self._rung_zero.judge(trial.number, result.score)
        if self._rule is None:
            return ""
        seen = trial.number, result.step, self._sign * result.score
        self._rule.see(*seen)
        return self._rule.judge(*seen) if self._is_due(result.step) else ""

    def add_end(self, trial: TrialRequest, step: int, score: float | None, *, finished: bool) -> None:
        """Take the end of a trial: its last score, and whether it came to its end by itself and well."""
        if trial.runs_to_its_end or score is None or not math.isfinite(score):
            return
        if self._rung_zero is not None and finished:
            self._rung_zero.end(trial.number, score)
            if self._rung_zero.note != self._noted:
                self._noted = self._rung_zero.note
                self._notify(self._noted or "rung 0 is on again: its scores and those after training agree by now")
        if self._rule is not None:
            self._rule.end(trial.number, step, self._sign * score)

    def _is_due(self, step: int) -> bool:
        return step > self._stop.warmup and step % self._stop.steps == 0
