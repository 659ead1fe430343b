"""Networks whose channels meet in other ways: concatenation, reuse, grouped convolutions, nested inputs and outputs."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.errors import CompressionError
from tests.support.models.networks import CONVOLUTIONS, DUMMY, Cnn


class Concatenated(nn.Module):
    """One half of c is tied to a, the other to b."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(16, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        both = torch.cat([a, F.relu(self.b(a))], 1)
        return self.fc((self.bn(self.c(both)) + both).mean([2, 3]))


class Reused(nn.Module):
    """b reads its own output, so its inputs and outputs are tied, to a's as well."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.relu(self.b(F.relu(self.a(x)))))).mean([2, 3]))


class Padded(nn.Module):
    """A shortcut without parameters: a's channels meet the middle ones of c's, zeros the others."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 16, 3, 2, 1)
        self.c = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        short = F.pad(a[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.fc(F.relu(self.c(F.relu(self.b(a))) + short).mean([2, 3]))


class Frozen(Cnn):
    def __init__(self) -> None:
        super().__init__()
        self.conv1.requires_grad_(False)


class Nested(Cnn):
    def forward(self, x: Tensor, scale: float = 1.0, mask: Tensor | None = None) -> dict[str, Any]:  # type: ignore[override]
        logits = super().forward(x)
        return {"logits": logits * scale, "more": [logits.sum(1)]}


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.relu(self.a(x)))).mean([2, 3]))


CELLS = {
    "grouped": (Grouped, DUMMY),
    "concatenated": (Concatenated, DUMMY),
    "reused": (Reused, DUMMY),
    "frozen": (Frozen, DUMMY),
    "padded": (Padded, DUMMY),
    "nested": (Nested, {"x": DUMMY, "scale": 2.0, "mask": None}),
}


@pytest.mark.parametrize("name", CELLS)
def test_masked_equals_sliced(name: str) -> None:
    kind, dummy = CELLS[name]
    torch.manual_seed(0)
    model = kind()
    frozen = [parameter.requires_grad for parameter in model.parameters()]
    pruner = create_compressor(
        model, {"compressor": "l1_filter", "config_list": CONVOLUTIONS}, dummy_input=copy.deepcopy(dummy)
    )
    pruner.compress()
    torch.save(model, io.BytesIO())  # the hooks can be pickled along
    masked = copy.deepcopy(model)
    pruner.apply_speedup()
    example = Example.from_dummy(dummy)
    for one in (example, example.random(3), example.random(4)):
        assert relative_difference(one.outputs(masked), one.outputs(model)) <= TOLERANCE
    assert [parameter.requires_grad for parameter in model.parameters()] == frozen
    for removed, of in pruner._slicing.removal.counts().values():  # type: ignore[attr-defined]
        assert 1 <= removed <= of // 2


class Unused(Cnn):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Conv2d(4, 4, 1)


def test_what_takes_no_part_is_named() -> None:
    pruner = create_compressor(Unused(), {"compressor": "l1_filter", "config_list": CONVOLUTIONS}, dummy_input=DUMMY)
    with pytest.raises(CompressionError, match='"extra" takes no part in the forward pass'):
        pruner.compress()
