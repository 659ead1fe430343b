"""The latency of a target by whole networks: real ones, cut, converted and timed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.analysis.fits.latency_model import FEWEST, Networks, latency_model, undisturbed
from raycompress.compressors.deploying.deploy import Deployment
from raycompress.compressors.structure.costing import cost_model
from raycompress.compressors.structure.cut import Cut
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.compressors.structure.groups import channel_groups
from raycompress.deployment.target import DeploymentTarget
from raycompress.model.latency_model import latency_predictor
from tests.support.models.networks import DUMMY, NETWORKS

EXAMPLE = Example.from_dummy(DUMMY)


@pytest.mark.parametrize(
    ("network", "kinds"),
    [
        ("mobilenet", {"spatial", "pointwise", "depthwise", "fused"}),
        ("torch_vit", {"spatial", "pointwise", "norm"}),
    ],
)
def test_networks_are_timed_in_the_runtime_and_others_predicted(network: str, kinds: set[str]) -> None:
    torch.manual_seed(0)
    model = NETWORKS[network]().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    steps: list[tuple[int, int]] = []
    target = DeploymentTarget("onnxruntime")
    found = latency_model(
        model, EXAMPLE, target, budget_s=0, progress=lambda done, total, _what: steps.append((done, total))
    )
    assert found.accuracy.networks == FEWEST
    assert [done for done, _ in steps] == [*range(FEWEST + 1), 0]
    assert {work.kind for work in found.works} == kinds
    costs = cost_model(model, EXAMPLE)
    assert {work.name for work in found.works} == {width.name for width in costs.widths}
    assert found.predict({}) == found.dense_ms["latency_ms"] > 0
    assert latency_predictor(json.loads(json.dumps(found.to_json()))) == found
    # the bytes of a file are known whatever else the machine does
    graph = ChannelGraph(model, EXAMPLE)
    groups = list(channel_groups(graph))
    cut, removed = Cut(graph), [group.size // 2 for group in groups]
    for group, count in zip(groups, removed, strict=True):
        cut.remove(group.root, [channel for block in group.root_blocks[:count] for channel in block])
    with Deployment(target, EXAMPLE) as deployment:
        size = deployment.deploy(cut.small(), "half").size_bytes
    assert found.file_bytes(costs.sizes(removed)["size_bytes"]) == pytest.approx(size, rel=0.03)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())


class Wide(nn.Module):
    """Wide enough that a narrow one is faster, whatever else the machine does."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor] = torch.relu) -> None:
        super().__init__()
        self._between = between
        self.convs = nn.ModuleList(nn.Conv2d(inputs, 128, 3, padding=1) for inputs in (1, 128, 128, 128))
        self.fc = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = self._between(conv(x))
        return self.fc(x.mean([2, 3]))


def test_narrower_networks_are_predicted_to_be_faster() -> None:
    torch.manual_seed(0)
    found = latency_model(Wide(), EXAMPLE, DeploymentTarget("onnxruntime"), budget_s=0)
    widths = [
        {work.name: (max(1, work.width[0] // part), work.width[1] // part) for work in found.works}
        for part in (1, 2, 4, 8)
    ]
    shares = [found.share(one) for one in widths]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.4


def test_a_fit_is_found_again_for_the_same_operations_and_shapes_whatever_the_weights_are() -> None:
    with Deployment(DeploymentTarget("onnxruntime"), EXAMPLE) as deployment:
        found = [Networks(net, EXAMPLE).identity(deployment) for net in (Wide(), Wide(), Wide(torch.tanh))]
        example = Example.from_dummy(torch.randn(1, 1, 6, 6))
    with Deployment(DeploymentTarget("onnxruntime"), example) as deployment:
        found.append(Networks(Wide(), example).identity(deployment))
    with Deployment(DeploymentTarget("onnxruntime", threads=2), EXAMPLE) as deployment:
        found.append(Networks(Wide(), EXAMPLE).identity(deployment))
    assert found[0] == found[1]
    assert len(set(found)) == 4


def test_the_undisturbed_time_is_among_the_fastest_passes() -> None:
    times = [(1.0 + place, 10.0 + place) for place in range(11)]
    assert undisturbed(times, cpu=False) == 2.0
    assert undisturbed(times, cpu=True) == 11.0
