"""Models that sort and select by nearly equal numbers are compared as if they had decided alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.compressors.structure.decisions import choosing_operators, difference_of_same_decisions

NEARLY = torch.ones(2, 9) + 1e-6 * torch.arange(9)
OTHERS = torch.arange(18.0).reshape(2, 9)


class Selecting(nn.Module):
    """Selects by scores that are given, in one of several ways; `noise` and `factor` make it another model."""

    def __init__(self, way: str, noise: float = 0.0, factor: float = 1.0) -> None:
        super().__init__()
        self.way, self.noise, self.factor = way, noise, factor

    def forward(self, scores: Tensor, boxes: Tensor) -> Any:
        scores = scores + self.noise * torch.arange(9.0).flip(0)
        boxes = boxes * self.factor
        if self.way == "topk":
            best, places = scores.topk(4, dim=1)
            return best, boxes.gather(1, places)
        if self.way == "sort":
            best, places = scores.sort(dim=-1, descending=True)
            return best, boxes.gather(1, places)
        if self.way == "max":
            best, places = scores.max(1)
            return best, boxes.gather(1, places[:, None])
        if self.way == "threshold":
            return boxes[scores > float(NEARLY.mean())]
        if self.way == "where":
            return boxes[torch.where((scores * 1e6).round() > 1000004)]
        return scores.argmax(dim=1)


WAYS = ["topk", "sort", "max", "threshold", "where", "argmax"]
EXAMPLE = Example((NEARLY, OTHERS), {})


@pytest.mark.parametrize("way", WAYS)
def test_what_nearly_equal_numbers_select_is_compared_as_if_both_had_selected_alike(way: str) -> None:
    one, two = Selecting(way), Selecting(way, noise=2e-6)
    plain = relative_difference(EXAMPLE.outputs(one), EXAMPLE.outputs(two))
    assert not plain <= 0.01
    assert difference_of_same_decisions(one, two, EXAMPLE) < TOLERANCE
    assert difference_of_same_decisions(one, one, EXAMPLE) == 0


@pytest.mark.parametrize("way", WAYS)
def test_what_they_select_by_has_to_be_the_same(way: str) -> None:
    assert difference_of_same_decisions(Selecting(way), Selecting(way, noise=0.1), EXAMPLE) > 0.01


@pytest.mark.parametrize("way", WAYS[:5])
def test_what_they_select_has_to_be_the_same(way: str) -> None:
    assert difference_of_same_decisions(Selecting(way), Selecting(way, factor=1.1), EXAMPLE) > 0.01


def test_models_that_decide_nothing_or_not_alike_are_not_excused() -> None:
    plain = Example((torch.randn(2, 9),), {})
    assert difference_of_same_decisions(nn.Linear(9, 2), nn.Linear(9, 2), plain) == float("inf")
    assert difference_of_same_decisions(Selecting("topk"), Selecting("sort"), EXAMPLE) == float("inf")


def test_the_operators_that_choose_are_named() -> None:
    named = {way: choosing_operators(Selecting(way), EXAMPLE) for way in WAYS}
    assert named == {
        "topk": ["topk"],
        "sort": ["sort"],
        "max": ["max"],
        "threshold": [],
        "where": [],
        "argmax": ["argmax"],
    }
