import random

import pytest

from raycompress.results import pareto
from raycompress.results.trial import TrialRecord
from raycompress.states import TrialState


def trial(number, score, after=None, state=TrialState.FINISHED):
    return TrialRecord(number=number, sample={}, config={}, started=0.0, state=state, score=score, after=after)


def numbers(trials):
    return [each.number for each in trials]


def test_a_trial_that_is_worse_in_everything_is_not_on_the_front():
    trials = [trial(1, 0.9, {"params": 10}), trial(2, 0.8, {"params": 20}), trial(3, 0.7, {"params": 5})]
    assert numbers(pareto.front(trials, "max")) == [1, 3]


def test_the_goal_says_which_score_is_better():
    trials = [trial(1, 0.9, {"params": 10}), trial(2, 0.8, {"params": 20}), trial(3, 0.7, {"params": 5})]
    assert numbers(pareto.front(trials, "min")) == [3]


def test_equal_trials_are_all_there():
    trials = [trial(2, 0.9, {"params": 10}), trial(1, 0.9, {"params": 10}), trial(3, 0.9, {"params": 11})]
    assert numbers(pareto.front(trials, "max")) == [1, 2]


def test_one_measure_more_keeps_one_trial_more():
    trials = [trial(1, 0.9, {"params": 10, "flops": 10}), trial(2, 0.8, {"params": 20, "flops": 5})]
    assert numbers(pareto.front(trials, "max", ["params"])) == [1]
    assert numbers(pareto.front(trials, "max")) == [1, 2]


def test_a_measure_that_one_trial_lacks_is_not_compared():
    trials = [trial(1, 0.9, {"params": 10, "latency_ms": 9.0}), trial(2, 0.8, {"params": 20})]
    assert pareto.measures(trials) == ["params"]
    assert numbers(pareto.front(trials, "max")) == [1]
    assert numbers(pareto.front(trials, "max", ["latency_ms"])) == [1]


def test_only_finished_trials_with_a_score_are_compared():
    trials = [
        trial(1, None, {"params": 1}),
        trial(2, 0.99, {"params": 1}, TrialState.ENDED_EARLY),
        trial(3, 0.99, None),  # reported, and saved nothing
        trial(4, 0.5, {"params": 10}),
    ]
    assert numbers(pareto.front(trials, "max")) == [4]


def test_without_models_the_score_alone_counts():
    assert numbers(pareto.front([trial(1, 0.5), trial(2, 0.9), trial(3, 0.9)], "max")) == [2, 3]
    assert pareto.front([], "max") == []


@pytest.mark.parametrize("goal", ["max", "min"])
def test_against_the_definition(goal):
    chance = random.Random(1)
    trials = [
        trial(number, chance.randint(0, 9), {"params": chance.randint(0, 9), "flops": chance.randint(0, 9)})
        for number in range(300)
    ]
    sign = -1 if goal == "max" else 1

    def costs(each):
        return sign * each.score, each.after["params"], each.after["flops"]

    def beaten(each):
        return any(
            costs(other) != costs(each) and all(a <= b for a, b in zip(costs(other), costs(each), strict=True))
            for other in trials
        )

    front = pareto.front(trials, goal)
    assert set(numbers(front)) == {each.number for each in trials if not beaten(each)}
    assert [sign * each.score for each in front] == sorted(sign * each.score for each in front)
