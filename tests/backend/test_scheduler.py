"""What Tune is told of each result: real schedulers, trials that are only a config."""

from dataclasses import dataclass

import pytest
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from raycompress.backend.tune.scheduler import EarlyStopper, make_scheduler
from tests.support.early_stopping import experiment_with


@dataclass(frozen=True)
class Trial:
    """What a scheduler sees of one of Tune's trials."""

    number: int

    @property
    def trial_id(self):
        return str(self.number)

    @property
    def config(self):
        return {"number": self.number, "baseline": self.number == 0}


@pytest.fixture
def scheduler(tmp_path):
    return lambda **keys: make_scheduler(experiment_with(tmp_path, **keys))


def stopping(policy, **more):
    return {"resource_args": {"early_stop": {"aup_policy": policy, **more}}}


def drive(scheduler, curves):
    """Let trials report their curves in turn, a result each a round; return after how many results each was stopped."""
    trials = [Trial(number) for number in range(len(curves))]
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    stopped = {}
    for step in range(1, max(map(len, curves)) + 1):
        for trial in trials:
            if trial.number not in stopped and step <= len(curves[trial.number]):
                result = {"score": curves[trial.number][step - 1], "iterations": step, "done": False}
                if scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
                    stopped[trial.number] = step
                    scheduler.on_trial_complete(None, trial, result)
    return stopped


GOOD, FAIR, POOR = [0.5, 0.7, 0.8, 0.9, 0.9, 0.9], [0.4, 0.6, 0.7, 0.8, 0.8, 0.8], [0.1] * 6


def test_nothing_to_end_is_tunes_own_order(scheduler):
    assert type(scheduler()) is FIFOScheduler


@pytest.mark.parametrize("policy", ["median", "bandit", "truncation", "curve_fitting", "asha"])
def test_each_policy_ends_a_poor_trial_and_no_good_one(scheduler, policy):
    watch = scheduler(**stopping(policy, curve_fitting_max_iters=12))
    stopped = drive(watch, [POOR, GOOD, FAIR, GOOD, FAIR, POOR])
    assert 5 in stopped
    assert not stopped.keys() & {0, 1, 3}  # 0 is the dense model; the fair ones are below the median
    assert isinstance(watch, EarlyStopper)
    assert watch.why[5].startswith("after ")


@pytest.mark.parametrize("policy", ["median", "bandit", "truncation", "curve_fitting", "asha"])
def test_the_smaller_is_the_better_where_the_target_is_min(scheduler, policy):
    watch = scheduler(target="min", **stopping(policy, curve_fitting_max_iters=12))
    loss = [[1 - score for score in curve] for curve in (POOR, GOOD, FAIR, GOOD, FAIR, POOR)]
    stopped = drive(watch, loss)
    assert 5 in stopped
    assert not stopped.keys() & {0, 1, 3}


@pytest.mark.parametrize("policy", ["median", "bandit", "truncation"])
def test_warmup_and_steps(scheduler, policy):
    curves = [POOR, GOOD, FAIR, GOOD, FAIR, POOR]
    settings = [({}, 1), ({"aup_policy_steps": 4}, 4), ({"warmup": 2}, 3), ({"warmup": 2, "aup_policy_steps": 2}, 4)]
    for given, at in settings:
        assert drive(scheduler(**stopping(policy, **given)), curves)[5] == at


@pytest.mark.parametrize("policy", ["median", "bandit", "truncation", "curve_fitting", "asha"])
def test_an_end_is_no_decision_and_what_is_no_number_is_left_alone(scheduler, policy):
    watch = scheduler(**stopping(policy))
    assert drive(watch, [POOR, GOOD, GOOD, GOOD]) == {}
    late = Trial(9)
    watch.on_trial_add(None, late)
    for score, done in ((None, False), (float("nan"), False), (0.01, True)):
        result = {"score": score, "iterations": 1, "done": done}
        assert watch.on_trial_result(None, late, result) == TrialScheduler.CONTINUE
        watch.on_trial_complete(None, late, result)


@pytest.mark.parametrize("proposer", ["hyperband", "bohb"])
def test_hyperband_judges_at_its_rungs_only(scheduler, proposer):
    watch = scheduler(proposer=proposer, eta=3, max_iter=9)
    trials = [Trial(number) for number in range(1, 10)]
    for trial in trials:
        watch.on_trial_add(None, trial)
    for iterations, still_there in ((1, trials), (2, trials), (3, trials)):
        decisions = [
            watch.on_trial_result(None, trial, {"score": 1 - index / 10, "iterations": iterations, "done": False})
            for index, trial in enumerate(still_there)
        ]
        if iterations == 2:
            assert set(decisions) == {TrialScheduler.CONTINUE}
        else:
            assert decisions[0] == TrialScheduler.CONTINUE
            assert set(decisions[1:]) == {TrialScheduler.STOP}


@pytest.mark.parametrize("keys", [{"proposer": "hyperband"}, stopping("asha")])
def test_a_trial_that_has_had_its_whole_budget_is_not_ended_before_it_saves_its_model(scheduler, keys):
    watch = scheduler(**keys, eta=3, max_iter=9)
    good, fading = [0.5] * 9, [0.5] * 8 + [0.1]
    assert drive(watch, [good, good, fading]) == {}


def test_hyperband_heeds_no_policy(scheduler):
    watch = scheduler(proposer="hyperband", max_iter=9, **stopping("asha", aup_policy_steps=2, warmup=4))
    assert drive(watch, [POOR, GOOD, POOR]) == {2: 1}
