"""Policies of early stopping on made-up curves, and the curves' continuation."""

import math
import time

import pytest

from raycompress.search.stopping import policies
from raycompress.search.stopping import policies as curves
from raycompress.search.stopping.policies import predicted_end


def rising(top, *, rate=0.6, results=10):
    return {step: top * (1 - rate**step) for step in range(1, results + 1)}


def first(scores, count):
    return {step: scores[step] for step in list(scores)[:count]}


@pytest.mark.parametrize(("best", "half"), [(0.8, 0.4), (-0.1, -0.2), (0.0, 0.0)])
def test_half_of_a_score_is_worse_whatever_its_sign(best, half):
    assert policies.share_of(best, 0.5) == pytest.approx(half)


@pytest.mark.parametrize("shift", [0.0, -2.0])
def test_bandit_compares_with_the_best_of_all(shift):
    others = [{1: 0.2 + shift, 2: 0.8 + shift}, {1: 0.9 + shift}]
    border = policies.share_of(0.9 + shift, 0.5)
    assert policies.bandit({1: border - 0.01}, others, factor=0.5)
    assert not policies.bandit({1: border + 0.01}, others, factor=0.5)
    assert not policies.bandit({1: 5.0, 2: border - 0.01}, others, factor=0.5)  # its best counts
    assert not policies.bandit({1: -99.0}, [], factor=0.5)


def test_truncation_ends_the_worst_share_of_those_that_came_as_far():
    others = [{1: 0.1 * n, 2: 0.1 * n} for n in range(1, 10)]
    assert policies.truncation({1: 0.0, 2: 0.0}, others, percentage=0.3)
    assert policies.truncation({1: 0.25, 2: 0.25}, others, percentage=0.3)  # the third from below of ten
    assert not policies.truncation({1: 0.35, 2: 0.35}, others, percentage=0.3)
    assert not policies.truncation({1: 0.0, 2: 0.0}, [{1: 1.0}] * 9, percentage=0.3)  # nobody else is at 2
    assert not policies.truncation({1: 0.5, 2: 0.5}, [{1: 0.5, 2: 0.5}] * 9, percentage=0.3)  # all alike


def test_curve_fitting_ends_what_is_on_its_way_to_little():
    others = [rising(0.9)]
    judge = {"threshold": 0.95, "end": None, "timeout_s": 30.0}
    assert policies.curve_fitting(first(rising(0.6), 5), others, **judge)
    assert not policies.curve_fitting(first(rising(0.9), 5), others, **judge)
    assert not policies.curve_fitting(
        first(rising(0.95, rate=0.9), 5), others, **{**judge, "end": 60}
    )  # slow, then high
    assert not policies.curve_fitting(first(rising(0.6), 3), others, **judge)  # too few to say anything
    assert not policies.curve_fitting(rising(0.6), others, **judge)  # at its end
    assert not policies.curve_fitting(first(rising(0.6), 5), [], **judge)


@pytest.mark.parametrize(
    "curve",
    [
        lambda x: 0.9 - 0.5 * x**-0.8,
        lambda x: 0.9 - 0.5 * math.exp(-0.3 * x),
        lambda x: -0.3 - 0.2 / (1 + (x / 3) ** 2),
        lambda x: 0.7 - 0.3 / math.log(x + 2),
    ],
)
def test_the_end_of_a_curve_is_predicted_from_a_third_of_it(curve):
    known = {step: curve(step) for step in range(1, 11)}
    assert predicted_end(known, 30, timeout_s=30) == pytest.approx(curve(30), abs=0.02)


def test_what_stays_the_same_will_stay_the_same():
    assert predicted_end(dict.fromkeys(range(1, 6), 0.1), 50, timeout_s=30) == 0.1


def test_curves_that_cannot_be_fitted_in_time_are_left_out(monkeypatch):
    def slow(x, *_):
        time.sleep(0.2)
        return x * 0 + 99.0

    assert predicted_end(rising(0.9), 30, timeout_s=0) is None
    quick = curves._CURVES[1]
    monkeypatch.setattr(curves, "_CURVES", (quick,))
    alone = predicted_end(rising(0.9), 30, timeout_s=30)
    monkeypatch.setattr(curves, "_CURVES", (quick, (slow, (1.0, 1.0, 1.0)), quick))
    assert predicted_end(rising(0.9), 30, timeout_s=0.2) == pytest.approx(alone)
