from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycompress import catalog
from raycompress.config.checks.objective import check_objective, check_reported, reported_names
from raycompress.config.objective import (
    FIRST,
    LIMITS,
    Bound,
    DenseLatency,
    Judgement,
    Objective,
    knee,
    metrics_of,
    thinned,
)

DENSE = {"accuracy": 0.9, "flops": 1000.0, FIRST: 0.9}


def judged(objective: Objective, **metrics: float) -> Judgement:
    found = objective.judge(metrics, DENSE)
    assert found is not None
    return found


@pytest.mark.parametrize(("goal", "best"), [("max", 2), ("min", 1)])
def test_of_equal_scores_the_first_is_the_best(goal: Any, best: int) -> None:
    objective = Objective.of_score(goal)
    trials = {number: judged(objective, **{FIRST: score}) for number, score in enumerate([2.0, 1.0, 3.0, 3.0, 1.0])}
    assert objective.select(trials) == [best]


@pytest.mark.parametrize(
    ("limit", "value", "holds", "broken"),
    [
        ("min", 0.8, 0.8, 0.799),
        ("max", 0.8, 0.8, 0.801),
        ("min_ratio", 0.5, 0.45, 0.449),
        ("max_ratio", 0.5, 0.45, 0.451),
        ("max_drop", 0.1, 0.8, 0.799),
        ("max_rise", 0.1, 1.0, 1.001),
    ],
)
def test_each_limit_holds_up_to_its_end(limit: str, value: float, holds: float, broken: float) -> None:
    bound = Bound("accuracy", limit, value)
    assert bound.excess(holds, 0.9) <= 0 < bound.excess(broken, 0.9)
    assert bound.excess(math.nan, 0.9) == math.inf
    assert set(LIMITS) >= {limit}


def test_feasible_trials_come_first_and_then_those_that_break_least() -> None:
    objective = Objective.from_keys("max", {}, {"flops": {"max_ratio": 0.5}}, kept=4)
    trials = {
        1: judged(objective, **{FIRST: 0.99, "flops": 900.0}),
        2: judged(objective, **{FIRST: 0.80, "flops": 500.0}),
        3: judged(objective, **{FIRST: 0.98, "flops": 600.0}),
        4: judged(objective, **{FIRST: 0.85, "flops": 400.0}),
    }
    assert objective.select(trials) == [4, 2, 3, 1]
    scalars = {number: objective.scalar(-one.costs[0], one) for number, one in trials.items()}
    assert sorted(scalars, key=lambda number: -scalars[number]) == [4, 2, 3, 1]


def test_nothing_is_judged_before_the_dense_model_is_known() -> None:
    objective = Objective.from_keys("max", {"accuracy": "max"}, {"accuracy": {"max_drop": 0.1}})
    assert objective.needs_dense_result
    assert objective.judge({"accuracy": 0.9}, {}) is None
    assert not Objective.from_keys("max", {}, {"flops": {"max_ratio": 0.1}, "accuracy": {"min": 1}}).needs_dense_result


def test_a_front_is_kept_whole_up_to_its_bound_with_the_knee_first() -> None:
    objective = Objective.from_keys("max", {"accuracy": "max", "flops": "min"}, {}, kept=3)
    points = {1: (0.9, 1000.0), 2: (0.88, 300.0), 3: (0.5, 100.0), 4: (0.87, 310.0), 5: (0.9, 1000.0), 6: (0.89, 900.0)}
    trials = {number: judged(objective, accuracy=a, flops=f) for number, (a, f) in points.items()}
    assert objective.select(trials) == [2, 1, 3]  # 4 is dominated, 5 equals 1, 6 is the most crowded
    front = {number: trials[number].costs for number in (1, 2, 3, 6)}
    assert knee(front) == 2
    assert set(thinned(front, 4)) == {1, 2, 3, 6}
    assert thinned({}, 3) == []


def test_a_header_says_the_same_objective_again() -> None:
    keys: dict[str, Any] = {"latency_ms": "min", "accuracy": "max"}
    objective = Objective.from_keys("max", keys, {"accuracy": {"min": 0.9, "max_drop": 0.1}}, kept=7)
    assert Objective.from_header({"goal": objective.goal, **objective.to_header()}) == objective
    plain = Objective.of_score("min")
    assert plain.to_header() == {}
    assert Objective.from_header({"goal": "min"}) == plain


def test_metrics_are_what_was_reported_and_what_was_measured() -> None:
    found = metrics_of(
        {"accuracy": 0.9, "latency_ms": 3.0}, {"params": 5, "size_bytes": 20, "latency_ms": 1.0, "flops": None}
    )
    assert found == {FIRST: 0.9, "accuracy": 0.9, "latency_ms": 3.0, "params": 5.0, "size_bytes": 20.0}


def test_a_latency_is_a_share_of_the_dense_models_by_the_clock_that_its_target_has() -> None:
    there = "latency_ms@openvino"
    dense = (DenseLatency("latency_ms", 10.0), DenseLatency(there, 4.0, "cpu_ms"))
    objective = replace(Objective.from_keys("max", {"latency_ms": "min", there: "min"}, {}), dense=dense)
    assert Objective.from_header({"goal": objective.goal, **objective.to_header()}) == objective
    before = {"latency_ms": 20.0, "cpu_ms": 16.0, there: 9.0, "cpu_ms@openvino": 5.0}
    after = {"latency_ms": 10.0, "cpu_ms": 4.0, there: 6.0, "cpu_ms@openvino": 2.5}
    found = objective.metrics_of({"accuracy": 0.9}, before, after)
    assert (found["latency_ms"], found[there]) == (5.0, 2.0)
    assert objective.metrics_of({there: 7.0}, before, after)[there] == 7.0  # the script's own counts
    old = Objective.from_header({"goal": "min", "objectives": {"latency_ms": "min"}, "dense_latency_ms": 10.0})
    assert old.dense == dense[:1]
    assert objective.metrics_of(None, None, {there: 6.0})[there] == 6.0


def findings(compressor: str | None = "l1_filter", framework: str = "torch", **data: Any) -> list[tuple[str, str]]:
    """Return (path, what) of each finding of an experiment's keys."""
    entry = None if compressor is None else catalog.find(compressor, framework)
    return [(".".join(map(str, one.path)), one.what) for one in check_objective(data, [entry])]


@pytest.mark.parametrize(
    ("compressor", "data", "path", "what"),
    [
        ("l1_filter", {"objectives": {"a": "max"}, "target": "max"}, "target", "says it again"),
        ("l1_filter", {"constraints": {"flops": {}}}, "constraints.flops", 'nothing is said of "flops"'),
        (
            "l1_filter",
            {"constraints": {"accuracy": {"max_drop": 0.1}}, "baseline": False},
            "constraints.accuracy.max_drop",
            "leaves its trial out",
        ),
        (
            "l1_filter",
            {"constraints": {"accuracy": {"min_ratio": 0.9}}, "proposer": "passive"},
            "constraints.accuracy.min_ratio",
            "a passive experiment does not run",
        ),
        (
            "l1_filter",
            {"constraints": {"flops": {"min_ratio": 0.9, "max_ratio": 0.5}}},
            "constraints.flops.min_ratio",
            'of flops, 0.9, is above its "max_ratio", 0.5',
        ),
        ("level", {"constraints": {"flops": {"max_ratio": 0.5}}}, "constraints.flops", "masks single weights"),
        ("ptq_dynamic", {"objectives": {"params": "min"}}, "objectives.params", "quantizes weights"),
        (
            "l1_filter",
            {"objectives": {"flops": "min"}, "resource_args": {"save_model": False}},
            "resource_args.save_model",
            '"flops" could be measured',
        ),
        ("l1_filter", {"objectives": {"flops": "min"}, "scheduler": {}}, "objectives.flops", "at a trial's end only"),
        ("l1_filter", {"objectives": {"flops": "min"}, "proposer": "bohb"}, "objectives.flops", "ended early"),
        ("l1_filter", {"scheduler": {}, "resource_args": {"early_stop": True}}, "scheduler", "the same thing"),
        ("agp", {"scheduler": {"rung0": True}}, "scheduler.rung0", "what agp removes is not known then"),
        ("level", {"proposer": "guided"}, "proposer", "level cuts none"),
        ("l1_filter", {"repeats": 3, "objectives": {"a": "max", "b": "min"}}, "repeats", "a front of them"),
        ("l1_filter", {"repeats": 3, "resource_args": {"save_model": False}}, "repeats", "which model is kept"),
    ],
)
def test_what_cannot_go_together_is_found(compressor: str, data: dict[str, Any], path: str, what: str) -> None:
    ((where, said),) = findings(compressor, **data)
    assert where == path and what in said


@pytest.mark.parametrize(
    ("compressor", "data"),
    [
        ("l1_filter", {"objectives": {"accuracy": "max", "flops": "min"}, "scheduler": {}}),
        ("l1_filter", {"constraints": {"accuracy": {"min": 0.5}}, "baseline": False, "proposer": "passive"}),
        ("l1_filter", {"constraints": {"flops": {"max_ratio": 0.5}}, "baseline": False}),
        ("l1_filter", {"repeats": 3, "objectives": {"accuracy": "max"}}),
        ("l1_filter", {"repeats": "3", "constraints": {"flops": 3}, "objectives": ["accuracy"]}),
        ("ptq_dynamic", {"constraints": {"size_bytes": {"max_ratio": 0.3}}}),
        ("level", {"constraints": {"latency_ms": {"max": 3}}}),
        (
            None,
            {"proposer": "guided", "scheduler": {"rung0": True}, "objectives": {"accuracy": "min", "params": "min"}},
        ),
    ],
)
def test_what_goes_together_is_let_through(compressor: str | None, data: dict[str, Any]) -> None:
    assert findings(compressor, **data) == []


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("rc.report(score=1, loss=2)\nreport(loss=3)", ("score", "loss")),
        ("rc.report(1.0)", None),
        ("rc.report(**values)", None),
        ("rc.report(score=1)\naup.print_result(1)", None),
        ("train()", None),
    ],
)
def test_the_metrics_that_a_script_reports_are_read_off_it(
    tmp_path: Path, script: str, names: tuple[str, ...] | None
) -> None:
    path = tmp_path / "train.py"
    path.write_text(script)
    assert reported_names(path) == names


def test_a_metric_that_nobody_reports_is_found(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text("rc.report(accuracy=1.0)")
    wanted = {"acuracy": "max", "macs": "min", "flops": "min", "f1": "max", "label": "max"}
    found = {metric: fix for metric, _, fix in check_reported(Objective.from_keys("max", wanted, {}), path, ("label",))}
    assert found == {
        "acuracy": 'did you mean "accuracy"?',
        "macs": 'did you mean "flops"?',
        "f1": "the script reports accuracy, label",
    }
    path.write_text("rc.report(1.0)")
    assert list(check_reported(Objective.from_keys("max", wanted, {}), path, ())) == []
