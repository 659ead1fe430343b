"""What following and slicing a network costs: how often it is called, and what ends an analysis that grows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.compressors.saving.fingerprint import fingerprint_of
from raycompress.compressors.structure.axes import allowance
from raycompress.compressors.structure.axes.atoms import AtomTable
from raycompress.compressors.structure.axes.recorder import record
from raycompress.compressors.structure.axes.sizes import AxisSize, TracedInt
from raycompress.compressors.structure.graph_cache import GraphCache
from raycompress.errors import CompressionError

IMAGE = torch.randn(1, 3, 6, 6)


class Counted(nn.Module):
    """A small network that counts the calls of itself and of its copies."""

    calls = 0
    samples: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        Counted.calls += 1
        Counted.samples.append(len(x))
        return self.head(torch.relu(self.norm(self.second(torch.relu(self.first(x))))).mean((2, 3)))


@pytest.fixture(autouse=True)
def _no_calls() -> Iterator[None]:
    torch.manual_seed(0)
    Counted.calls = 0
    yield


def compressor(model: nn.Module, example: Tensor = IMAGE):
    config = {"compressor": "group_l1", "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]}
    return create_compressor(model, config, dummy_input=example, round_to=1)


def test_a_model_that_is_sliced_at_once_is_checked_followed_and_proved_once() -> None:
    made = compressor(Counted())
    made.compress()
    small = made.apply_speedup()
    checked, followed, proved = 1, 2, 3 + 3
    assert Counted.calls == checked + followed + proved
    assert small.first.out_channels == 4


def test_weights_that_changed_since_are_proved_again_on_an_input_of_its_own() -> None:
    model = Counted()
    made = compressor(model)
    made.compress()
    before = Counted.calls
    with torch.no_grad():
        model.head.bias.add_(1)
    made.apply_speedup()
    assert Counted.calls == before + 2


def test_of_a_batch_one_sample_is_proved() -> None:
    Counted.samples = []
    made = compressor(Counted(), IMAGE.repeat(8, 1, 1, 1))
    made.compress()
    assert Counted.samples[-6:] == [1] * 6


def test_a_graph_is_kept_for_the_input_and_the_modules_that_it_was_made_of() -> None:
    model, example = Counted(), Example.from_dummy(IMAGE)
    graphs = GraphCache(model)
    graph = graphs.graph(example)
    assert graphs.graph(example) is graph
    with torch.no_grad():
        model.first.weight.mul_(2)
    assert graphs.graph(example) is graph
    other = graphs.graph(Example.from_dummy(IMAGE))
    assert other is not graph
    model.second = nn.Conv2d(8, 8, 1)
    assert graphs.graph(example) is not graph


def test_numbering_atoms_leaves_the_count_a_plain_number() -> None:
    table = AtomTable()
    axis = table.create(4)
    again = table.create(TracedInt.of(4, AxisSize(axis)))
    assert type(table.count) is int
    assert again.tolist() == [5, 6, 7, 8]


def test_components_that_were_returned_stay_as_they_are() -> None:
    table = AtomTable()
    axis = table.create(3)
    before = table.components()
    table.tie(axis[:1], axis[1:2], "a test")
    after = table.components()
    assert before.root.tolist() == [0, 1, 2, 3]
    assert after.root.tolist() == [0, 1, 1, 3]


def test_an_analysis_that_takes_too_long_says_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "SECONDS", 0.0)
    with pytest.raises(CompressionError, match=r'ended at convolution in "first"') as caught:
        compressor(Counted()).compress()
    assert "smaller dummy_input" in caught.value.problems[0].fix


def test_the_passes_of_the_network_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = allowance.Allowance(0.0)
    spent.check("nothing")
    with pytest.raises(CompressionError, match="ended at something"), spent.spending("something"):
        sum(range(1000))
    with pytest.raises(CompressionError):
        spent.check("what follows")


def test_what_meets_too_many_positions_keeps_its_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "POSITIONS", 7 * 9)

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8 * 9, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x).flatten(1))

    couplings = record(Flat(), lambda one: one(torch.randn(1, 3, 5, 5)))
    (reason,) = set(couplings.reason("conv.weight", 0))
    assert "72 positions meet at a time" in reason
    assert set(couplings.reason("conv.weight", 1)) != {reason}


def test_a_fingerprint_is_the_sums_of_the_elements_and_of_their_squares() -> None:
    tensors = {"long": torch.randn(3 << 20), "whole": torch.arange(6).reshape(2, 3).t(), "none": torch.zeros(0)}
    found = fingerprint_of(tensors)
    for name, tensor in tensors.items():
        values = tensor.double()
        assert found[name] == pytest.approx((float(values.sum()), float(values.square().sum())), abs=1e-6)
