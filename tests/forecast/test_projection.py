from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycompress.config.experiment import Experiment
from raycompress.config.objective import Judgement
from raycompress.config.search_space import SearchSpace
from raycompress.errors import ExperimentError
from raycompress.forecast.fits import known_fits, notes_on, predicted_in
from raycompress.forecast.forecast import Forecast, why_not
from raycompress.forecast.prior import Prior, Scored
from raycompress.forecast.projection import Projection, check_budgets
from raycompress.model.costs import BlockCost, CostModel, Part
from raycompress.model.file_bytes import FileBytes, StoredLayer
from raycompress.model.groups import ChannelGroup
from raycompress.model.info import BlockInfo
from raycompress.model.latency_model import Accuracy, LatencyModel
from raycompress.model.latency_table import Clock
from raycompress.search.history import SearchHistory
from raycompress.search.proposers.budget_enforcer import BudgetEnforcer
from raycompress.search.proposers.front import front_model
from raycompress.search.proposers.guided import GuidedProposer
from raycompress.search.proposers.searchers import make_proposer
from tests.support.experiments import experiment_with, layer, network

MODEL = network(layer("conv1"), layer("conv2"), layer("conv3"), layer("fc", "Linear", 10))
GROUPS = tuple(ChannelGroup((f"conv{number}",), (), 16) for number in (1, 2, 3))
PARTS = (
    Part(100, 1000, 400, ((16, ((0, 1.0),)),)),
    Part(1000, 5000, 4000, ((16, ((0, 1.0),)), (16, ((1, 1.0),)))),
    Part(1000, 3000, 4000, ((16, ((1, 1.0),)), (16, ((2, 1.0),)))),
)
COSTS = CostModel(GROUPS, PARTS, (), 2200, 9100, 8800)
ENTRY = {"sparsity": {"type": "float", "range": [0.0, 0.9]}, "op_names": ["conv1", "conv2", "conv3"]}


def projection_of(folder: Path, entry: Any = ENTRY, **keys: Any) -> tuple[Experiment, Projection]:
    experiment = experiment_with(folder, [entry], **keys)
    space = SearchSpace.of(experiment, MODEL)
    return experiment, Projection.of(experiment, space, Forecast(MODEL, COSTS, experiment.compression.entry))


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ({"constraints": {"latency_ms@openvino": {"max": 3}, "size_bytes": {"max": 9}}}, ["openvino", "onnxruntime"]),
        ({"constraints": {"latency_ms@openvino": {"min": 3}}, "objectives": {"latency_ms": "min"}}, []),
        (
            {"proposer": "guided", "objectives": {"accuracy": "max", "latency_ms@eager": "min", "latency_ms": "min"}},
            ["eager", "onnxruntime"],
        ),
    ],
)
def test_latencies_are_predicted_where_a_bound_or_a_goal_of_a_guided_search_names_a_target(
    tmp_path: Path, keys: dict[str, Any], names: list[str]
) -> None:
    targets = [{"runtime": "onnxruntime"}, {"runtime": "openvino"}]
    assert predicted_in(experiment_with(tmp_path, [ENTRY], target=targets, **keys)) == names
    assert predicted_in(experiment_with(tmp_path, [ENTRY])) == []


def test_a_fit_is_taken_from_another_search_that_had_as_much_time_for_it(tmp_path: Path) -> None:
    dense_ms: dict[Clock, float] = {"latency_ms": 1.0, "cpu_ms": 1.0}
    accuracy = Accuracy(12, 0.1, 0.2, 0.9)
    fit = LatencyModel("openvino", (), 1, 1, {}, None, dense_ms, (0.0, 1.0), accuracy, identity="one", budget_s=20.0)
    others = [
        replace(MODEL, latency_in={"openvino": fit}),
        replace(MODEL, latency=replace(fit, accuracy=Accuracy(20, 0, 0, 1))),
    ]
    keys: dict[str, Any] = {"target": {"runtime": "openvino"}, "constraints": {"latency_ms": {"max": 3}}}
    as_long = experiment_with(tmp_path, [ENTRY], n_samples=10, **keys)
    assert known_fits(as_long, None, others) == [fit]  # the newest
    longer = experiment_with(tmp_path, [ENTRY], n_samples=11, **keys)
    assert known_fits(longer, None, others) == []
    assert known_fits(longer, [fit], []) == [fit]  # of the very search
    (kept,) = notes_on(longer, others[0], [fit], is_again=True)
    assert "and not again" in kept
    (stale,) = notes_on(longer, others[1], [fit], is_again=True)
    assert "timed again: the runtime, the machine or the network is another" in stale
    (other,) = notes_on(longer, others[1], [fit], is_again=False)
    assert "again" not in other


def samples(projection: Projection, count: int = 50) -> list[dict[str, float]]:
    drawn = random.Random(0)
    return [{one.name: drawn.uniform(0, 0.9) for one in projection.space.dimensions} for _ in range(count)]


def test_the_cost_of_a_sample_follows_its_channels(tmp_path: Path) -> None:
    _, projection = projection_of(tmp_path)
    sizes = projection.sizes({"conv1.sparsity": 0.5, "conv2.sparsity": 0.25, "conv3.sparsity": 0.0})
    assert sizes["flops"] == pytest.approx(100 + 1000 * 8 / 16 + 5000 * 8 * 12 / 256 + 3000 * 12 / 16)
    assert sizes["params"] == pytest.approx(100 + 50 + 1000 * 8 * 12 / 256 + 1000 * 12 / 16)


def test_projected_samples_fill_the_budget_and_keep_their_order(tmp_path: Path) -> None:
    _, projection = projection_of(tmp_path, constraints={"flops": {"max_ratio": 0.3}})
    for sample in samples(projection):
        found = projection.project(sample)
        assert projection.fits(found)
        assert projection.fullness(found) > 0.75  # steps of one channel in sixteen
        assert all(0 <= value <= 0.9 for value in found.values())
        order = sorted(sample, key=sample.__getitem__)
        assert [found[name] for name in order] == sorted(found.values())
        assert projection.project(found) == pytest.approx(found, abs=0.07)


def test_where_a_size_is_an_objective_what_fits_is_left_alone(tmp_path: Path) -> None:
    keys = {"objectives": {"score": "max", "params": "min"}, "constraints": {"flops": {"max_ratio": 0.5}}}
    _, projection = projection_of(tmp_path, **keys)
    for sample in samples(projection):
        found = projection.project(sample)
        assert projection.fits(found)
        assert (found == sample) == projection.fits(sample)


def test_of_several_budgets_all_hold(tmp_path: Path) -> None:
    constraints = {"flops": {"max_ratio": 0.4}, "params": {"max": 700}, "size_bytes": {"max_ratio": 0.35}}
    _, projection = projection_of(tmp_path, constraints=constraints)
    for sample in samples(projection):
        sizes = projection.sizes(projection.project(sample))
        assert sizes["flops"] <= 0.4 * 9100
        assert sizes["params"] <= 700
        assert sizes["size_bytes"] <= 0.35 * 8800


def test_a_budget_that_no_sample_can_meet_is_an_error(tmp_path: Path) -> None:
    experiment, projection = projection_of(
        tmp_path, {**ENTRY, "op_names": ["conv1", "conv2"]}, constraints={"flops": {"max_ratio": 0.01}}
    )
    (problem,) = check_budgets(experiment, projection)
    assert "no sample can keep to it" in problem.what
    assert problem.where.endswith("constraints.flops.max_ratio")
    assert "conv3" in problem.fix
    assert not list(check_budgets(*projection_of(tmp_path, constraints={"flops": {"max_ratio": 0.1}})))


@pytest.mark.parametrize(("ratio", "is_told"), [(0.1, True), (0.29, False), (0.4, False)])
def test_a_file_that_is_surely_larger_than_its_budget_is_an_error(ratio: float, is_told: bool, tmp_path: Path) -> None:
    bits = {"type": "choice", "range": [32, 8]}
    stage = {"framework": "torch", "type": "quantization", "compressor": "ptq_static"}
    entry = {"op_names": ["conv1", "conv2", "conv3"], "quant_bits": bits}
    experiment = experiment_with(
        tmp_path,
        [entry],
        compression={**stage, "config_list": [entry]},
        constraints={"size_bytes": {"max_ratio": ratio}},
        proposer="guided",
    )
    layers = tuple(StoredLayer(f"conv{one}", "Conv2d", (16, 16), 700, (8, 32)) for one in (1, 2, 3))
    model = replace(MODEL, file_bytes=FileBytes("ptq_static", layers, {"file": 100.0}, 0.01))
    space = SearchSpace.of(experiment, model)
    projection = Projection.of(experiment, space, Forecast.of(experiment, model, COSTS))
    problems = list(check_budgets(experiment, projection))
    told = [("with the fewest bits," in one.what, one.fix[:14]) for one in problems]
    assert told == [(True, "allow at least")] * is_told
    most = projection.sizes(projection.project(space.largest()))["size_bytes"]
    assert (most * 1.02 <= ratio * 8800) == (ratio == 0.4)  # twice the median error stays free


def test_a_floor_above_a_ceiling_is_told_where_the_dense_model_decides(tmp_path: Path) -> None:
    flops = {"min": 1e9, "max_ratio": 0.5}
    (problem,) = check_budgets(*projection_of(tmp_path, constraints={"flops": flops}))
    assert 'above "max_ratio"' in problem.what
    assert problem.where.endswith("constraints.flops.min")
    assert not list(check_budgets(*projection_of(tmp_path, constraints={"flops": {**flops, "min": 10}})))


def test_what_a_compressor_decides_itself_cannot_be_foretold(tmp_path: Path) -> None:
    tied = CostModel((ChannelGroup(("conv1", "conv2"), (), 16),), (), (), 1, 1, 1)
    plain, _ = projection_of(tmp_path)
    assert why_not(plain, MODEL, COSTS) == ""
    assert "tied" in why_not(plain, MODEL, tied)
    groups = {"compression": {"compressor": "group_l1"}}
    assert why_not(experiment_with(tmp_path, [ENTRY], **groups), MODEL, tied) == ""
    groups["compression"]["arguments"] = {"global": True}  # type: ignore[assignment]
    assert "decides" in why_not(experiment_with(tmp_path, [ENTRY], **groups), MODEL, COSTS)


@pytest.mark.parametrize("name", ["random", "hyperopt", "optuna", "spearmint", "bohb"])
@pytest.mark.parametrize("rejects", [False, True])
def test_every_proposer_keeps_to_the_budget(name: str, rejects: bool, tmp_path: Path) -> None:
    experiment, projection = projection_of(tmp_path, constraints={"flops": {"max_ratio": 0.4}})
    inner = make_proposer(name, projection.space, objective=experiment.objective, seed=0)
    proposer = BudgetEnforcer(inner, projection, experiment.objective, rejects=rejects, where="")
    for number in range(1, 16):
        sample = proposer.propose(number)
        assert sample is not None
        assert projection.fits(sample)
        proposer.learn(number, -sample["conv1.sparsity"], {})


@pytest.mark.parametrize("objectives", [{}, {"accuracy": "max", "flops": "min"}], ids=["one", "several"])
def test_guided_keeps_to_the_budget_whatever_is_searched_beside(objectives: Any, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"constraints": {"flops": {"max_ratio": 0.4}}, "proposer": "guided"}
    rounding = {"compressor": "group_l1", "arguments": {"round_to": {"type": "choice", "range": [1, 4, 8]}}}
    keys |= {"objectives": objectives} if objectives else {}
    experiment, projection = projection_of(tmp_path, compression=rounding, **keys, random_seed=0)
    curves = {one.name: [(0.9, 0.5)] for one in projection.space.sparsities}
    proposer = GuidedProposer(experiment, projection.space, projection, Prior(0.9, curves), SearchHistory())
    seen = set()
    for number in range(1, 13):
        sample = proposer.propose(number)
        assert sample is not None
        assert projection.fits(sample)
        seen.add(sample["arguments.round_to"])
        proposer.learn(number, 0.5 + number / 100, {}, Judgement((0.5,) * max(1, len(objectives)), (0.0,)))
    assert len(seen) > 1


def test_guided_ends_where_every_model_was_tried(tmp_path: Path) -> None:
    entry = {"sparsity": {"type": "choice", "range": [0.5, 0.75]}, "op_names": ["conv1", "conv2"]}
    keys: dict[str, Any] = {"constraints": {"flops": {"max_ratio": 0.9}}, "proposer": "guided", "random_seed": 0}
    experiment, projection = projection_of(tmp_path, entry, **keys)
    proposer = GuidedProposer(experiment, projection.space, projection, Prior(0.9, {}), SearchHistory())
    found = [proposer.propose(number) for number in range(1, 7)]
    assert found[0] is not None
    assert found[-1] is None


def test_guided_drops_blocks_where_nothing_else_fits(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"constraints": {"flops": {"max_ratio": 0.8}}, "proposer": "guided", "random_seed": 0}
    depth = {"compressor": "group_l1", "config_list": [], "depth": {"blocks": ["conv2", "conv3"]}}
    experiment = experiment_with(tmp_path, [], compression=depth, **keys)
    model = replace(MODEL, blocks=(BlockInfo("conv2", "Conv2d"), BlockInfo("conv3", "Conv2d")))
    costs = replace(COSTS, blocks=(BlockCost("conv2", 900, 4000, 3600), BlockCost("conv3", 900, 3000, 3600)))
    space = SearchSpace.of(experiment, model)
    projection = Projection.of(experiment, space, Forecast.of(experiment, model, costs))
    proposer = GuidedProposer(experiment, space, projection, Prior(0.9, {}), SearchHistory())
    found = [sample for number in range(1, 5) if (sample := proposer.propose(number)) is not None]
    assert len(found) == 3
    assert all(map(projection.fits, found))


def test_a_budget_that_nothing_drawn_fits_ends_the_search(tmp_path: Path) -> None:
    experiment, projection = projection_of(tmp_path, constraints={"flops": {"max_ratio": 0.0125}})
    inner = make_proposer("random", projection.space, objective=experiment.objective, seed=0)
    with pytest.raises(ExperimentError, match="rejected"):
        BudgetEnforcer(inner, projection, experiment.objective, rejects=True, where="exp.json:3").propose(1)


def hypervolume(points: list[tuple[float, float]]) -> float:
    """Return what points of (score above 0, share of the size) dominate, up to the whole size."""
    volume, best = 0.0, 0.0
    by_share = sorted((share, score) for score, share in points)
    ends = [*(share for share, _ in by_share[1:]), 1.0]
    for (share, score), end in zip(by_share, ends, strict=True):
        best = max(best, score)
        volume += best * (end - share)
    return volume


@pytest.mark.parametrize("seed", range(3))
def test_a_trial_goes_where_the_front_is_expected_to_widen_most(tmp_path: Path, seed: int) -> None:
    """Conv1 bears nothing and conv3 almost all: which the model of the front learns, and random samples do not."""

    def accuracy(sample: dict[str, Any]) -> float:
        one, two, three = (sample[f"conv{number}.sparsity"] for number in (1, 2, 3))
        return float(1 - one**0.5 - 0.6 * two**2 * (1 + one) - 0.05 * three)

    keys: dict[str, Any] = {"objectives": {"accuracy": "max", "flops": "min"}, "random_seed": seed}
    experiment, projection = projection_of(tmp_path, **keys)
    space, whole = projection.space, projection.space.centre()
    model = front_model(space.dimensions, whole, projection, experiment.objective, (), goal="max", seed=seed)
    assert model is not None and model.propose() is None  # nothing is known yet
    draw, points = random.Random(seed), {"model": [], "random": []}
    for number in range(24):
        drawn = {one.name: draw.uniform(0.0, 0.9) for one in space.dimensions}
        proposed = model.propose() if number >= 8 else drawn
        assert proposed is not None
        model.add_proposed(number, proposed)
        model.learn(number, (-accuracy(proposed), projection.share(proposed, "flops")))
        for name, sample in (("model", proposed), ("random", drawn)):
            points[name].append((accuracy(sample), projection.share(sample, "flops")))
    assert len({projection.cuts(sample) for sample in model._proposed.values()}) == 24
    assert hypervolume(points["model"]) > 1.1 * hypervolume(points["random"])


@pytest.mark.parametrize(
    "objectives",
    [{"accuracy": "max"}, {"accuracy": "max", "latency_ms": "min"}, {"accuracy": "max", "loss": "min"}],
    ids=["one goal", "a latency that nobody predicts", "two metrics"],
)
def test_a_front_without_a_size_that_is_known_has_no_model(tmp_path: Path, objectives: dict[str, str]) -> None:
    experiment, projection = projection_of(tmp_path, objectives=objectives)
    whole = projection.space.centre()
    assert (
        front_model(projection.space.dimensions, whole, projection, experiment.objective, (), goal="max", seed=0)
        is None
    )


def test_guided_proposes_no_model_that_loses_nothing(tmp_path: Path) -> None:
    """As where a runtime is no faster with fewer channels: a trial of the dense model fails, which ends the search."""
    keys: dict[str, Any] = {"objectives": {"params": "min"}, "constraints": {"accuracy": {"max_drop": 0.01}}}
    experiment, projection = projection_of(tmp_path, **keys)
    curves = {one.name: [(0.9, 0.5)] for one in projection.space.sparsities}
    nothing = [Scored({one.name: 0.0 for one in projection.space.dimensions}, 0.9)]
    proposer = GuidedProposer(experiment, projection.space, projection, Prior(0.9, curves, nothing), SearchHistory())
    for number in range(6):
        sample = proposer.propose(number)
        assert sample is not None and any(projection.cuts(sample)[:3])
