"""What stands between what was measured of a model and its trials, without Ray and without a network."""

from __future__ import annotations

import random

import pytest

from raycompress.config.objective import Judgement, Objective
from raycompress.results.ranking import rank_correlation
from raycompress.search.proposals import repeats_due
from raycompress.search.repeats import Finalist, choose
from raycompress.search.stopping.rung_zero import RungZero


def metrics(accuracy: float, flops: float) -> dict[str, float]:
    return {"accuracy": accuracy, "flops": flops}


OBJECTIVE = Objective.from_keys("max", {"accuracy": "max"}, {"flops": {"max": 900}})


def test_a_difference_within_the_spread_is_a_tie_and_the_smaller_wins() -> None:
    finalists = [
        Finalist(3, {3: metrics(0.97, 500), 7: metrics(0.95, 500), 8: metrics(0.96, 500)}),
        Finalist(5, {5: metrics(0.955, 300), 9: metrics(0.965, 300), 10: metrics(0.951, 300)}),
        Finalist(6, {6: metrics(0.92, 100), 11: metrics(0.91, 100)}),
    ]
    verdict = choose(OBJECTIVE, finalists, {})
    assert verdict is not None
    assert verdict.ties == (3, 5)
    assert (verdict.chosen, verdict.run) == (5, 9)
    assert 0.005 < verdict.spread < 0.02


def test_a_difference_beyond_the_spread_decides() -> None:
    finalists = [
        Finalist(1, {1: metrics(0.97, 500), 3: metrics(0.971, 500)}),
        Finalist(2, {2: metrics(0.95, 300), 4: metrics(0.951, 300)}),
    ]
    verdict = choose(OBJECTIVE, finalists, {})
    assert verdict is not None
    assert (verdict.chosen, verdict.run, verdict.ties) == (1, 3, (1,))


def test_what_breaks_a_constraint_is_no_tie_of_what_keeps_to_it() -> None:
    finalists = [
        Finalist(1, {1: metrics(0.99, 1000), 3: metrics(0.99, 1000)}),
        Finalist(2, {2: metrics(0.90, 800), 4: metrics(0.91, 800)}),
    ]
    verdict = choose(OBJECTIVE, finalists, {})
    assert verdict is not None
    assert (verdict.chosen, verdict.ties) == (2, (2,))
    assert choose(OBJECTIVE, [Finalist(1, {1: {"accuracy": 1.0}})], {}) is None


def test_a_repeat_that_was_interrupted_keeps_its_number() -> None:
    assert repeats_due([4, 2], 3, {}, 6) == [(6, 4), (7, 4), (8, 2), (9, 2)]
    past = {6: (4, True), 7: (4, False), 8: (2, False), 9: (3, False)}
    assert repeats_due([4, 2], 3, past, 10) == [(7, 4), (8, 2), (10, 2)]
    assert repeats_due([4], 2, {6: (4, True), 7: (4, True)}, 8) == []


def test_ranks_that_are_equal_share_their_mean() -> None:
    assert rank_correlation([(1, 1), (2, 4), (3, 9)]) == pytest.approx(1)
    assert rank_correlation([(1, 9), (2, 4), (3, 1)]) == pytest.approx(-1)
    assert rank_correlation([(1, 1), (1, 2), (2, 3), (2, 3)]) == pytest.approx(0.9428, abs=1e-4)
    assert rank_correlation([(1, 1), (1, 2)]) == 0


def run(noise: float, seed: int = 0, trials: int = 60) -> tuple[RungZero, list[int]]:
    """Score and train trials whose scores before and after differ by so much noise."""
    drawn, rung, ended = random.Random(seed), RungZero(3, 1.0, 1.0), []
    for number in range(1, trials + 1):
        truth = drawn.random()
        if rung.judge(number, truth + drawn.gauss(0, noise)):
            ended.append(number)
        else:
            rung.end(number, truth)
    return rung, ended


def test_rung_zero_ends_the_worst_once_it_has_seen_enough() -> None:
    rung, ended = run(noise=0.01)
    assert not rung.is_off
    assert min(ended) >= 9
    assert 20 < len(ended) < 45
    assert rung.correlation is not None
    assert rung.correlation > 0.9


def test_rung_zero_switches_itself_off_where_it_ranks_at_random() -> None:
    found = [run(noise=50.0, seed=seed) for seed in range(20)]
    off = [rung for rung, _ in found if rung.is_off]
    assert len(off) >= 16
    assert all("rank correlation" in " ".join(rung.note.split()) for rung in off)
    assert sum(len(ended) for _, ended in found) / 20 < 10


def test_where_small_scores_are_better_so_they_are_ended() -> None:
    rung = RungZero(3, -1.0, -1.0)
    for number in range(1, 9):
        assert not rung.judge(number, float(number))
        rung.end(number, float(number))
    assert rung.judge(9, 100.0)
    assert not rung.judge(10, 0.0)


def test_one_number_for_searchers_puts_what_is_broken_last() -> None:
    for direction, feasible, broken in (("min", 0.5, 0.1), ("max", -10.0, -0.01), ("max", 0.0, 5.0)):
        objective = Objective.from_keys("max", {"m": direction}, {"accuracy": {"min": 0.9}})
        cost = objective.goals[0].cost
        good = objective.scalar(feasible, Judgement((cost(feasible),), (-0.1,)))
        bad = objective.scalar(broken, Judgement((cost(broken),), (0.1,)))
        worse = objective.scalar(broken, Judgement((cost(broken),), (0.2,)))
        assert cost(good) < cost(bad) < cost(worse)
