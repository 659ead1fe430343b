"""Sizes that a forward pass writes: attributes that count an axis, parts of a tensor, widths that are computed with."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raycompress.compressors.structure.axes.recorder import Couplings, record
from raycompress.compressors.structure.axes.sizes import Attribute, AttributeSize, TracedInt
from tests.compressors.structure.test_axes import followed, groups, tied
from tests.zoo.slicing import answers, choose, masked, sliced


def attributes(couplings: Couplings) -> set[str]:
    return {str(attribute) for attribute in couplings.sizes}


def assert_sliced_is_masked(model: nn.Module, couplings: Couplings, *inputs: Tensor) -> None:
    gone = choose(couplings)
    assert len(gone)
    small = sliced(model, couplings, gone)
    one, two = (answers(each, lambda each: [each(*inputs)]) for each in (small, masked(model, couplings, gone)))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


class Uneven(nn.Module):
    """Parts of different lengths, held in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.wide, self.narrow = nn.Linear(4, 9), nn.Linear(6, 2), nn.Linear(3, 2)
        self.parts = (6, 3)

    def forward(self, x: Tensor) -> Tensor:
        wide, narrow = self.one(x).split(self.parts, dim=-1)
        return self.wide(wide) + self.narrow(narrow)


class Sliced(Uneven):
    """The same by slices."""

    def __init__(self) -> None:
        super().__init__()
        self.first = 6

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        return self.wide(x[..., : self.first]) + self.narrow(x[..., self.first :])


class Halves(nn.Module):
    """Two halves of different use, the length of one computed from the attribute of both."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.left, self.right = nn.Linear(4, 8), nn.Linear(4, 2), nn.Linear(4, 2)
        self.width = 8

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.one(x).split(self.width // 2, dim=-1)
        return self.left(left) + self.right(right)


@pytest.mark.parametrize(
    ("kind", "named", "free"),
    [
        (Uneven, {"parts[0]", "parts[1]"}, [[place] for place in range(9)]),
        (Sliced, {"first"}, [[place] for place in range(9)]),
        (Halves, {"width"}, [[place, place + 4] for place in range(4)]),
    ],
)
def test_parts_whose_lengths_are_attributes_lose_channels(kind: type[nn.Module], named: set[str], free: Any) -> None:
    torch.manual_seed(0)
    model, inputs = kind(), torch.randn(3, 4)
    couplings = followed(model, inputs)
    assert attributes(couplings) == named
    assert groups(couplings, "one.weight") == free
    assert_sliced_is_masked(model, couplings, inputs)


class HalvesOfShape(Halves):
    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        half = x.shape[-1] // 2
        return self.left(x[..., :half]) + self.right(x[..., half:])


def test_halves_of_a_shape_keep_equal_lengths() -> None:
    torch.manual_seed(0)
    model, inputs = HalvesOfShape(), torch.randn(3, 4)
    couplings = followed(model, inputs)
    assert groups(couplings, "one.weight") == [[place, place + 4] for place in range(4)]
    assert_sliced_is_masked(model, couplings, inputs)


class LiteralParts(Uneven):
    def forward(self, x: Tensor) -> Tensor:
        wide, narrow = self.one(x).split([6, 3], dim=-1)
        return self.wide(wide) + self.narrow(narrow)


def test_parts_whose_lengths_are_literals_stay() -> None:
    couplings = followed(LiteralParts(), torch.randn(3, 4))
    assert groups(couplings, "one.weight") == []
    assert {"the size 6", "the size 3"} == {reason[:10] for reason in couplings.reason("one.weight", 0)}


class FirstOfAll(Uneven):
    """One channel of its own beside the others."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.wide = (1, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        gate, wide = self.one(x).split(self.parts, dim=-1)
        return self.wide(wide) * gate


def test_a_part_of_one_element_stays() -> None:
    couplings = followed(FirstOfAll(), torch.randn(3, 4))
    assert groups(couplings, "one.weight") == [[place] for place in range(1, 9)]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_the_width_of_a_recurrent_layer_is_an_axis(kind: Any) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.middle, self.two = nn.Linear(4, 6), kind(6, 8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.middle(self.one(x))[0])

    torch.manual_seed(0)
    model, inputs = Recurrent(), torch.randn(2, 5, 4)
    couplings = followed(model, inputs)
    assert attributes(couplings) == {'input_size of "middle"', 'hidden_size of "middle"'}
    gates = model.middle.weight_hh_l0.shape[0] // 8
    assert len(groups(couplings, "middle.weight_ih_l0")) == 8
    assert groups(couplings, "middle.weight_ih_l0")[0] == [8 * gate for gate in range(gates)]
    assert tied(couplings, "two.weight", "middle.weight_hh_l1", 1, 1)
    assert_sliced_is_masked(model, couplings, inputs)


class Scaled(nn.Module):
    """Divides by the root of a width that it takes from a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return x / math.sqrt(x.shape[-1])


def test_a_width_that_is_computed_with_stays() -> None:
    couplings = followed(nn.Sequential(nn.Linear(4, 6), Scaled(), nn.Linear(6, 2)), torch.randn(3, 4))
    assert groups(couplings, "0.weight") == []
    assert "a computation with the size" in couplings.reason("0.weight", 0)[0]


def test_padding_in_space_leaves_channels_as_they_are() -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 1), nn.ConstantPad2d(1, 0.5), nn.ReflectionPad2d(1), nn.Conv2d(6, 2, 1))
    couplings = followed(model, torch.randn(2, 1, 4, 4))
    assert groups(couplings, "0.weight") == [[place] for place in range(6)]
    assert_sliced_is_masked(model, couplings, torch.randn(2, 1, 5, 5))


class Buffered(nn.Module):
    """Writes into a tensor that it makes as wide as an attribute says."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.width = nn.Linear(4, 6), nn.Linear(6, 2), 6

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 3, self.width)
        state[:, 1] = self.one(x)
        return self.two(state)


def test_a_tensor_that_is_made_follows_the_attribute_that_it_is_as_wide_as() -> None:
    torch.manual_seed(0)
    model, inputs = Buffered(), torch.randn(3, 4)
    couplings = followed(model, inputs)
    assert attributes(couplings) == {"width"}
    assert groups(couplings, "one.weight") == [[place] for place in range(6)]
    assert_sliced_is_masked(model, couplings, inputs)


@pytest.mark.parametrize("layer", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
def test_layers_of_torch_s_own_transformer_lose_the_same_positions_of_each_head(layer: Any) -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.layer, self.two = nn.Linear(4, 12), layer(12, 3, 8, 0.0, batch_first=True), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            return self.two(self.layer(x, x) if isinstance(self.layer, nn.TransformerDecoderLayer) else self.layer(x))

    torch.manual_seed(0)
    model, inputs = Stack(), torch.randn(2, 5, 4)
    couplings = followed(model, inputs)
    assert groups(couplings, "one.weight") == [[place, place + 4, place + 8] for place in range(4)]
    assert Attribute("layer.self_attn", "embed_dim") in couplings.sizes
    small = sliced(model, couplings, np.unique(couplings.of("one.weight", 0)[:2]))
    assert (small.layer.self_attn.num_heads, small.layer.self_attn.head_dim) == (3, 2)
    assert answers(small, lambda one: [one(inputs)])[0].shape == (2, 5, 2)


class Experts(nn.Module):
    """Products with the matrices of two experts, of a table of rows that are sorted by expert."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = (nn.Parameter(torch.randn(2, *shape)) for shape in ((8, 16), (16, 8)))

    def forward(self, x: Tensor) -> Tensor:
        ends = torch.tensor([2, len(x)], dtype=torch.int32)
        hidden = torch._grouped_mm(x.bfloat16(), self.up.bfloat16(), offs=ends).relu()
        return torch._grouped_mm(hidden, self.down.bfloat16(), offs=ends)


@pytest.mark.skipif(not hasattr(torch, "_grouped_mm"), reason="this torch has no grouped product")
def test_experts_lose_the_same_channels() -> None:
    couplings = followed(Experts(), torch.randn(5, 8))
    assert groups(couplings, "up", 2) == groups(couplings, "down", 1) == [[place] for place in range(16)]
    assert tied(couplings, "up", "down", 2, 1)
    assert groups(couplings, "up", 0) == []


def test_a_traced_integer_is_an_int_and_attributes_are_plain_again() -> None:
    model = Halves()
    seen = []
    handle = model.one.register_forward_hook(lambda *_args: seen.append(model.width))
    record(model, lambda one: one(torch.randn(3, 4)))
    handle.remove()
    assert type(model.width) is int
    traced = seen[0]
    assert isinstance(traced, TracedInt) and traced.expression == AttributeSize(Attribute("", "width"), 8)
    assert (traced + 1, 2 * traced, traced // 3, traced % 3, traced**2, traced / 2) == (9, 16, 2, 2, 64, 4.0)
    assert type(copy.deepcopy(traced)) is int and {traced: 1}[8] == 1 and traced == 8
    assert list(range(traced)) == list(np.arange(8))


class Keeping(Halves):
    """Keeps what it computed from an attribute."""

    def forward(self, x: Tensor) -> Tensor:
        self.half, self.both = self.width // 2, [self.width, 1]
        return super().forward(x)


def test_what_forward_keeps_is_a_plain_integer() -> None:
    model = Keeping()
    followed(model, torch.randn(3, 4))
    assert [type(value) for value in (model.half, *model.both)] == [int] * 3


def test_a_compiled_model_is_followed_without_compiling_it() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    couplings = followed(torch.compile(model), torch.randn(3, 4))
    assert groups(couplings, "_orig_mod.0.weight") == [[place] for place in range(6)]
