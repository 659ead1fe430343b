"""Which trials are ended early: real rules, trials that are curves; and that the rules decide as Tune's own."""

import random

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from raycompress.config.stopping import Budgets
from raycompress.search.stopping.early_stopper import make_early_stopper
from raycompress.search.stopping.rules import Median, SuccessiveHalving
from raycompress.search.trials import Result, TrialRequest
from tests.support.early_stopping import experiment_with


@pytest.fixture
def stopper(tmp_path):
    return lambda **keys: make_early_stopper(experiment_with(tmp_path, **keys))


def stopping(policy, **more):
    return {"resource_args": {"early_stop": {"aup_policy": policy, **more}}}


def drive(stopper, curves):
    """Let trials report their curves in turn, a result each a round; return after how many results each was stopped."""
    trials = [TrialRequest(number, {}, {}) for number in range(len(curves))]
    for trial in trials:
        stopper.add(trial)
    stopped = {}
    for step in range(1, max(map(len, curves)) + 1):
        for trial in trials:
            if trial.number not in stopped and step <= len(curves[trial.number]):
                score = curves[trial.number][step - 1]
                why = stopper.judge(trial, Result(trial.number, step, {}, score))
                if why:
                    assert why.startswith("after ")
                    stopped[trial.number] = step
                    stopper.add_end(trial, step, score, finished=False)
    return stopped


GOOD, FAIR, POOR = [0.5, 0.7, 0.8, 0.9, 0.9, 0.9], [0.4, 0.6, 0.7, 0.8, 0.8, 0.8], [0.1] * 6


def test_nothing_is_ended_where_nothing_is_asked_for(stopper):
    assert drive(stopper(), [POOR, GOOD, FAIR, GOOD, FAIR, POOR]) == {}


@pytest.mark.parametrize("policy", ["median", "bandit", "truncation", "curve_fitting", "asha"])
def test_each_policy_ends_a_poor_trial_and_no_good_one(stopper, policy):
    stopped = drive(stopper(**stopping(policy, curve_fitting_max_iters=12)), [POOR, GOOD, FAIR, GOOD, FAIR, POOR])
    assert 5 in stopped
    assert not stopped.keys() & {0, 1, 3}  # 0 is the dense model; the fair ones are below the median


@pytest.mark.parametrize("policy", ["median", "bandit", "truncation", "curve_fitting", "asha"])
def test_the_smaller_is_the_better_where_the_target_is_min(stopper, policy):
    watch = stopper(target="min", **stopping(policy, curve_fitting_max_iters=12))
    loss = [[1 - score for score in curve] for curve in (POOR, GOOD, FAIR, GOOD, FAIR, POOR)]
    stopped = drive(watch, loss)
    assert 5 in stopped
    assert not stopped.keys() & {0, 1, 3}


@pytest.mark.parametrize("policy", ["median", "bandit", "truncation"])
def test_warmup_and_steps(stopper, policy):
    curves = [POOR, GOOD, FAIR, GOOD, FAIR, POOR]
    settings = [({}, 1), ({"aup_policy_steps": 4}, 4), ({"warmup": 2}, 3), ({"warmup": 2, "aup_policy_steps": 2}, 4)]
    for given, at in settings:
        assert drive(stopper(**stopping(policy, **given)), curves)[5] == at


@pytest.mark.parametrize("policy", ["median", "bandit", "truncation", "curve_fitting", "asha"])
def test_what_is_no_number_is_left_alone(stopper, policy):
    watch = stopper(**stopping(policy))
    assert drive(watch, [POOR, GOOD, GOOD, GOOD]) == {}
    late = TrialRequest(9, {}, {})
    watch.add(late)
    for score in (None, float("nan"), float("inf")):
        assert watch.judge(late, Result(9, 1, {}, score)) == ""
        watch.add_end(late, 1, score, finished=True)


@pytest.mark.parametrize("policy", ["median", "bandit", "truncation", "asha"])
def test_what_is_trained_again_runs_to_its_end(stopper, policy):
    watch = stopper(**stopping(policy))
    drive(watch, [POOR, GOOD, GOOD, GOOD])
    again = TrialRequest(9, {}, {}, repeat_of=1)
    watch.add(again)
    assert not any(watch.judge(again, Result(9, step, {}, 0.0)) for step in range(1, 7))


@pytest.mark.parametrize("proposer", ["hyperband", "bohb"])
def test_hyperband_judges_at_its_rungs_only(stopper, proposer):
    watch = stopper(proposer=proposer, eta=3, max_iter=9)
    trials = [TrialRequest(number, {}, {}) for number in range(1, 10)]
    for trial in trials:
        watch.add(trial)
    for iterations in (1, 2, 3):
        stopped = [
            bool(watch.judge(trial, Result(trial.number, iterations, {}, 1 - index / 10)))
            for index, trial in enumerate(trials)
        ]
        assert stopped == [False] * 9 if iterations == 2 else stopped == [False] + [True] * 8


@pytest.mark.parametrize("keys", [{"proposer": "hyperband"}, stopping("asha")])
def test_a_trial_that_has_had_its_whole_budget_is_not_ended_before_it_saves_its_model(stopper, keys):
    watch = stopper(**keys, eta=3, max_iter=9)
    good, fading = [0.5] * 9, [0.5] * 8 + [0.1]
    assert drive(watch, [good, good, fading]) == {}


def test_hyperband_heeds_no_policy(stopper):
    watch = stopper(proposer="hyperband", max_iter=9, **stopping("asha", aup_policy_steps=2, warmup=4))
    assert drive(watch, [POOR, GOOD, POOR]) == {2: 1}


class OfTune:
    """What Tune's schedulers ask a trial for."""

    def __init__(self, number):
        self.trial_id = str(number)


def curves(seed, n=20, steps=9):
    """Some trials better than others throughout, all with noise and with ties."""
    rng = random.Random(seed)
    levels = [rng.random() for _ in range(n)]
    return [[round(level + 0.3 * rng.random(), 2) for _ in range(steps)] for level in levels]


def compare(rule, tunes, seed, sign, attribute):
    """Show both the same results, and tell whether they decide the same; a trial ends where they stop it."""
    trials = {number: OfTune(number) for number in range(1, 21)}
    going = dict(trials)
    for number, trial in trials.items():
        rule.add(number)
        tunes(number).on_trial_add(None, trial)
    n_stopped = 0
    for step in range(1, 10):
        for number, trial in list(going.items()):
            score = curves(seed)[number - 1][step - 1]
            result = {"score": score, attribute: step}
            stop = tunes(number).on_trial_result(None, trial, result) == TrialScheduler.STOP
            if bool(rule.judge(number, step, sign * score)) != stop:
                return False, n_stopped
            if stop or step == 9:
                n_stopped += stop
                rule.end(number, step, sign * score)
                tunes(number).on_trial_complete(None, trial, result)
                del going[number]
    return True, n_stopped


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_the_rules_decide_as_tunes_own(seed, mode, sign):
    budgets = Budgets(eta=3, max_iter=10)
    brackets = [
        AsyncHyperBandScheduler(
            time_attr="step",
            metric="score",
            mode=mode,
            grace_period=budgets.rungs(bracket)[0],
            max_t=budgets.max_iter,
            reduction_factor=budgets.eta,
            stop_last_trials=False,
        )
        for bracket in range(budgets.brackets)
    ]
    halving = SuccessiveHalving(budgets)
    same, n_stopped = compare(halving, lambda number: brackets[budgets.bracket_of(number)], seed, sign, "step")
    assert same
    assert n_stopped
    median = MedianStoppingRule(
        time_attr="step",
        metric="score",
        mode=mode,
        grace_period=3,
        min_samples_required=2,
        min_time_slice=float("inf"),
    )
    same, n_stopped = compare(Median(warmup=2), lambda number: median, seed, sign, "step")
    assert same
    assert n_stopped
