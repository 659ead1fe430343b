import json

import numpy as np
import pytest
from ray import tune

from raycompress.config.dimension import Dimension
from raycompress.config.experiment import Experiment
from raycompress.config.objective import Objective
from raycompress.config.search_space import SearchSpace
from raycompress.search.proposals import Proposals
from raycompress.search.proposers.searchers import make_proposer
from raycompress.search.trials import TrialRequest

PROPOSERS = ["random", "hyperopt", "optuna", "spearmint", "bohb"]


@pytest.fixture
def space(tmp_path):
    (tmp_path / "train.py").write_text("")
    float_range = {"type": "float", "range": [0.1, 0.9]}
    path = tmp_path / "exp.json"
    path.write_text(
        json.dumps(
            {
                "name": "x",
                "script": "train.py",
                "compression": {
                    "framework": "torch",
                    "type": "pruning",
                    "compressor": "l1_filter",
                    "config_list": [{"op_types": ["Conv2d"], "op_names": ["a/b", "c"], "sparsity": float_range}],
                },
                "parameter_config": [
                    {"name": "epochs", "type": "int", "range": [1, 3]},
                    {"name": "lr", "type": "float", "range": [1e-4, 1e-1], "log": True},
                    {"name": "schedule", "type": "choice", "range": [[1, 2], [3]]},
                ],
            }
        )
    )
    return SearchSpace.of(Experiment.load(path))


def score(sample):
    return -abs(sample["c.sparsity"] - 0.3) - abs(sample["epochs"] - 2)


def drive(space, name, order, *, seed=7, n=12, parallel=3, goal="max"):
    """Run a search without Ray; `order` picks which of the running trials ends next."""
    proposals = Proposals(
        make_proposer(name, space, objective=Objective.of_score(goal), seed=seed),
        n_samples=n,
        baseline=space.centre(),
        lag=2 * parallel if seed is not None else None,
        make_request=lambda number, sample: TrialRequest(number, sample, {}),
    )
    running, seen = [], {}
    while not proposals.is_over:
        while len(running) < parallel and (trial := proposals.propose()) is not None:
            running.append(trial)
            seen[trial.number] = trial.sample
        if not running:
            break
        trial = running.pop(order(len(running)))
        failed = trial.number % 5 == 4
        result = float("nan") if failed else score(trial.sample)
        if not failed:
            proposals.add_result(trial.number, 1, result)
        proposals.add_end(trial.number, result, 3, values={"score": result}, sizes=(None, None))
    return seen


@pytest.mark.parametrize("name", PROPOSERS)
def test_one_seed_gives_one_search_in_whatever_order_trials_end(space, name):
    first = drive(space, name, lambda n: 0)
    second = drive(space, name, lambda n: n - 1)
    assert sorted(first) == list(range(13))
    assert first == second


@pytest.mark.parametrize("name", ["random", "optuna"])
def test_another_seed_gives_another_search(space, name):
    assert drive(space, name, lambda n: 0, seed=1)[3] != drive(space, name, lambda n: 0, seed=2)[3]


@pytest.mark.parametrize("name", PROPOSERS)
def test_proposals_lie_in_their_domains_as_plain_values(space, name):
    for sample in drive(space, name, lambda n: 0, seed=None).values():
        assert 0.1 <= sample["a/b.sparsity"] <= 0.9
        assert type(sample["epochs"]) is int
        assert 1 <= sample["epochs"] <= 3
        assert 1e-4 <= sample["lr"] <= 1e-1
        assert sample["schedule"] in ([1, 2], [3])


def test_both_ends_of_an_int_range_are_proposed(space):
    samples = drive(space, "random", lambda n: 0, n=60)
    assert {sample["epochs"] for sample in samples.values()} == {1, 2, 3}


@pytest.mark.parametrize("name", ["hyperopt", "optuna", "spearmint", "bohb"])
def test_a_searcher_learns(space, name):
    n = 24 if name == "spearmint" else 40  # whose cost grows with the cube of what it knows
    samples = drive(space, name, lambda n: 0, n=n, parallel=1)
    late = [score(samples[number]) for number in range(n - 9, n + 1)]
    early = [score(samples[number]) for number in range(1, 11)]
    assert sum(late) > sum(early)


def test_no_two_trials_share_an_object(space):
    samples = list(drive(space, "random", lambda n: 0).values())
    lists = [id(sample["schedule"]) for sample in samples]
    assert len(set(lists)) == len(lists)


def test_a_grid_ends_by_itself(tmp_path, space):
    small = SearchSpace((Dimension("a", "int", 0, 1), Dimension("b", "choice", choices=("x", "y"))), {})
    proposals = Proposals(
        make_proposer("sequence", small, objective=Objective.of_score("max"), seed=None),
        n_samples=10,
        baseline=None,
        lag=None,
        make_request=lambda number, sample: TrialRequest(number, sample, {}),
    )
    seen = []
    while (trial := proposals.propose()) is not None:
        seen.append(trial.sample)
    assert seen == [{"a": a, "b": b} for a in (0, 1) for b in "xy"]
    assert not proposals.is_over  # the trials have not ended
    for number in range(1, 5):
        proposals.add_end(number, 0.5)
    assert proposals.propose() is None
    assert proposals.is_over


def test_random_draws_the_numbers_that_tune_draws_of_the_same_seed():
    dimensions = (
        Dimension("a", "float", 0.1, 0.9),
        Dimension("b", "float", 1e-4, 1e-1, log=True),
        Dimension("c", "int", 1, 5),
        Dimension("d", "int", 1, 64, log=True),
        Dimension("e", "choice", choices=("x", "y", "z")),
    )
    of_tune = {
        "a": tune.uniform(0.1, 0.9),
        "b": tune.loguniform(1e-4, 1e-1),
        "c": tune.randint(1, 6),
        "d": tune.lograndint(1, 65),
        "e": tune.choice(["x", "y", "z"]),
    }
    ours = make_proposer("random", SearchSpace(dimensions, {}), objective=Objective.of_score("max"), seed=11)
    state = np.random.RandomState(11)
    for number in range(1, 40):
        assert ours.propose(number) == {name: one.sample(random_state=state) for name, one in of_tune.items()}
