"""The space of which every point is known: points of its table from scratch, and the searches of it."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import raycompress as rc
from raycompress.forecast.prior import Losses
from raycompress.forecast.solver import solve
from tests.benchmarks.enumerated.prior import curves_of, projection_of
from tests.benchmarks.enumerated.proposers import ENTRIES, evenly, fronts
from tests.benchmarks.enumerated.searches import ENOUGH, found, reached
from tests.benchmarks.enumerated.space import Task, front_of, hypervolume, largest_of, point_of
from tests.benchmarks.enumerated.subject import (
    BLOCK,
    N_CALIBRATION,
    Shape,
    accuracy,
    data,
    dense,
    fine_tune,
    quantizer,
)
from tests.benchmarks.enumerated.table import Bits, Point, Row, Table, measured, read

POINTS: tuple[Point, ...] = (
    (Shape((0.0, 0.75, 0.75, 0.5), keep=True), (8, 4)),
    (Shape((0.75, 0.75, 0.875, 0.75), keep=False), (8, 8)),
    (Shape((0.75, 0.5, 0.0, 0.875), keep=False), (32, 8)),
)
FOUR_BITS: Point = (Shape((0.0, 0.0, 0.0, 0.0), keep=True), (4, 8))
NEAR = 0.02
"""Other processors add up in another order, and end in slightly other weights: see docs/benchmarks.md."""
BEFORE_TABLE = {name: entry for name, entry in ENTRIES.items() if name != "guided"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def table() -> Table:
    return read()


@pytest.mark.parametrize(("shape", "bits"), POINTS, ids=["narrow", "narrowest", "shallow"])
def test_a_point_of_the_table_is_found_again(shape: Shape, bits: Bits, table: Table) -> None:
    kept, again = table[shape, bits], measured(shape, [bits])[bits]
    assert (again.params, again.flops) == (kept.params, kept.flops)
    assert again.size_bytes == pytest.approx(kept.size_bytes, rel=2e-3)
    assert again.accuracy == pytest.approx(kept.accuracy, abs=NEAR)
    assert again.cheap == pytest.approx(kept.cheap, abs=NEAR)


def test_the_bytes_of_a_point_whose_convolutions_have_four_bits_are_found_again(table: Table) -> None:
    """Not its accuracy, in which processors differ by up to a tenth."""
    shape, bits = FOUR_BITS
    kept, again = table[shape, bits], measured(shape, [bits])[bits]
    assert (again.params, again.flops) == (kept.params, kept.flops)
    assert again.size_bytes == pytest.approx(kept.size_bytes, rel=2e-3)
    assert again.cheap == pytest.approx(kept.cheap, abs=NEAR)


def test_the_points_that_are_found_again_differ_by_more_than_they_may() -> None:
    rows = [read()[point] for point in POINTS]
    accuracies = sorted(row.accuracy for row in rows)
    assert all(more - less > 3 * NEAR for less, more in itertools.pairwise(accuracies))


def test_stages_of_one_call_are_the_point_of_the_table(table: Table, tmp_path: Path) -> None:
    shape, bits = POINTS[2]
    inputs = data()[0][0]
    done = rc.compress(
        dense(),
        inputs[:1],
        ["group_l1", quantizer(bits)],
        config_list=shape.config_list,
        depth={"drop": [BLOCK]},
        round_to=1,
        evaluator=accuracy,
        finetune=fine_tune,
        calibration_data=inputs[:N_CALIBRATION],
        folder=tmp_path / "bundle",
    )
    kept = table[shape, bits]
    assert done.metric_after == pytest.approx(kept.accuracy, abs=NEAR)
    assert done.after["size_bytes"] == pytest.approx(kept.size_bytes, rel=2e-3)


def test_the_table_has_every_point_of_the_space_once(table: Table) -> None:
    assert len(table) == 4**4 * 2 * 3 * 3
    assert len({shape for shape, _ in table}) == 4**4 * 2
    front = front_of(table)
    assert len({bits for _, bits in front}) > 2 and {shape.keep for shape, _ in front} == {True, False}


def test_a_hypervolume_is_that_of_the_front_alone() -> None:
    rows = [Row(0.9, 1, 1, 100, 0.9), Row(0.7, 1, 1, 25, 0.7)]
    worse = [Row(0.69, 1, 1, 30, 0.7), Row(0.4, 1, 1, 5, 0.4), Row(0.99, 1, 1, 500, 0.9)]
    area = (0.9 - 0.5) * 2 + (0.7 - 0.5) * 2  # of accuracy by halvings of 400 bytes
    assert hypervolume(rows, 400) == pytest.approx(area * torch.log(torch.tensor(2.0)).item())
    assert hypervolume([*rows, *worse], 400) == hypervolume(rows, 400)


@pytest.mark.parametrize("name", sorted(BEFORE_TABLE))
def test_a_search_finds_more_with_more_trials_and_never_more_than_there_is(name: str) -> None:
    task = Task.whole()
    one = reached(BEFORE_TABLE[name], task, 0, (12, 60))
    few, many = one.shares
    assert 0 < few < many < 1
    assert (one.enough is None) == (many < ENOUGH or BEFORE_TABLE[name].plans)
    rows = found(BEFORE_TABLE[name], task, 0, 30)
    assert len(rows) == 30
    assert rows == found(BEFORE_TABLE[name], task, 0, 30)


def test_bytes_and_bit_operations_of_each_point_are_known_beforehand(table: Table) -> None:
    task = Task.whole()
    projection, errors = projection_of(task), []
    for sample in itertools.islice(task.space.grid(), 0, None, 37):
        sizes, row = projection.sizes(sample), task.row(sample)
        errors.append(abs(sizes["size_bytes"] / row.size_bytes - 1))
        assert (sizes["params"], sizes["flops"]) == (row.params, row.flops)
        _, bits = point_of(sample)
        assert (sizes["bit_operations"] == row.flops * 32 * 32) == (bits == (32, 32))
    assert statistics.median(errors) < 0.01


@pytest.mark.parametrize("share", [0.03, 0.06, 0.1, 0.2, 0.5])
def test_the_solver_finds_the_optimum_of_its_own_curves(share: float) -> None:
    task = Task.whole()
    level = projection_of(task).at("size_bytes", share)
    losses = Losses(curves_of(task), "max", task.space.guided)
    solution = solve(task.space.guided, losses.of, level.fits)
    every = [losses(sample) for sample in task.space.grid() if level.fits(sample)]
    assert solution.is_optimal and level.fits(solution.sample)
    assert solution.loss == pytest.approx(losses(solution.sample)) == pytest.approx(min(every))


@pytest.mark.night
def test_a_guided_search_finds_almost_all_with_a_fiftieth_of_the_points() -> None:
    task = Task.whole()
    guided, other = (reached(ENTRIES[name], task, 0, (len(task.table) // 50,)) for name in ("guided", "NSGA-II"))
    assert guided.shares[0] >= ENOUGH > other.shares[0]


def test_every_point_together_has_the_whole_hypervolume() -> None:
    task = Task.whole()
    largest = largest_of(task.table)
    front = [task.table[point] for point in front_of(task.table)]
    assert hypervolume(front, largest) == pytest.approx(hypervolume(task.table.values(), largest))
    assert {point_of(sample) for sample in task.space.grid()} == set(task.table)


def test_what_no_other_beats_is_quantized_first_evenly_along_the_front() -> None:
    task = Task.whole()
    samples = list(task.space.grid())[:200]
    found_before = [(sample, task.judge(task.row(sample))) for sample in samples]
    first, second, *_ = fronts(found_before)
    costs = {id(sample): judged for sample, judged in found_before}
    assert not any(costs[id(one)].dominates(costs[id(other)]) for one in first for other in first)
    assert all(any(costs[id(one)].dominates(costs[id(other)]) for one in first) for other in second)
    assert evenly(first, 2) == [first[0], first[-1]] and evenly(first, 1000) == first
