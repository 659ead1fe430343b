"""The searches under a budget: their tables, and what other pruners leave."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from raycompress.bundle.example import Example
from raycompress.compressors.measure.sizes import flops
from tests.benchmarks.budgets import page
from tests.benchmarks.budgets.tables import Figures, key, outcome
from tests.benchmarks.compression.networks import NETWORKS, OUTPUTS
from tests.benchmarks.compression.tasks import Sources
from tests.benchmarks.peers import fastnas, one_shot
from tests.tables import marked

PLACE = ("resnet", 0.5)


def record(held_out: float | None, before: float = 0.1, note: str = "") -> dict[str, Any]:
    more = {} if held_out is None else {"before": before, "one_epoch": 0.5, "final_s": 1.0}
    return {"held_out": held_out, "epochs": 6, "cpu_s": 2.0, "note": note, **more}


@pytest.fixture
def known() -> dict[str, dict[str, Any]]:
    found = {
        "guided 16": (0.80, 0.82),
        "guided 1": (0.77, 0.79),
        "random 64": (0.78, 0.79),
        "uniform": (0.79, 0.79),
    }
    records = {key(*PLACE, row, seed): record(one) for row, values in found.items() for seed, one in enumerate(values)}
    records |= {key(*PLACE, "obs global compensated", seed): record(0.7, before=0.6) for seed in range(2)}
    return records | {key(*PLACE, "fastnas", 0): record(None, note="not installed: make peers")}


def test_differences_are_of_the_same_seed(known: dict[str, dict[str, Any]]) -> None:
    figures = Figures(known, 2, [PLACE])
    mean, error = figures.difference("guided 16", "random 64", PLACE) or (0.0, 0.0)
    assert mean == pytest.approx(0.025)
    assert error == pytest.approx(0.005)
    assert figures.difference("guided 16", "hyperopt 16", PLACE) is None


def test_targets_are_computed_and_failures_are_said(known: dict[str, dict[str, Any]]) -> None:
    rows = ["uniform", "obs global compensated", "fastnas", "random 64", "guided 1", "guided 16"]
    found = outcome(known, 2, [PLACE], rows)
    reached = {target.what: target.reached for target in found.targets}
    assert reached == {
        "resnet at 0.5: what guided 16 loses to the best, uniform": True,
        "resnet at 0.5: what obs global compensated loses, untrained, to the best one-shot peer, uniform": True,
        "share of places where guided 16 is not above all beyond one standard error": True,
        "share of places where guided 1 is not above random 64": False,
    }
    assert "resnet 0.5 fastnas: not installed: make peers" in found.notes
    assert ["fastnas, at the end", "not installed", "-", "-", "-"] in found.rows


def test_the_page_has_the_figures_that_are_kept() -> None:
    text = page.PAGE.read_text()
    assert marked.filled(text, page.parts(json.loads(page.KNOWN.read_text()))) == text


@pytest.mark.parametrize("network", ["mobilenet", "bert"])
def test_torch_pruning_ends_at_the_budget(network: str) -> None:
    torch.manual_seed(0)
    dense = NETWORKS[network]().eval()
    dummy = torch.zeros(1, 1, 8, 8) if network == "mobilenet" else torch.zeros(1, Sources.LENGTH, dtype=torch.long)
    example = Example.from_dummy(dummy)
    most = flops(dense, example)[""] // 2
    small = fastnas.fitted(dense, dense.state_dict())
    arguments: dict[str, Any] = {"outputs": OUTPUTS[network], "isomorphic": False, "most": 0.9, "steps": 50}
    one_shot.prune(small, dummy, lambda model: flops(model, example)[""], most, **arguments)
    assert 0.4 * most < flops(small, example)[""] <= most
    again = fastnas.fitted(dense, small.state_dict())
    assert torch.equal(small(dummy), again(dummy))


def test_no_piece_of_text_is_in_two_parts() -> None:
    tasks = [Sources(0), Sources(0), Sources(1)]
    assert torch.equal(tasks[0].held_out[0], tasks[1].held_out[0])
    assert not torch.equal(tasks[0].held_out[0], tasks[2].held_out[0])
    seen = {tuple(window) for piece in tasks[0].items.tolist() for window in _windows(piece)}
    assert not any(tuple(window) in seen for window in tasks[0].held_out[0].tolist())


def _windows(piece: list[int]) -> list[list[int]]:
    return [piece[start : start + Sources.LENGTH] for start in range(Sources.PIECE - Sources.LENGTH + 1)]
