import json

import pytest
from ray.tune.search import Searcher

from raycompress.backend.tune.searcher import Proposals
from raycompress.backend.tune.slots import Slots
from raycompress.config.experiment import Experiment, Resources
from raycompress.config.objective import Objective
from raycompress.config.search_space import SearchSpace
from raycompress.search.proposers.searchers import make_proposer

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
        slots=Slots(Resources(cpu=1), parallel, dict),
        make_config=lambda number, sample: {"number": number, "sample": sample},
    )
    running, seen, waited = [], {}, 0
    for step in range(10 * n):
        while len(running) < parallel:
            proposal = proposals.suggest(f"t{step}-{len(running)}")
            if proposal is None:
                waited += 1
                break
            if proposal == Searcher.FINISHED:
                break
            running.append((f"t{step}-{len(running)}", proposal))
            seen[proposal["number"]] = proposal["sample"]
        if not running:
            break
        trial_id, proposal = running.pop(order(len(running)))
        failed = proposal["number"] % 5 == 4
        result = {"score": float("nan")} if failed else {"score": score(proposal["sample"])}
        if not failed:
            proposals.on_trial_result(trial_id, {**result, "iterations": 1})
        proposals.on_trial_complete(trial_id, {**result, "iterations": 3})
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
    from raycompress.config.dimension import Dimension

    small = SearchSpace((Dimension("a", "int", 0, 1), Dimension("b", "choice", choices=("x", "y"))), {})
    proposals = Proposals(
        make_proposer("sequence", small, objective=Objective.of_score("max"), seed=None),
        n_samples=10,
        baseline=None,
        lag=None,
        slots=Slots(Resources(cpu=1), 20, dict),
        make_config=lambda number, sample: {"number": number, "sample": sample},
    )
    seen = []
    while (proposal := proposals.suggest(str(len(seen)))) != Searcher.FINISHED:
        seen.append(proposal["sample"])
    assert seen == [{"a": a, "b": b} for a in (0, 1) for b in "xy"]
