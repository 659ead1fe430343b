"""Guided on a loss that is known: where its prior is right, where it misleads, and on the budget in any case."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import numpy as np
import pytest

from raycompress.config.dimension import Dimension
from raycompress.forecast.candidates import score_cheaply
from raycompress.forecast.prior import Goal, Losses, Prior, Sample, Scored, anywhere, first_guesses
from raycompress.search.proposals import Proposals
from raycompress.search.proposers.budget import BudgetProposer
from raycompress.search.trials import TrialRequest

HIGH = 0.9
DIMENSIONS = tuple(Dimension(f"layer{index}.sparsity", "float", 0.0, HIGH) for index in range(6))
NAMES = [dimension.name for dimension in DIMENSIONS]
WEIGHTS = dict(zip(NAMES, (0.02, 0.3, 0.01, 0.15, 0.05, 0.1), strict=True))
"""How much of the accuracy each layer takes with it."""
PRICES = dict(zip(NAMES, (0.3, 0.1, 0.25, 0.1, 0.05, 0.2), strict=True))
"""Each layer's share of the cost."""
BUDGET = 0.4
DENSE = 0.9
SHARES = (0.25, 0.5, 0.7, 0.9)


def accuracy(sample: Sample, weights: dict[str, float] = WEIGHTS) -> float:
    return DENSE - sum(weights[name] * share**2 for name, share in sample.items())


def cost(sample: Sample) -> float:
    return sum(PRICES[name] * (1 - share) for name, share in sample.items())


def project(sample: Sample) -> Sample:
    """Scale all kept shares by one factor, the largest that the budget allows."""

    def scaled(factor: float) -> Sample:
        return {name: min(max(1 - (1 - share) * factor, 0.0), HIGH) for name, share in sample.items()}

    low, high = 0.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(scaled(middle)) <= BUDGET else (low, middle)
    return scaled(low)


def prior(weights: dict[str, float] = WEIGHTS, candidates: int = 0, goal: Goal = "max") -> Prior:
    """Return what measuring each layer alone gives, with scores of whole candidates by the same weights."""
    sign = 1 if goal == "max" else -1
    whole = dict.fromkeys(NAMES, 0.0)
    curves = {name: [(s, sign * accuracy({**whole, name: s}, weights)) for s in SHARES] for name in NAMES}
    found = Prior(sign * DENSE, curves)
    if not candidates:
        return found
    first = first_guesses(DIMENSIONS, found, cost=cost, project=project, goal=goal)
    scored = score_cheaply(
        DIMENSIONS,
        first,
        cheap=lambda sample: sign * accuracy(sample, weights),
        project=project,
        goal=goal,
        number=candidates,
        seed=0,
    )
    return Prior(found.dense, curves, scored)


def guided(known: Prior, seed: int | None = 0, goal: Goal = "max", **more: Any) -> BudgetProposer:
    return BudgetProposer(DIMENSIONS, prior=known, cost=cost, project=project, goal=goal, seed=seed, **more)


def search(proposer: BudgetProposer, trials: int, sign: int = 1) -> list[tuple[Sample, float]]:
    found = []
    for number in range(trials):
        sample = proposer.propose(number)
        assert sample is not None
        proposer.learn(number, sign * accuracy(sample), {})
        found.append((sample, accuracy(sample)))
    return found


def random_search(trials: int, seed: int) -> float:
    random = np.random.default_rng(seed)
    return max(accuracy(project(anywhere(DIMENSIONS, random))) for _ in range(trials))


def _random(number: int) -> list[Sample]:
    random = np.random.default_rng(0)
    return [anywhere(DIMENSIONS, random) for _ in range(number)]


def misleading() -> Prior:
    """Return a prior by which what bears least bears most, and the worst of 64 candidates is the best."""
    scored = [Scored(sample, DENSE - accuracy(sample)) for sample in map(project, _random(64))]
    return Prior(DENSE, prior({name: 0.32 - weight for name, weight in WEIGHTS.items()}).curves, scored)


@pytest.mark.parametrize("candidates", [0, 32])
@pytest.mark.parametrize(("goal", "sign"), [("max", 1), ("min", -1)])
def test_one_trial_beats_many_random_ones(candidates: int, goal: Goal, sign: int) -> None:
    first = search(guided(prior(candidates=candidates, goal=goal), goal=goal), 1, sign)[0][1]
    assert first > statistics.mean(random_search(16, seed) for seed in range(20))


@pytest.mark.parametrize("candidates", [0, 32])
def test_eight_trials_beat_sixty_four_random_ones(candidates: int) -> None:
    best = max(score for _, score in search(guided(prior(candidates=candidates)), 8))
    assert best > statistics.mean(random_search(64, seed) for seed in range(10))


def test_a_right_prior_is_kept() -> None:
    proposer = guided(prior(candidates=32))
    search(proposer, 16)
    assert proposer.advantage == 1.0
    assert proposer.trusts
    assert proposer.note == ""


def test_a_misleading_prior_is_let_go_and_told() -> None:
    proposer = guided(misleading())
    search(proposer, 16)
    assert proposer.advantage is not None
    assert proposer.advantage < 0.5
    assert not proposer.trusts
    assert f"won {proposer.advantage:.0%} of the comparisons" in proposer.note


def test_without_its_prior_it_still_searches() -> None:
    """A wrong prior costs some trials: with a few more it is no worse than chance."""
    best = [max(score for _, score in search(guided(misleading(), seed), 24)) for seed in range(4)]
    assert statistics.mean(best) > statistics.mean(random_search(12, seed) for seed in range(20))


def test_a_prior_that_is_let_go_gives_no_more_trials() -> None:
    known = misleading()
    candidates = {tuple(one.sample.values()) for one in known.candidates}
    proposer = guided(known)
    search(proposer, 12)
    assert not proposer.trusts
    for number in range(12, 24):
        sample = proposer.propose(number)
        assert sample is not None
        assert tuple(sample.values()) not in candidates
        proposer.learn(number, accuracy(sample))


@pytest.mark.parametrize("known", [prior(), prior(candidates=32), misleading()], ids=["none", "right", "wrong"])
def test_every_proposal_is_in_the_ranges_and_on_the_budget(known: Prior) -> None:
    for sample, _ in search(guided(known), 20):
        assert list(sample) == NAMES
        assert all(0 <= share <= HIGH for share in sample.values())
        assert cost(sample) == pytest.approx(BUDGET, abs=1e-6)


def test_no_proposal_comes_twice() -> None:
    samples = [tuple(sample.values()) for sample, _ in search(guided(prior(candidates=16)), 20)]
    assert len(set(samples)) == 20


def test_equal_seeds_give_equal_proposals() -> None:
    def proposals(seed: int) -> list[Sample]:
        return [sample for sample, _ in search(guided(prior(candidates=16), seed), 12)]

    assert proposals(3) == proposals(3)
    assert proposals(3) != proposals(4)


def test_a_share_of_the_trials_explores() -> None:
    known = prior(candidates=32)
    best = {tuple(one.sample.values()) for one in sorted(known.candidates, key=lambda one: -one.score)[:8]}
    alone = guided(known, exploration=1.0)
    everywhere = [tuple(sample.values()) for sample, _ in search(alone, 17)]
    assert everywhere[0] in best
    spread = np.std([accuracy(dict(zip(NAMES, values, strict=True))) for values in everywhere[1:]])
    narrow = np.std([score for _, score in search(guided(known, exploration=0.0), 16)])
    assert spread > narrow


def test_failed_trials_and_strangers_teach_nothing() -> None:
    proposer = guided(prior(candidates=16))
    for number in range(8):
        assert proposer.propose(number) is not None
        proposer.learn(number, None, {})
    proposer.learn(99, 0.1, {})
    assert proposer.advantage is None
    assert proposer.trusts


def test_many_may_be_proposed_before_the_first_is_learnt() -> None:
    proposer = guided(prior(candidates=16))
    samples = [proposer.propose(number) for number in range(10)]
    assert len({tuple(sample.values()) for sample in samples if sample is not None}) == 10


def test_a_search_goes_on_where_an_earlier_one_ended() -> None:
    known = prior(candidates=16)
    proposer, resumed = guided(known), guided(known)
    before = search(proposer, 9)
    for number, (sample, score) in enumerate(before):
        resumed.add_proposed(number, sample)
        resumed.learn(number, score)
    assert proposer.advantage is not None
    assert resumed.advantage == proposer.advantage
    after = [resumed.propose(number) for number in range(9, 16)]
    assert not any(sample in after for sample, _ in before)


def test_curves_never_fall_and_holes_are_passed_over() -> None:
    losses = Losses(Prior(0.9, {"a": [(0.9, 0.5), (0.5, 0.95), (0.7, float("nan"))]}), "max")
    assert losses.of("a", 0.5) == 0
    assert losses.of("a", 0.7) == pytest.approx(0.2)
    assert losses.of("b", 0.9) == 0
    shares = np.linspace(0, 0.9, 20)
    assert all(losses.of("a", low) <= losses.of("a", high) for low, high in itertools.pairwise(shares))


def test_first_guesses_prune_what_bears_it() -> None:
    greedy, *_, uniform = first_guesses(DIMENSIONS, prior(), cost=cost, project=project, goal="max")
    assert len(set(uniform.values())) == 1
    assert accuracy(greedy) > accuracy(uniform) + 0.02
    assert greedy[NAMES[2]] > greedy[NAMES[1]]


def test_one_more_guess_goes_by_what_an_error_changes_in_the_outputs() -> None:
    bears = NAMES[0]
    errors = {name: [(0.5, 0.01 if name == bears else 1.0), (0.9, 0.02 if name == bears else 4.0)] for name in NAMES}
    without, found = (
        first_guesses(DIMENSIONS, prior(), cost=cost, project=project, goal="max", errors=one) for one in (None, errors)
    )
    assert [sample for sample in found if sample in without] == without
    (more,) = [sample for sample in found[:3] if sample not in without]
    assert more[bears] == max(more.values())


def test_first_guesses_take_a_dimension_of_few_heads_too() -> None:
    heads = NAMES[0]

    def in_heads(sample: Sample) -> float:
        return cost({**sample, heads: int(4 * sample[heads]) / 4})

    weights = {**WEIGHTS, heads: 1e-3}
    greedy, *_ = first_guesses(DIMENSIONS, prior(weights), cost=in_heads, project=lambda one: one, goal="max")
    assert greedy[heads] >= 0.75


def test_cheap_scores_cost_what_they_say() -> None:
    asked: list[Sample] = []

    def cheap(sample: Sample) -> float:
        asked.append(sample)
        return accuracy(sample)

    first = first_guesses(DIMENSIONS, prior(), cost=cost, project=project, goal="max")
    scored = score_cheaply(DIMENSIONS, first, cheap=cheap, project=project, goal="max", number=40, seed=1)
    assert len(asked) == len(scored) <= 40
    assert [one.sample for one in scored] == asked
    assert all(isinstance(one, Scored) and one.score == accuracy(one.sample) for one in scored)
    later = statistics.mean(one.score for one in scored[-10:])
    assert later > statistics.mean(accuracy(project(sample)) for sample in _random(40))


def test_a_search_says_so_when_no_model_is_left_to_try() -> None:
    said: list[str] = []
    few = guided(prior(candidates=32), alike=lambda sample: sample[NAMES[0]] > 0.5)  # two models in all
    proposals = Proposals(
        few,
        n_samples=8,
        baseline=None,
        lag=None,
        make_request=lambda number, sample: TrialRequest(number, sample, {}),
        notify=said.append,
    )
    tried = 0
    while (trial := proposals.propose()) is not None:
        proposals.add_end(trial.number, accuracy(trial.sample), 1, values={}, sizes=(None, None))
        tried += 1
    assert tried == 2
    assert proposals.is_over
    assert [note for note in said if note.startswith("the search ends here")] == said
    assert len(said) == 1
