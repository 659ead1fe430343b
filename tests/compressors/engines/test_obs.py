"""group_obs: least squares by hand, channels that others stand for, and groups that nothing reads that it can see."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.compressors.compensation.readers import Reader
from raycompress.compressors.engines.torch_pruning.elimination import Fit, removal_order
from raycompress.compressors.engines.torch_pruning.noise import noise_sensitivities
from raycompress.compressors.engines.torch_pruning.obs import RemovalOrders
from raycompress.compressors.interface import Compressor
from raycompress.compressors.measure.difference import relative_difference
from tests.support.models.networks import DUMMY, digits, trained

CALIBRATION = list(digits()[0][:256].split(64))


def fit_of(inputs: Tensor, outputs: Tensor, places: list[list[int]], ridge: float = 0.0) -> Fit:
    """Return the fit of what `inputs` tell of `outputs`."""
    most = max(map(len, places))
    inverse = torch.linalg.inv(inputs.T @ inputs + ridge * torch.eye(inputs.size(1), dtype=inputs.dtype))
    filled = torch.tensor([one + [-1] * (most - len(one)) for one in places])
    return Fit(inverse, inverse @ inputs.T @ outputs, filled)


def error_of(inputs: Tensor, outputs: Tensor, left: list[int]) -> float:
    """Return the sum of squared errors of the best prediction by some of the inputs."""
    return float((outputs - inputs[:, left] @ torch.linalg.pinv(inputs[:, left]) @ outputs).square().sum())


def test_costs_are_what_least_squares_loses_and_the_cheapest_block_goes() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = (torch.randn(60, n, dtype=torch.float64, generator=generator) for n in (10, 3))
    others = torch.randn(40, 5, dtype=torch.float64, generator=generator), outputs[:40]
    places = [[0, 4], [1], [2, 5, 7], [3, 6]]  # inputs 8 and 9 belong to no block
    others_places = [[1], [0, 2], [], [3]]
    layers = [(inputs, outputs, places), (*others, others_places)]
    left, gone = list(range(4)), []
    for block, cost in removal_order([fit_of(*layer) for layer in layers], 4):
        costs = {}
        for candidate in left:
            costs[candidate] = 0.0
            for x, y, of in layers:
                before, after = (
                    [one for one in range(x.size(1)) if all(one not in of[removed] for removed in which)]
                    for which in (gone, [*gone, candidate])
                )
                costs[candidate] += error_of(x, y, after) - error_of(x, y, before)
        assert block == min(costs, key=costs.__getitem__)
        assert cost == pytest.approx(costs[block])
        gone.append(block)
        left.remove(block)
    assert not left


def test_of_two_that_stand_for_each_other_one_goes_though_several_go_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    half, weight = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((600, 100), (100, 4)))
    inputs = torch.cat([half, half + 1e-4 * torch.randn(half.shape, dtype=half.dtype, generator=generator)], 1)
    order = list(removal_order([fit_of(inputs, half @ weight, [[place] for place in range(200)], 0.01)], 200))
    assert sorted(block for block, _ in order) == list(range(200))
    assert sorted(block % 100 for block, _ in order[:100]) == list(range(100))
    assert sum(cost for _, cost in order[:100]) < 1e-3 * sum(cost for _, cost in order[100:])


def pruner_of(model: nn.Module, layer: str, compressor: str = "group_obs", **arguments: Any) -> Compressor:
    config = {
        "compressor": compressor,
        "config_list": [{"sparsity": 0.5, "op_names": [layer]}],
        "arguments": {"round_to": 1, **arguments},
    }
    return create_compressor(model, config, dummy_input=DUMMY, calibration=CALIBRATION)


DOUBLED = {"cnn": ["conv1"], "resnet": ["layer1.0.conv1", "layer1.0.bn1"], "mlp": ["fc1"], "vit": ["blocks.0.fc1"]}


@pytest.mark.parametrize("network", DOUBLED)
def test_of_doubled_channels_one_goes_and_its_twin_stands_for_it(network: str) -> None:
    model, images = trained(network).eval(), digits()[0][256:320]
    for name in DOUBLED[network]:
        module = model.get_submodule(name)
        for tensor in (*module.parameters(), *(one for one in module.buffers() if one.dim())):
            half = len(tensor) // 2
            tensor.data[half:] = tensor.data[:half]
    dense, differences = model(images), {}
    for compressor in ("group_obs", "group_l1"):
        one = copy.deepcopy(model)
        pruner = pruner_of(one, DOUBLED[network][0], compressor)
        pruner.compress()
        pruner.apply_speedup()
        differences[compressor] = relative_difference([dense], [one.eval()(images)])
    assert differences["group_obs"] < min(0.02, differences["group_l1"]), differences


def test_what_nothing_reads_that_can_be_refitted_goes_by_group_l1_and_says_so() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 1, 2, 2))
    pruner = pruner_of(model, "0")
    other = copy.deepcopy(model)
    pruner.compress()
    l1 = {"compressor": "group_l1", "config_list": [{"sparsity": 0.5, "op_names": ["0"]}], "arguments": {"round_to": 1}}
    by_weights = create_compressor(other, l1, dummy_input=DUMMY)
    by_weights.compress()
    removal, expected = (one._slicing.removal for one in (pruner, by_weights))  # type: ignore[attr-defined]
    assert removal.channels == expected.channels
    (note,) = removal.notes
    assert note == "group_obs: no layer that reads the channels of 0 can be refitted: they go by group_l1"


class Branches(nn.Module):
    """Two branches alike, of which the outputs hardly show the one."""

    def __init__(self) -> None:
        super().__init__()
        self.faint, self.faint_out = nn.Linear(16, 24), nn.Linear(24, 16)
        self.loud, self.loud_out = nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        faint = 0.02 * self.faint_out(torch.relu(self.faint(x)))
        found: Tensor = self.head(faint + self.loud_out(torch.relu(self.loud(x))))
        return found


@pytest.mark.parametrize(
    "arguments",
    [{"global": True}, {"isomorphic": True}, {"global": True, "steps": 3}],
    ids=["global", "isomorphic", "in three steps"],
)
def test_across_groups_first_goes_what_the_outputs_show_least(arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, inputs = Branches(), torch.randn(128, 16)
    config = {
        "compressor": "group_obs",
        "config_list": [{"sparsity": 0.4, "op_names": ["faint", "loud"]}],
        "arguments": {"round_to": 1, **arguments},
    }
    pruner = create_compressor(model, config, dummy_input=inputs[:1], calibration=[inputs])
    pruner.compress()
    small = pruner.apply_speedup()
    assert small.faint.out_features + small.loud.out_features == 48 - int(0.4 * 48)
    assert small.loud.out_features >= 23


def test_noise_counts_for_less_where_the_outputs_hardly_show_it_and_readers_without_an_answer_are_left_out() -> None:
    torch.manual_seed(0)
    model, batch = Branches(), Example.from_dummy(torch.randn(40, 16))
    readers = [Reader(name, name) for name in ("faint_out", "loud_out", "head")]
    found = noise_sensitivities(model, readers, batch)
    assert found["faint_out"] < 0.01 * found["loud_out"]
    assert 0.5 < found["head"] < 2  # the outputs themselves, relative to their norm
    assert found == noise_sensitivities(model, readers, batch)
    assert noise_sensitivities(Kept(model), [Reader("inner.head", "inner.head")], batch) == {}


def test_what_cannot_be_measured_counts_as_the_mean_of_what_can() -> None:
    orders = RemovalOrders(Branches(), [], [], across=True)
    assert orders._sensitivity("loud_out") == 1.0
    orders._sensitivities = {"faint_out": 0.2, "loud_out": 0.4}
    assert orders._sensitivity("loud_out") == 0.4
    assert orders._sensitivity("of a detector's boxes") == pytest.approx(0.3)


class Kept(nn.Module):
    """Puts out the rows above zero, as a detector does with boxes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x)
        return found[found.sum(1) > 0]
