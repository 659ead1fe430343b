"""HyperBand's brackets: the sizes and budgets of the paper's own example."""

import pytest

from raycompress.config.stopping import Budgets


def test_brackets_of_81_iterations():
    budgets = Budgets(eta=3, max_iter=81)
    assert [budgets.rungs(bracket)[0] for bracket in range(budgets.brackets)] == [1, 3, 9, 27, 81]
    assert [budgets.size(bracket) for bracket in range(budgets.brackets)] == [81, 34, 15, 8, 5]


@pytest.mark.parametrize(("eta", "max_iter"), [(2, 1), (2, 7), (3, 10), (4, 64), (3, 243)])
def test_every_bracket_ends_with_the_whole_budget_and_rises(eta, max_iter):
    budgets = Budgets(eta, max_iter)
    for bracket in range(budgets.brackets):
        rungs = budgets.rungs(bracket)
        assert rungs[-1] == max_iter
        assert list(rungs) == sorted(set(rungs))


def test_trials_fill_the_brackets_in_turn():
    budgets = Budgets(eta=3, max_iter=27)
    assert [budgets.bracket_of(number) for number in (1, 27, 28, 39, 40, 45, 46, 49, 50)] == [0, 0, 1, 1, 2, 2, 3, 3, 0]
